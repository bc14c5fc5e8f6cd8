"""Runs all tests of a suite, a few at a time, and gives one record for each.

The coordinator's side of ``nursery``: it never imports the suite.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import select
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from compat_tests.runner import bootstrap
from compat_tests.runner.interpreter import Interpreter
from compat_tests.runner.place import Place, Site, here
from compat_tests.runner.verdict import FAILED, HUNG, Record

ROOT = Path(__file__).resolve().parent.parent.parent
#: Importing and collecting a large suite under load; not a limit on tests.
_LOADING_LIMIT_S = 300.0
#: What the nursery may take beyond a test's own time limit (grace for descendants, killing, cleaning).
_SLACK_S = 60.0


class SuiteBroken(Exception):
    """The suite could not be loaded; carries the end of the nursery's output."""


class Caretaker:
    """The coordinator's handle of one nursery process; replaced when the nursery fails."""

    def __init__(self, suite: str, target: str, interpreter: Interpreter, site: Site, folder: Path) -> None:
        wrap, environment = site
        requests_read, requests_write = os.pipe()
        answers_read, answers_write = os.pipe()
        self.output = folder / f"nursery-{threading.get_ident()}-{requests_read}.log"
        with self.output.open("wb") as output:
            words = [str(interpreter.path), "-m", "compat_tests.runner.nursery", suite, target, str(folder)]
            self._process = subprocess.Popen(
                wrap([*words, str(requests_read), str(answers_write)]),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env=environment,
                pass_fds=(requests_read, answers_write),
                start_new_session=True,
            )
        os.close(requests_read)
        os.close(answers_write)
        self._requests = os.fdopen(requests_write, "w")
        self._answers = answers_read
        self._buffer = b""

    def tests(self) -> list[str]:
        """Waits until the suite is loaded."""
        answer = self._receive(_LOADING_LIMIT_S)
        if answer is None:
            self.close()
            raise SuiteBroken(self.output.read_text(errors="replace")[-6000:])
        return list(answer["tests"])

    def run(self, test: str, timeout_s: float) -> Record | None:
        """``None`` when the nursery itself failed."""
        try:
            self._requests.write(json.dumps({"run": test, "timeout_s": timeout_s}) + "\n")
            self._requests.flush()
        except BrokenPipeError:
            return None
        answer = self._receive(timeout_s + _SLACK_S)
        return None if answer is None else Record(**answer)

    def _receive(self, limit_s: float) -> dict[str, Any] | None:
        while b"\n" not in self._buffer:
            if not select.select([self._answers], [], [], limit_s)[0]:
                return None
            chunk = os.read(self._answers, 1 << 16)
            if not chunk:
                return None
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def interrupt(self) -> None:
        """Ends the nursery at once; the test in it ends with it."""
        self._process.kill()

    def close(self) -> None:
        """Ends the nursery, and with it all that is below it."""
        try:
            self._requests.close()
        except BrokenPipeError:
            pass
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        if self._answers >= 0:
            os.close(self._answers)
            self._answers = -1


def environment_for(suite: str, target: str, additions: Mapping[str, str]) -> dict[str, str]:
    """The environment of a nursery: the caller's, and what makes ``bootstrap`` patch every process below it."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("DISTPOOL_", "PYTEST_"))}
    environment.update(additions)
    environment[bootstrap.SUITE] = suite
    environment[bootstrap.TARGET] = target
    environment[bootstrap.ROOT] = str(ROOT)
    environment["PYTHONPATH"] = str(ROOT / "compat_tests" / "bootstrap")
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    environment["PYTHONHASHSEED"] = "0"
    return environment


def run_suite(
    suite: str,
    target: str,
    interpreter: Interpreter,
    additions: Mapping[str, str],
    choose: Callable[[Sequence[str]], Sequence[str]],
    report: Callable[[Record, int, int], None],
    *,
    jobs: int,
    timeout_s: float,
    retries: int = 0,
    expected: Callable[[Record], bool] = lambda record: False,
    place: Place = here,
) -> list[Record]:
    """Runs the chosen tests of ``suite``; ``report`` is called with each record, the number done and the total.

    :param choose: picks from the names of all tests.
    :param retries: how often a test that failed is run again before its failure counts.
    :param expected: whether a failure is known, so that there is no use in another attempt.
    :param place: where to run them.
    :raises SuiteBroken: when the suite cannot be loaded.
    """
    folder = Path(tempfile.mkdtemp(prefix="compat-"))
    cleanup = contextlib.ExitStack()
    cleanup.callback(shutil.rmtree, folder, ignore_errors=True)
    records: list[Record] = []
    waiting: queue.SimpleQueue[str] = queue.SimpleQueue()
    lock = threading.Lock()
    errors: list[BaseException] = []
    stop = threading.Event()

    def attend(caretaker: Caretaker, total: int, loaded: bool) -> None:
        def replacement() -> Caretaker:
            fresh = Caretaker(suite, target, interpreter, site, folder)
            fresh.tests()
            return fresh

        try:
            if not loaded:
                caretaker.tests()
            while not stop.is_set():
                try:
                    test = waiting.get_nowait()
                except queue.Empty:
                    return
                for attempt in range(1, retries + 2):
                    answer = caretaker.run(test, timeout_s)
                    if answer is None:
                        said = caretaker.output.read_text(errors="replace")[-3000:]
                        answer = Record(test, FAILED, 0.0, "the nursery ended:\n" + said)
                        caretaker.close()
                        caretaker = replacement()
                    record = answer._replace(attempts=attempt)
                    if record.outcome not in (FAILED, HUNG) or expected(record):
                        break
                with lock:
                    records.append(record)
                    report(record, len(records), total)
        except BaseException as error:
            errors.append(error)
        finally:
            caretaker.close()

    with cleanup:
        folders = [Path(value) for value in additions.values() if Path(value).is_dir()]
        environment = environment_for(suite, target, additions)
        site = cleanup.enter_context(place(environment, interpreter, [folder, *folders]))
        first = Caretaker(suite, target, interpreter, site, folder)
        chosen = list(choose(first.tests()))
        for test in chosen:
            waiting.put(test)
        count = max(1, min(jobs, len(chosen)))
        others = [Caretaker(suite, target, interpreter, site, folder) for _ in range(count - 1)]
        threads = [
            threading.Thread(target=attend, args=(caretaker, len(chosen), caretaker is first))
            for caretaker in (first, *others)
        ]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                thread.join()
        except KeyboardInterrupt:
            stop.set()
            for caretaker in (first, *others):
                caretaker.interrupt()
            raise
        if errors:
            raise errors[0]
    order = {test: index for index, test in enumerate(chosen)}
    return sorted(records, key=lambda record: order[record.test])
