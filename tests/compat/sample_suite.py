"""A suite whose tests do what a runner of suites has to cope with."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compat_tests.runner.verdict import FAILED, PASSED, SKIPPED, Verdict

#: A folder in which a test finds what an earlier attempt left.
MEMORY = "COMPAT_SAMPLE_MEMORY"


def is_right() -> Verdict:
    return Verdict(PASSED)


def fails() -> Verdict:
    return Verdict(FAILED, "it is wrong")


def raises() -> Verdict:
    raise ValueError("it is raised")


def skips() -> Verdict:
    return Verdict(SKIPPED, "not here")


def never_ends() -> Verdict:
    time.sleep(600)
    return Verdict(PASSED)


def ends_but_for_a_thread() -> Verdict:
    import threading

    threading.Thread(target=time.sleep, args=(600,)).start()
    return Verdict(PASSED)


def dies() -> Verdict:
    os._exit(7)


def leaves_a_process() -> Verdict:
    # In a session of its own, whose parent has ended: nothing but the nursery can find it.
    code = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])"
    subprocess.run([sys.executable, "-c", code], start_new_session=True, check=True)
    return Verdict(PASSED)


def kills_the_nursery() -> Verdict:
    os.kill(os.getppid(), 9)
    time.sleep(600)
    return Verdict(PASSED)


def needs_two_attempts() -> Verdict:
    mark = Path(os.environ[MEMORY], "tried")
    if mark.exists():
        return Verdict(PASSED)
    mark.touch()
    return Verdict(FAILED, "the first time")


TESTS = {
    test.__name__: test
    for test in (
        is_right,
        fails,
        raises,
        skips,
        never_ends,
        ends_but_for_a_thread,
        dies,
        leaves_a_process,
        kills_the_nursery,
        needs_two_attempts,
    )
}


class Sample:
    name = "tests.compat.sample_suite"
    title = "Sample"
    targets = ("distpool", "stdlib")
    timeout_s = 60.0

    def prepare(self, interpreter: Any, cache: Path) -> Mapping[str, str]:
        return {}

    def patch(self, target: str) -> None:
        pass

    def serve(self, nursery: Any, target: str) -> None:
        nursery.serve(list(TESTS), lambda name: TESTS[name]())


SUITE = Sample()
