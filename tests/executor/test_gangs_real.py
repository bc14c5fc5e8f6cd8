"""Calls that run on several workers at once, on a real node."""

from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path
from typing import Any

import pytest

import distpool
from distpool import DistExecutor


def meet(folder):
    """Each waits until all are there."""
    me = distpool.gang()
    Path(folder, str(me.rank)).touch()
    deadline = time.monotonic() + 20
    while len(os.listdir(folder)) < me.size:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return me.rank, me.size, me.local_rank, me.local_size, set(me.hosts) == {socket.gethostname()}


def wait_or_raise(folder):
    if distpool.gang().rank == 1:
        raise LookupError("rank 1 gives up")
    while True:
        time.sleep(0.01)


def die_once(folder):
    me = distpool.gang()
    marker = Path(folder, "died")
    if me.rank == 2 and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return meet(str(Path(folder, "meeting")))[0]


def total(parts):
    return sum(part[0] for part in parts)


def in_a_gang():
    return distpool.gang().size


def everyone(count):
    return [(rank, count, rank, count, True) for rank in range(count)]


def test_all_run_at_the_same_time_and_know_their_ranks(tmp_path: Path) -> None:
    with DistExecutor(4) as executor:
        assert executor.with_options(gang=3).submit(meet, str(tmp_path)).result(40) == everyone(3)
        # Ordinary calls go on beside it, and know nothing of gangs.
        assert executor.submit(in_a_gang).result(40) == 1


def test_a_gang_is_used_again_and_its_results_can_be_arguments(tmp_path: Path) -> None:
    with DistExecutor(3) as executor:
        gang = executor.with_options(gang=3)
        futures = []
        for number in range(3):
            (tmp_path / str(number)).mkdir()
            futures.append(gang.submit(meet, str(tmp_path / str(number))))
        assert executor.submit(total, futures[2]).result(40) == 3
        assert [future.result(40) for future in futures] == [everyone(3)] * 3


def test_when_one_raises_the_call_fails_at_once_with_that(tmp_path: Path) -> None:
    with DistExecutor(3) as executor:
        gang = executor.with_options(gang=3)
        with pytest.raises(LookupError, match="rank 1 gives up"):
            gang.submit(wait_or_raise, str(tmp_path)).result(40)
        # And the next one runs.
        assert len(gang.submit(in_a_gang).result(40)) == 3


def test_when_one_dies_all_run_again(tmp_path: Path) -> None:
    (tmp_path / "meeting").mkdir()
    with DistExecutor(3) as executor:
        assert executor.with_options(gang=3).submit(die_once, str(tmp_path)).result(40) == [0, 1, 2]


def test_when_one_may_not_die_again_the_call_fails(tmp_path: Path) -> None:
    (tmp_path / "meeting").mkdir()
    with DistExecutor(3) as executor:
        future = executor.with_options(gang=3, max_retries=0).submit(die_once, str(tmp_path))
        with pytest.raises(distpool.WorkerDiedError):
            future.result(40)


def test_a_gang_that_is_too_large_for_its_pool() -> None:
    with DistExecutor(2) as executor, pytest.raises(distpool.InfeasibleError, match="its pool has 2"):
        executor.with_options(gang=3).submit(in_a_gang).result(40)


def test_chunks_are_no_gangs() -> None:
    with DistExecutor(2) as executor:
        gang = executor.with_options(gang=2)
        assert list(gang.map(len, ["a", "bc"])) == [[1, 1], [2, 2]]
        with pytest.raises(ValueError, match="by itself"):
            list(gang.map(len, ["a", "bc"], chunksize=2))


@pytest.mark.parametrize(("value", "error"), [(0, ValueError), (-1, ValueError), (1.5, TypeError), (True, TypeError)])
def test_sizes_that_make_no_sense(value: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        distpool.options(gang=value).__enter__()


def test_outside_of_any_call_one_is_alone() -> None:
    me = distpool.gang()
    assert (me.rank, me.size, me.local_rank, me.local_size) == (0, 1, 0, 1)
