"""Which numeric libraries are told how many threads to use."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
#: As the zygote does it, and its child.
PROGRAM = """
import os, sys
import numpy
from distpool.worker import thread_budget
thread_budget.note_libraries()
found = list(thread_budget._loaded)
limited = []
thread_budget._limit_library = limited.append
def not_again():
    raise AssertionError("looked for once more")
thread_budget._loaded_libraries = not_again
if not os.fork():
    thread_budget.limit_threads(1)
    os._exit(limited != found)
print(os.waitstatus_to_exitcode(os.wait()[1]), bool(found))
"""


def test_libraries_are_looked_for_once_and_limited_in_each_worker() -> None:
    pytest.importorskip("numpy")
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=50, check=False, cwd=ROOT
    )
    assert run.stdout.split() == ["0", "True"], run.stderr
