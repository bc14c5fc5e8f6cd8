"""Run the same tests again and again, each time in a new process, and count how often they fail.

    python tests/run_repeated.py --count 50 [--jobs 4] [--keep-going] tests/driver -k crash

Several jobs at once on few cores is the point: what depends on timing shows up under load.  Hypothesis draws other
examples in each run.  The output of a failed run is kept in a file whose name is printed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def run(number: int, arguments: list[str], logs: Path) -> tuple[int, int, float]:
    """One run: its number, exit status and duration; its output is kept only when it failed."""
    log = logs / f"run-{number:04}.txt"
    environment = {name: value for name, value in os.environ.items() if name != "CI"}
    started = time.monotonic()
    with log.open("w") as output:
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *arguments]
        status = subprocess.run(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, env=environment).returncode
    if status == 0:
        log.unlink()
    return number, status, time.monotonic() - started


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--keep-going", action="store_true", help="go on after a failed run")
    wanted, arguments = parser.parse_known_args()
    logs = Path(tempfile.mkdtemp(prefix="repeated-tests-"))
    failed: list[int] = []
    done = 0
    numbers = iter(range(1, wanted.count + 1))
    with ThreadPoolExecutor(wanted.jobs) as threads:
        under_way: set[Future[tuple[int, int, float]]] = set()
        while True:
            while len(under_way) < wanted.jobs and (wanted.keep_going or not failed):
                number = next(numbers, None)
                if number is None:
                    break
                under_way.add(threads.submit(run, number, arguments, logs))
            if not under_way:
                break
            finished, under_way = wait(under_way, return_when=FIRST_COMPLETED)
            for future in finished:
                number, status, seconds = future.result()
                done += 1
                if status:
                    failed.append(number)
                    print(
                        f"run {number}: status {status} after {seconds:.1f} s, see {logs}/run-{number:04}.txt",
                        flush=True,
                    )
                elif sys.stdout.isatty():
                    print(f"run {number}: {seconds:.1f} s", end="\r", flush=True)
    if not failed:
        logs.rmdir()
    print(f"{done - len(failed)} of {done} runs passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
