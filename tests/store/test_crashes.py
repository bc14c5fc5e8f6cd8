"""A worker, the agent or the driver is killed at each step of an object's life.

Whatever still has an owner is there afterwards; what has none is gone, and so is what was charged for it.
``DISTPOOL_CRASH_TIMES=1,2,5,20`` kills not only the first time that a point is reached, but also later.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

TIMES = [int(number) for number in os.environ.get("DISTPOOL_CRASH_TIMES", "1").split(",")]

PROGRAM = """
import faulthandler, gc, os, sys, time
import numpy as np
import distpool
from distpool.store import current

LENGTH, BUDGET = 150_000, 12_000_000

# Where it hangs, if it does, is in the report.
faulthandler.dump_traceback_later(45, exit=True)

def number(i):
    return np.full(LENGTH, i, float)

def work(array, i):
    array += i
    if i > 3:
        distpool.put(number(i))  # and let go of again
        current.store_of_this_process().trim()
    return array, distpool.put(number(i))

def check(i, result):
    array, ref = result
    assert (array == i % 4 + i).all(), (i, array)
    assert (distpool.get(ref) == i).all(), i

def settled(look):
    deadline = time.monotonic() + 30
    while (left := look()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return left

def scenario():
    with distpool.DistExecutor(2) as executor:
        kept = [distpool.put(number(i)) for i in range(4)]
        futures = [executor.submit(work, kept[i % 4], i) for i in range(8)]
        for i, future in enumerate(futures):
            check(i, future.result())
        assert [f.result() for f in [executor.submit(np.sum, number(i)) for i in range(8)]] == [
            i * LENGTH for i in range(8)
        ]
        # Everything that has an owner is there, several times over.
        for i, future in enumerate(futures):
            check(i, future.result())
        assert [(distpool.get(ref) == i).all() for i, ref in enumerate(kept)] == [True] * 4
        survivor = futures[5]
        del kept, futures, future
        gc.collect()
    check(5, survivor.result())
    del survivor
    gc.collect()

def leftovers():
    gc.collect()  # errors have tracebacks, with frames that have references
    store = current.store_of_this_process()
    store.trim()
    report = distpool.memory()
    found = [f"object {found.object_id}" for found in report.objects]
    spill = store._parts.room.folder.spill.folder
    # Those who are alive may keep memory for its next use.
    for folder in (store.folder, spill):
        if os.path.exists(folder):
            found += [f"file {name}" for name in os.listdir(folder) if not name.startswith((".", "d-"))]
    # In the spill folder nothing is kept.
    found += [f"file {name}" for name in os.listdir(spill) if name[0] != "."] if os.path.exists(spill) else []
    if report.orphaned_bytes:
        found.append(f"{report.orphaned_bytes} bytes left")
    if report.allowed_bytes > BUDGET // 16:
        found.append(f"{report.allowed_bytes} bytes charged")
    return found

distpool.init(store_bytes=BUDGET)
mark, role = sys.argv[1:]
try:
    scenario()
except (distpool.DistpoolError, RuntimeError) as error:
    # Only a loss of the node, which is one process for both scheduler and agent, is seen by the program.
    if role != "agent":
        raise
    print(type(error).__name__, file=sys.stderr)
    # The next pool starts another node.
    scenario()
assert os.path.exists(mark), "the point was not reached"
print(settled(leftovers) or "nothing left")
"""

DRIVER = """
created writing file_made written sealed asked answered adopted mapped ending freed spilling spilled moved removing
removed
"""
WORKER = """
created writing file_made written sealed reported released asked answered mapped ending freed spilling spilled moved
removing removed
"""
AGENT_CASES = [("heard", 1), ("heard", 3), ("heard", 9), ("answered", 2), ("answered", 5), ("answered", 13)]
CASES = [("driver", point) for point in DRIVER.split()] + [("worker", point) for point in WORKER.split()]


def crash(role: str, point: str, times: int, monkeypatch: pytest.MonkeyPatch, folder: Path) -> str:
    mark = str(folder / "mark")
    monkeypatch.setenv("DISTPOOL_CRASH_POINT", f"{role} store.{point} {times} {mark}")
    return mark


@pytest.mark.parametrize("times", TIMES)
@pytest.mark.parametrize(("role", "point"), CASES)
def test_a_kill(role, point, times, run_script, monkeypatch, tmp_path):
    mark = crash(role, point, times, monkeypatch, tmp_path)
    if role == "worker":
        assert run_script(PROGRAM, mark, role).strip() == "nothing left"
    else:
        # What a driver leaves must be gone soon; the leak check looks at processes, memory and folders.
        run_script(PROGRAM, mark, role, status=-9)
        assert os.path.exists(mark)


@pytest.mark.parametrize(("point", "times"), AGENT_CASES)
def test_a_kill_of_the_agent(point, times, run_script, monkeypatch, tmp_path):
    mark = crash("agent", point, times, monkeypatch, tmp_path)
    assert run_script(PROGRAM, mark, "agent").strip() == "nothing left"
