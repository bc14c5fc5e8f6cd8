"""Cold start: the whole of a small program

From starting Python to its end: import, a pool of two workers, one task, its result, the end. The median of several
runs of the program in a row, after one that does not count (so that files are in memory).
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.contenders import SUBMIT, Contender
from benchmarks.workload import Metric, Sizes, Target, check

METRICS = {"whole": Metric("ms", "lower", ",.0f")}
SIZES = Sizes(full=7, quick=1, smaller=dict.fromkeys(("ray", "dask", "ipyparallel", "parsl"), 1))
CONTENDERS = SUBMIT
TARGETS = [Target("whole", ratio=1.5, against=("pool-forkserver",), ours="distpool-pool")]
OPENED = False
LIMITS = ["python_start", "fork_and_wait"]

_STANDARD = {
    "executor": """
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
def work(number): return number + 1
if __name__ == "__main__":
    with ProcessPoolExecutor(2, mp_context=get_context("{method}")) as executor:
        print(executor.submit(work, 41).result())
""",
    "pool": """
from multiprocessing import get_context
def work(number): return number + 1
if __name__ == "__main__":
    with get_context("{method}").Pool(2) as pool:
        print(pool.apply_async(work, (41,)).get())
""",
}
PROGRAMS = {
    "distpool": """
from distpool import DistExecutor
def work(number): return number + 1
if __name__ == "__main__":
    with DistExecutor(2) as executor:
        print(executor.submit(work, 41).result())
""",
    "distpool-futures": """
from distpool.futures import ProcessPoolExecutor
def work(number): return number + 1
if __name__ == "__main__":
    with ProcessPoolExecutor(2) as executor:
        print(executor.submit(work, 41).result())
""",
    "distpool-pool": """
from distpool.multiprocessing import Pool
def work(number): return number + 1
if __name__ == "__main__":
    with Pool(2) as pool:
        print(pool.apply_async(work, (41,)).get())
""",
    "executor-fork": _STANDARD["executor"].format(method="fork"),
    "executor-forkserver": _STANDARD["executor"].format(method="forkserver"),
    "pool-fork": _STANDARD["pool"].format(method="fork"),
    "pool-forkserver": _STANDARD["pool"].format(method="forkserver"),
    "loky": """
from joblib.externals.loky import get_reusable_executor
def work(number): return number + 1
if __name__ == "__main__":
    print(get_reusable_executor(max_workers=2).submit(work, 41).result())
""",
    "mpire": """
from mpire import WorkerPool
def work(number): return number + 1
if __name__ == "__main__":
    with WorkerPool(n_jobs=2) as pool:
        print(pool.apply_async(work, (41,)).get())
""",
    # The rest needs more settings than fit here; they are opened as in every other workload.
    **{
        name: f"""
from benchmarks.contenders import ALL
from benchmarks.workloads.chain import step
if __name__ == "__main__":
    with ALL["{name}"](2) as contender:
        print(contender.result(contender.task(step)(41)))
"""
        for name in ("ray", "dask", "ipyparallel", "parsl")
    },
}


def measure(contender: Contender, size: int) -> dict[str, float]:
    times_s = []
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder, "program.py")
        program.write_text(PROGRAMS[contender.name])
        for _ in range(size + 1):
            started = time.perf_counter()
            done = subprocess.run(
                [sys.executable, program], stdout=subprocess.PIPE, env=os.environ, cwd=folder, timeout=60
            )
            times_s.append(time.perf_counter() - started)
            check(done.returncode == 0 and done.stdout.split()[-1:] == [b"42"], f"ended with {done.returncode}")
    return {"whole": statistics.median(times_s[1:]) * 1e3}
