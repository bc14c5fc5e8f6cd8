"""A program with pools forks by itself: nothing of the parent's is touched, and both processes go on."""

from __future__ import annotations

PROGRAM = """
import os, signal, sys
import numpy
from distpool import DistExecutor
import distpool.joblib
from joblib import Parallel, delayed

def in_child(work):
    pid = os.fork()
    if pid:
        print("child ended with", os.waitpid(pid, 0)[1], flush=True)
        return
    try:
        work()
        sys.stdout.flush()
        os._exit(0)
    except Exception as error:
        print(repr(error), flush=True)
        os._exit(1)

def told(call):
    try:
        call()
    except RuntimeError as error:
        print("forked" in str(error))

with DistExecutor(2) as executor:
    done = executor.submit(numpy.ones, 100_000)
    done.result()
    stored = executor.submit(numpy.ones, 100_000)
    stored.exception()
    unfinished = executor.submit(signal.pause)
    def use_inherited():
        global unfinished, executor
        told(lambda: executor.submit(abs, -1))
        told(lambda: unfinished.result())
        print(unfinished.cancel(), executor._processes, stored.result().sum(), done.result().sum())
        executor.shutdown()
        del unfinished, executor
    in_child(use_inherited)
    def use_own():
        with DistExecutor(1) as own:
            print(own.submit(abs, -3).result())
        os._exit(0)
    in_child(use_own)
    unfinished.kill()
    print(executor.submit(abs, -2).result(), stored.result().sum(), type(unfinished.exception()).__name__)
print(Parallel(2, "distpool")(delayed(abs)(i) for i in range(3)))
def use_joblib():
    print(Parallel(2, "distpool")(delayed(abs)(i) for i in range(3)), flush=True)
    sys.exit(0)
in_child(use_joblib)
print(Parallel(2, "distpool")(delayed(abs)(i) for i in range(3)))
"""


def test_the_child_of_a_fork_leaves_the_parents_pools_alone(run_script) -> None:
    assert run_script(PROGRAM).splitlines() == [
        "True",
        "True",
        "False {} 100000.0 100000.0",
        "child ended with 0",
        "3",
        "child ended with 0",
        "2 100000.0 TaskKilledError",
        "[0, 1, 2]",
        "[0, 1, 2]",
        "child ended with 0",
        "[0, 1, 2]",
    ]
