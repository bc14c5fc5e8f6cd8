"""A process that has the suite imported and forks one fresh process per test.

Started by the coordinator (``engine``), one nursery for each test that may run at a time:

    coordinator ── {"run": test, "timeout_s": s} ──► nursery ── fork ──► test process ── verdict file ──►
                ◄── {"tests": [...]}, {"test", "outcome", "seconds", "detail"} ── nursery

The nursery has one thread and uses nothing of distpool, so that the forked process is as good as a fresh one.  Each
test gets a session, a temporary folder and a working directory of its own.  Whatever it leaves running is found,
reported and killed before the next one starts.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

from compat_tests.runner import descendants
from compat_tests.runner.verdict import FAILED, HUNG, PASSED, Verdict, shorten

#: Descendants that see their driver die may take this long to follow it.
_GRACE_S = 5.0
#: Who hangs may take this long to write its stacks: on a busy machine its turn has to come first.
_STACKS_S = 10.0
#: Writes the stacks of all threads of a hung test, and ends it; a real-time signal, as suites use the ordinary ones
#: themselves.
_STACKS_SIGNAL = signal.SIGRTMIN + 5


class CoordinatorGone(Exception):
    """The other end of the control pipe is closed: nobody wants the answer."""


class Nursery:
    """Serves the coordinator's requests; ``serve`` is called by the suite's adapter once all tests are loaded."""

    def __init__(self, requests: IO[str], answers: IO[str], log_folder: Path) -> None:
        self._requests = requests
        self._answers = answers
        self._log_folder = log_folder

    def serve(self, tests: Sequence[str], run: Callable[[str], Verdict]) -> None:
        """Runs what the coordinator asks for until it closes the pipe.

        :param run: runs one test in the test process and gives its verdict.
        """
        self._answer({"tests": list(tests)})
        for line in self._requests:
            request = json.loads(line)
            self._answer(self._attempt(request["run"], request["timeout_s"], run))

    def _answer(self, message: dict[str, Any]) -> None:
        self._answers.write(json.dumps(message) + "\n")
        self._answers.flush()

    def _attempt(self, test: str, timeout_s: float, run: Callable[[str], Verdict]) -> dict[str, Any]:
        # Short, because sockets in it have paths of at most 107 bytes.
        folder = Path(tempfile.mkdtemp(prefix="ct-"))
        log = self._log_folder / f"{os.getpid()}.log"
        started = time.monotonic()
        try:
            sys.stdout.flush()
            sys.stderr.flush()
            pid = os.fork()
            if pid == 0:
                _be_test_process(test, folder, log, run)  # never returns
            verdict = self._await_verdict(pid, timeout_s, folder)
            left = descendants.wait_until_gone(0.0 if verdict.outcome == HUNG else _GRACE_S)
            if left and verdict.outcome == PASSED:
                verdict = Verdict(FAILED, "left processes behind:\n" + "\n".join(left))
            detail = verdict.detail
            if verdict.outcome in (FAILED, HUNG):
                output = log.read_text(errors="replace") if log.exists() else ""
                detail = shorten(detail + ("\n--- output\n" + shorten(output) if output.strip() else ""))
            seconds = time.monotonic() - started
            return {"test": test, "outcome": verdict.outcome, "seconds": round(seconds, 3), "detail": detail}
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _await_verdict(self, pid: int, timeout_s: float, folder: Path) -> Verdict:
        process = os.pidfd_open(pid)
        try:
            poll = select.poll()
            poll.register(process, select.POLLIN)
            poll.register(self._requests, select.POLLHUP)
            ready = poll.poll(timeout_s * 1000)
            if any(descriptor != process for descriptor, _ in ready):
                raise CoordinatorGone
            if not ready:
                os.kill(pid, _STACKS_SIGNAL)
                select.select([process], [], [], _STACKS_S)
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                said = _read_verdict(folder)
                when = f"after its verdict ({said.outcome})" if said else "before it had a verdict"
                return Verdict(HUNG, f"still running after {timeout_s:g} s, {when}")
            _, status = os.waitpid(pid, 0)
        finally:
            os.close(process)
        said = _read_verdict(folder)
        code = os.waitstatus_to_exitcode(status)
        if said is None:
            return Verdict(FAILED, f"the test process ended without a verdict, exit code {code}")
        if code != 0 and said.outcome == PASSED:
            return Verdict(FAILED, f"the test passed, but its process ended with exit code {code}")
        return said


def _read_verdict(folder: Path) -> Verdict | None:
    try:
        return Verdict(*json.loads((folder / "verdict").read_text()))
    except (OSError, ValueError):
        return None


def _be_test_process(test: str, folder: Path, log: Path, run: Callable[[str], Verdict]) -> None:
    """Body of the forked process: sets the scene, runs the test, ends as an interpreter ends."""
    code = 1
    try:
        os.setsid()
        descendants.die_with_parent()
        null = os.open(os.devnull, os.O_RDONLY)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        for source, standard in ((null, 0), (output, 1), (output, 2)):
            os.dup2(source, standard)
        for descriptor in _control_descriptors:
            os.close(descriptor)
        import faulthandler

        faulthandler.enable()
        faulthandler.register(_STACKS_SIGNAL, all_threads=True, chain=True)
        for name in ("t", "cwd"):
            (folder / name).mkdir()
        os.environ["TMPDIR"] = tempfile.tempdir = str(folder / "t")
        os.chdir(folder / "cwd")
        try:
            verdict = run(test)
        except BaseException:
            verdict = Verdict(FAILED, traceback.format_exc())
        partial = folder / "verdict.part"
        partial.write_text(json.dumps([verdict.outcome, shorten(verdict.detail)]))
        partial.rename(folder / "verdict")
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        _end_as_interpreter(code)


def _end_as_interpreter(code: int) -> None:
    """Joins threads and runs exit handlers, as the end of a program would; a hang here is a hang of the test."""
    import atexit
    import threading

    try:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        traceback.print_exc()
        code = code or 1
    finally:
        os._exit(code)


_control_descriptors: list[int] = []


def main() -> None:
    """``python -m compat_tests.runner.nursery SUITE TARGET LOG_FOLDER REQUESTS_FD ANSWERS_FD``."""
    from compat_tests import suites

    suite, target, log_folder, requests, answers = sys.argv[1:]
    _control_descriptors.extend([int(requests), int(answers)])
    for descriptor in _control_descriptors:
        os.set_inheritable(descriptor, False)
    descendants.become_subreaper()
    nursery = Nursery(os.fdopen(int(requests)), os.fdopen(int(answers), "w"), Path(log_folder))
    # Suites parse sys.argv (unittest, pytest, multiprocessing's preparation of children).
    del sys.argv[1:]
    try:
        suites.load(suite).serve(nursery, target)
    except CoordinatorGone:
        pass
    finally:
        descendants.kill_all()


if __name__ == "__main__":
    main()
