"""A worker, a zygote, the node's process (agent and scheduler) or the driver is killed at each step of a task's life.

Whatever a worker or zygote does to a program, its results are right; the loss of the node is an error with a name, and
the next pool works; of a driver nothing is left.  What is left anywhere is seen by the leak check.

Some of the points are tried with every run of the tests, all of them with
``DISTPOOL_CRASH_ALL=1 python -m pytest tests/crashes -rP``, which also prints how long the program took to get over it.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ALL = bool(os.environ.get("DISTPOOL_CRASH_ALL"))
#: Of the cases of each role, every so manieth is tried with every run.
EVERY = 9

PROGRAM = """
import faulthandler, os, sys, time
import numpy as np
import distpool
from distpool import crashpoints

# Where it hangs, if it does, is in the report.
faulthandler.dump_traceback_later(40, exit=True)
mark, role = sys.argv[1:]

class Touchy:
    def __init__(self, number):
        self.number = number
    def __getstate__(self):
        crashpoints.reach("user.pickling")
        return {"number": self.number}
    def __setstate__(self, state):
        crashpoints.reach("user.unpickling")
        self.__dict__.update(state)

def work(touchy, array):
    crashpoints.reach("user.running")
    return Touchy(touchy.number + float(array.sum()))

def nested(number):
    with distpool.DistExecutor(1) as executor:
        return executor.submit(abs, -number).result()

def scenario():
    with distpool.DistExecutor(2) as executor:
        made = executor.submit(np.full, 20_000, 1.0)
        results = [executor.submit(work, Touchy(number), made) for number in range(6)]
        assert [future.result().number for future in results] == [20_000 + number for number in range(6)]
        assert list(executor.map(abs, range(-200, 0))) == list(range(200, 0, -1))
        assert executor.submit(nested, 7).result() == 7
        assert (made.result() == 1).all()

try:
    scenario()
except (distpool.DistpoolError, RuntimeError) as error:
    # Only a loss of the node, which is one process for both scheduler and agent, is seen by the program.
    if role != "agent":
        raise
    print(f"noticed after {time.time() - os.stat(mark).st_mtime:.2f} s: {type(error).__name__}: {str(error)[:60]}")
    # The next pool starts another node.
    scenario()
distpool.shutdown()
assert os.path.exists(mark) or role == "leaving", "the point was not reached"
print(f"over it after {time.time() - os.stat(mark).st_mtime:.2f} s" if os.path.exists(mark) else "gone in peace")
"""

POINTS = {
    "worker": """
        worker.began worker.listening worker.started worker.heard.Setup worker.set_up worker.heard.RunTasks task.claimed
        user.unpickling user.running user.pickling task.answering task.answered worker.heard.Leave worker.leaving
        worker.left driver.said.DriverHello driver.said.OpenPool driver.said.Demand driver.heard.LeaseGranted
        task.submitted task.dealt task.sent driver.heard.TasksDone driver.said.ReturnLease
    """,
    "zygote": "zygote.forking zygote.forked",
    "agent": """
        agent.heard.WorkerForked agent.heard.WorkerStarted agent.heard.StartWorker agent.heard.StopWorker
        agent.heard.WorkerProcessExited agent.did.ForkWorker agent.did.WorkerReady agent.did.WorkerExited
        scheduler.heard.DriverHello scheduler.heard.OpenPool scheduler.heard.Demand scheduler.heard.ReturnLease
        scheduler.heard.WorkerReady scheduler.said.SchedulerWelcome scheduler.said.LeaseGranted
        scheduler.said.LeaseEnded
    """,
    "driver": """
        driver.said.DriverHello driver.said.OpenPool driver.said.Demand driver.heard.SchedulerWelcome
        driver.heard.LeaseGranted driver.heard.SetupDone driver.heard.TasksDone driver.heard.LeaseEnded
        driver.said.ReturnLease driver.said.ClosePool driver.said.DriverGoodbye task.submitted task.dealt task.sent
        task.answered user.pickling user.unpickling
    """,
}
CASES = [(role, point, times) for role, points in POINTS.items() for point in points.split() for times in (1, 3)]
#: A worker, or a driver, that comes there only once in its life, or never in one that is killed before.
ONCE = {"driver.said.DriverHello", "driver.said.OpenPool", "driver.said.ClosePool", "driver.said.DriverGoodbye",
        "driver.heard.SchedulerWelcome", "scheduler.heard.OpenPool", "worker.began", "worker.listening",
        "worker.started", "worker.heard.Setup", "worker.set_up", "worker.heard.Leave", "worker.leaving", "worker.left",
        "zygote.forking", "zygote.forked", "driver.said.ReturnLease", "driver.heard.LeaseGranted",
        "driver.heard.LeaseEnded", "driver.heard.SetupDone", "scheduler.heard.DriverHello",
        "scheduler.said.SchedulerWelcome", "driver.said.Demand"}  # fmt: skip
CASES = [case for case in CASES if case[2] == 1 or (case[1] not in ONCE and case[0] != "worker")]
SAMPLE = CASES if ALL else CASES[::EVERY]


@pytest.mark.parametrize(("role", "point", "times"), SAMPLE)
def test_a_kill(role, point, times, run_script, monkeypatch, tmp_path):
    mark = tmp_path / "mark"
    monkeypatch.setenv("DISTPOOL_CRASH_POINT", f"{role} {point} {times} {mark}")
    if role == "driver":
        # What a driver leaves must be gone soon; the leak check looks at processes, memory and folders.
        run_script(PROGRAM, str(mark), role, status=-9)
        assert Path(mark).exists()
    else:
        print(run_script(PROGRAM, str(mark), role))
        assert Path(mark).exists()
