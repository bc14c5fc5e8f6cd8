"""Workers that die in every way that there is: what the future is told, and that nobody else notices."""

from __future__ import annotations

import ctypes
import fcntl
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import msgspec
import pytest

import distpool
from distpool import DistExecutor, WorkerDiedError
from distpool.driver import post_mortem
from distpool.driver.state import WorkerExit
from distpool.worker import context as worker_context


def double(x: int) -> int:
    return 2 * x


def segmentation_fault() -> None:
    ctypes.string_at(0)


def leave_at_once() -> None:
    os.write(2, b"native words\n")
    sys.stderr.write("python words\n")
    os._exit(7)


def kill_oneself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def abort() -> None:
    os.abort()


class Endless:
    """Its ``repr`` recurses through C code."""

    def __repr__(self) -> str:
        return repr([self])


def overflow_the_c_stack() -> str:
    # A small stack, so that it ends soon; no limit, so that Python does not end it first.
    resource.setrlimit(resource.RLIMIT_STACK, (1 << 20, resource.getrlimit(resource.RLIMIT_STACK)[1]))
    raise_limit()
    return deeper(0)


def raise_limit() -> None:
    sys.setrecursionlimit(1 << 30)


def deeper(depth: int) -> str:
    # Through C each time: ``sorted`` calls its key.
    return sorted([depth], key=lambda depth: deeper(depth + 1))


def recurse(depth: int = 0) -> int:
    return recurse(depth + 1) + 1


def leave() -> None:
    sys.exit(4)


def start_an_endless_thread() -> int:
    threading.Thread(target=threading.Event().wait).start()
    return os.getpid()


WAYS = [
    (segmentation_fault, ("SIGSEGV", "in segmentation_fault", "native code")),
    (leave_at_once, ("exit code 7", "native words", "python words", "os._exit")),
    (kill_oneself, ("SIGKILL", "killed from outside")),
    (abort, ("SIGABRT", "in abort")),
    (overflow_the_c_stack, ("SIGSEGV", "in deeper", "went too deep")),
]


@pytest.fixture
def nobody_is_killed_for_memory() -> Iterator[None]:
    """The kernel counts such kills for the whole machine, where another run may be testing them at this moment (see
    ``control_group`` in ``test_memory``)."""
    groups = Path("/sys/fs/cgroup")
    legacy = groups / "memory"
    try:
        lock = os.open(legacy if (legacy / "memory.limit_in_bytes").exists() else groups, os.O_RDONLY)
    except OSError:
        yield  # nor can there be such a test
        return
    fcntl.flock(lock, fcntl.LOCK_SH)
    yield
    os.close(lock)


@pytest.mark.fresh_session  # a node counts from its beginning
@pytest.mark.parametrize(("function", "words"), WAYS, ids=[function.__name__ for function, _ in WAYS])
def test_the_error_says_all_that_is_known(
    nobody_is_killed_for_memory: None, function: Callable[[], object], words: tuple[str, ...]
) -> None:
    if function is overflow_the_c_stack and sys.version_info >= (3, 12):
        pytest.skip("Python 3.12 and newer raise RecursionError before the C stack is full")
    with DistExecutor(2) as executor:
        with distpool.options(max_retries=1):
            future = executor.submit(function)
        neighbours = [executor.submit(double, number) for number in range(50)]
        error = future.exception(60)
        assert isinstance(error, WorkerDiedError)
        assert isinstance(error, BrokenExecutor)
        text = str(error)
        for part in (f".{function.__name__} in ", "each of 2 attempts", "on node ", "peak memory", *words):
            assert part in text
        assert "runner.py" not in text, "frames of ours say nothing to the user"
        assert [future.result(60) for future in neighbours] == [2 * number for number in range(50)]
        assert executor.submit(double, 4).result(60) == 8


def test_what_ends_a_task_and_no_worker() -> None:
    with DistExecutor(1) as executor:
        pid = executor.submit(os.getpid).result(60)
        assert isinstance(executor.submit(recurse).exception(60), RecursionError)
        assert isinstance(executor.submit(leave).exception(60), SystemExit)
        assert executor.submit(os.getpid).result(60) == pid


