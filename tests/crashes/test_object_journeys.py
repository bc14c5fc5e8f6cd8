"""A node or the program is killed at each step of an object's way from node to node, of a drained node's handing over,
and of a lost result's being computed again.

The program has the right results, or if it is the one that is killed, nothing of it is left.  All points are tried with
``DISTPOOL_CRASH_ALL=1``; which ones every run of the tests tries is said below.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli.test_cluster import Command

ALL = bool(os.environ.get("DISTPOOL_CRASH_ALL"))
#: What every run tries.
USUAL = {("agent", "transfer.served"), ("driver", "transfer.stored")}

pytestmark = pytest.mark.watchdog(180)

JOURNEYS = """
import faulthandler, os, subprocess, sys, time
import numpy as np
import distpool
from distpool import DistExecutor
from distpool.driver.current import current_session

# Where it hangs, if it does, is in the report.
faulthandler.dump_traceback_later(120, exit=True)
LENGTH = 100_000  # four pieces

def make(number):
    return np.full(LENGTH, float(number))

def plus(left, right):
    return left + right

def total(array):
    return float(array.sum())

def main(address, mark):
    with DistExecutor(3, address=address) as executor:
        made = [executor.submit(make, number) for number in range(6)]
        sums = [executor.submit(plus, made[number], made[number - 1]) for number in range(6)]
        own = distpool.put(make(7))
        assert [future.result() for future in [executor.submit(total, own) for _ in range(4)]] == [7.0 * LENGTH] * 4
        assert all((future.result() == number).all() for number, future in enumerate(made))
        environment = {name: value for name, value in os.environ.items() if name != "DISTPOOL_CRASH_POINT"}
        # Perhaps it has been lost already.
        subprocess.run([sys.executable, "-m", "distpool", "drain", "b", "--address", address], env=environment)
        # It hands over what it has, and leaves.
        while any(each.node == "b" for each in current_session().nodes() or ()):
            time.sleep(0.05)
        wanted = [LENGTH * float(number + (number - 1) % 6) for number in range(6)]
        assert [executor.submit(total, future).result() for future in sums] == wanted
        assert all((future.result() == number).all() for number, future in enumerate(made))
        del sums, made, own
        assert executor.submit(total, make(1)).result() == LENGTH

if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
"""

RECOMPUTING = """
import contextlib, faulthandler, os, signal, sys
import numpy as np
import distpool
from distpool import DistExecutor, crashpoints
from distpool.driver.current import current_session
from distpool.store.ownership import maker_of

faulthandler.dump_traceback_later(40, exit=True)
mark = sys.argv[1]

def note():
    with open(mark + ".runs", "a") as file:
        file.write("x")
    if os.path.getsize(mark + ".runs") > 2:
        crashpoints.reach("user.again")

def make():
    note()
    return np.full(20_000, 1.0)

def plus(array):
    note()
    return array + 1.0

def lose(future):
    session = current_session()
    for location in future._packed.value.objects:
        # Who made it has it mapped still.
        known = session.leases.of_worker(maker_of(location.segment).encode())
        if known is not None:
            pool, lease = known
            with contextlib.suppress(ProcessLookupError):  # it made the other one too
                os.kill(pool.shell.core.workers[lease].pid, signal.SIGKILL)
        with contextlib.suppress(FileNotFoundError):  # one segment may hold both results
            os.unlink(os.path.join(session.store.folder, location.segment))

with DistExecutor(2) as executor:
    first = executor.submit(make)
    second = executor.submit(plus, first)
    assert (second.result() == 2).all()
    lose(first)
    lose(second)
    assert executor.submit(np.sum, second).result() == 40_000
    lose(second)
    assert second.result().sum() == 40_000
"""

CASES = [
    ("agent", f"transfer.{step}")
    for step in "naming room_made asked stored sealed received serving served discarding".split()
]
CASES += [("agent", f"evacuation.{step}") for step in "asking asked taking took taken_over finished".split()]
CASES += [
    ("driver", f"transfer.{step}") for step in "naming room_made asked stored sealed received serving served".split()
]


@pytest.fixture
def distpool(tmp_path: Path) -> Iterator[Command]:
    command = Command(tmp_path / "state")
    # A node that is killed is missed sooner than usual.
    command.environment["DISTPOOL_SILENCE_S"] = "3"
    yield command
    command("stop")


@pytest.mark.parametrize(("role", "point"), [case for case in CASES if ALL or case in USUAL])
def test_a_kill_on_the_way(
    role: str, point: str, distpool: Command, run_script: Callable[..., str], tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    crash = {"DISTPOOL_CRASH_POINT": f"{role} {point} 1 {mark}"}
    of_nodes, of_program = (crash, {}) if role == "agent" else ({}, crash)
    # Who has most memory takes over what a drained node holds: never the head, which has to stay.
    address = distpool.start_head("--num-cpus", "0", "--memory-bytes", "1000000")
    for node in "bcd":
        distpool("start", "--join", address, "--num-cpus", "1", "--node", node, **of_nodes)
    options = {"env": {**distpool.environment, **of_program}, "timeout_s": 150}
    run_script(JOURNEYS, address, str(mark), status=0 if role == "agent" else -9, **options)
    assert mark.exists(), "the point was not reached"


@pytest.mark.parametrize(
    ("role", "point", "times"),
    [("driver", f"lineage.{step}", times) for step in ("chosen", "submitting", "ran") for times in (1, 2) if ALL]
    + [("worker", "user.again", 1)],
)
def test_a_kill_while_results_are_computed_again(
    role: str, point: str, times: int, run_script: Callable[..., str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    monkeypatch.setenv("DISTPOOL_CRASH_POINT", f"{role} {point} {times} {mark}")
    run_script(RECOMPUTING, str(mark), status=0 if role == "worker" else -9)
    assert mark.exists(), "the point was not reached"
