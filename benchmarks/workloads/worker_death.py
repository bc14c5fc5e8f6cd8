"""A worker dies among 50 tasks

50 tasks of 20 ms; the eleventh kills its own process each time it is tried. How many other tasks fail, how long after
the first death the caller knows that the eleventh has failed, and whether the pool still works afterwards.
"""

from __future__ import annotations

import os
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.contenders import SUBMIT, Contender
from benchmarks.workload import Metric, Sizes, Target, check

METRICS = {
    "known_after": Metric("s", "lower", ".3f"),
    "others_failed": Metric("of 49 others", "lower"),
    "works_after": Metric("(1: pool works on)", "higher"),
    "attempts": Metric("attempts", "neither"),
}
SIZES = Sizes(full=50, quick=50)
CONTENDERS = SUBMIT
TARGETS = [
    Target("known_after", value=0.1, ours="distpool"),
    Target("others_failed", value=0, ours="distpool"),
    Target("works_after", value=1, ours="distpool"),
]
TIME_LIMIT_S = 150.0
#: Longer than this, and it counts as never.
PATIENCE_S = 45.0
VICTIM = 10


def work(number: int, notes: str) -> int:
    if number == VICTIM:
        with open(notes, "a") as file:
            file.write(f"{time.clock_gettime(time.CLOCK_MONOTONIC)}\n")
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.02)
    return number


def measure(contender: Contender, size: int) -> dict[str, float | None]:
    with tempfile.TemporaryDirectory() as folder:
        notes = Path(folder, "deaths")
        call = contender.task(work)
        handles = [call(number, str(notes)) for number in range(size)]
        known_at = fails(contender, handles[VICTIM])
        patience_s = 10.0 if known_at is not None else 0.5
        others_failed = sum(
            not succeeds(contender, handle, number, patience_s)
            for number, handle in enumerate(handles)
            if number != VICTIM
        )
        deaths = [float(line) for line in notes.read_text().splitlines()]
    return {
        "known_after": None if known_at is None else known_at - deaths[0],
        "others_failed": others_failed,
        "works_after": float(works(contender)),
        "attempts": len(deaths),
    }


def fails(contender: Contender, handle: Any) -> float | None:
    """When the caller heard of the failure; ``None`` when it did not."""
    waiting_until = time.monotonic() + PATIENCE_S
    try:
        contender.result(handle, timeout_s=PATIENCE_S)
    except Exception:
        now = time.monotonic()
        return now if now < waiting_until else None
    check(False, "a task that died has a result")
    return None


def succeeds(contender: Contender, handle: Any, number: int, patience_s: float) -> bool:
    try:
        return bool(contender.result(handle, timeout_s=patience_s) == number)
    except Exception:
        return False


def works(contender: Contender) -> bool:
    try:
        return bool(contender.result(contender.task(work)(-1, ""), timeout_s=10) == -1)
    except Exception:
        return False