def test_a_thread_that_never_ends_keeps_nobody(run_script: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    with DistExecutor(1) as executor:
        pid = executor.submit(start_an_endless_thread).result(60)
        assert executor.submit(os.getpid).result(60) == pid, "the worker goes on beside it"
    assert not os.path.exists(f"/proc/{pid}")


@pytest.mark.parametrize("retries", [0, 2])
def test_it_is_tried_so_often_and_no_more(tmp_path, retries: int) -> None:
    with DistExecutor(2) as executor, distpool.options(max_retries=retries):
        future = executor.submit(die_and_count, str(tmp_path))
        assert isinstance(future.exception(60), WorkerDiedError)
    assert len(list(tmp_path.iterdir())) == retries + 1


def die_and_count(folder: str) -> None:
    with open(f"{folder}/{os.getpid()}", "x"):
        kill_oneself()


def test_how_often_unless_told(tmp_path) -> None:
    for name in ("executor", "pool", "strict"):
        (tmp_path / name).mkdir()
    with DistExecutor(2) as executor:
        executor.submit(die_and_count, f"{tmp_path}/executor").exception(60)
    with distpool.multiprocessing.Pool(2) as pool, pytest.raises(WorkerDiedError):
        pool.apply(die_and_count, (f"{tmp_path}/pool",))
    with distpool.futures.ProcessPoolExecutor(2) as strict:
        assert isinstance(strict.submit(die_and_count, f"{tmp_path}/strict").exception(60), BrokenProcessPool)
    assert {folder.name: len(list(folder.iterdir())) for folder in tmp_path.iterdir()} == {
        "executor": 4,
        "pool": 4,
        "strict": 1,
    }


# -- the words, without a process ---------------------------------------------------------------------------------

REPORT = """before
Fatal Python error: Segmentation fault

Thread 0x00007f639d01b6c0 (most recent call first):
  File "/a/distpool/worker/watch.py", line 176 in _watch

Current thread 0x00007f639f83db80 (most recent call first):
  File "/a/user.py", line 3 in inner
  File "/a/user.py", line 3 in inner
  File "/a/user.py", line 9 in outer
  File "/a/distpool/worker/runner.py", line 213 in _run_unusual
  File "/a/distpool/worker/main.py", line 94 in run

Extension modules: zmq (total: 1)
"""


def test_a_crash_report_is_taken_apart() -> None:
    stack, words = post_mortem.split_report(REPORT)
    assert stack.splitlines() == [
        '  File "/a/user.py", line 3 in inner',
        "  [the same 1 more times]",
        '  File "/a/user.py", line 9 in outer',
    ]
    assert words == "before"


def test_a_crash_report_whose_beginning_is_lost() -> None:
    tail = "r.py\n" + '  File "/a/user.py", line 3 in inner\n' * 99 + "  ...\n"
    stack, _ = post_mortem.split_report(tail)
    assert stack.splitlines() == ['  File "/a/user.py", line 3 in inner', "  [the same 98 more times]"]


def test_ends_that_nobody_saw_come_without_advice() -> None:
    assert "What to do" not in post_mortem.describe(WorkerExit(1, -9, "its node ended", lost=True))
    assert "What to do" not in post_mortem.describe(WorkerExit(1, -9, "the worker was given up", presumed=True))
    assert post_mortem.describe(WorkerExit(1, -64)).startswith("process 1: the worker was killed by ")


def submit_with_a_lease_that_has_ended(folder: str) -> int:
    """The first time, this worker is one that its scheduler has given up."""
    mark = Path(folder) / "mark"
    if not mark.exists():
        mark.touch()
        state = worker_context._state
        assert state.context is not None
        state.context = msgspec.structs.replace(state.context, lease=f"{state.context.lease}-ended")
    with DistExecutor(1) as executor:
        return executor.submit(abs, -7).result()


def test_a_worker_that_was_given_up_gives_no_answer(tmp_path: Path) -> None:
    with DistExecutor(1) as executor:
        assert executor.submit(submit_with_a_lease_that_has_ended, str(tmp_path)).result(60) == 7
    (tmp_path / "mark").unlink()
    with DistExecutor(1) as executor, distpool.options(max_retries=0):
        error = executor.submit(submit_with_a_lease_that_has_ended, str(tmp_path)).exception(60)
    assert isinstance(error, WorkerDiedError)
    assert "this worker ends: the lease on this worker has ended" in str(error)
