"""Every test has a watchdog, and every test is asked what it left behind.

Within a module the private node may go on living from test to test; nothing else may grow.  At the end of the module
the node is taken down, and then nothing at all may be left.  A test that keeps something on purpose says so with
``@pytest.mark.leaks("processes", ...)``; the end of its module holds it to account all the same.
"""

from __future__ import annotations

import gc
import os
import resource
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import journal, ports, resources, session
from tests.support.resources import Holdings
from tests.support.watchdog import Watchdog

#: Seconds that one test has, set-up and tear-down included, unless it is marked otherwise.
WATCHDOG_S = 60.0
#: Seconds for what ends by itself (a process that was told to) to have ended, on a machine that others keep busy too.
PATIENCE_S = 20.0
#: What a session without pools may hold: the node, its zygote, two generations of that (of which one is about to end)
#: and spare workers.
IDLE_SESSION_PROCESSES = 4 + 4

_watchdog_key = pytest.StashKey[Watchdog]()
_long_files_key = pytest.StashKey[list[str]]()

try:
    import hypothesis
except ImportError:
    pass
else:
    hypothesis.settings.register_profile("default", deadline=None, print_blob=True)
    # The same examples each time: a red run must be red again when it is looked into.
    hypothesis.settings.register_profile("ci", deadline=None, print_blob=True, derandomize=True, database=None)
    hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "default")


def pytest_configure(config: pytest.Config) -> None:
    os.environ[resources.MARK] = uuid.uuid4().hex
    # A folder of our own, so that what lies in it is ours; short, because paths of sockets may not be long.
    folder = tempfile.mkdtemp(prefix="dpt-")
    os.environ["TMPDIR"] = folder
    tempfile.tempdir = None
    resources.watch(folder)
    # Shells start background jobs with Ctrl-C ignored, and programs that tests start would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # The watchdog ends a hung run with SIGABRT; that needs no core file.
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))
    config.stash[_watchdog_key] = Watchdog(resources.MARK, folder)
    # Out of the environment: test runs that tests start keep none.
    journal_file = os.environ.pop(journal.VARIABLE, None)
    if journal_file:
        config.pluginmanager.register(journal.Journal(Path(journal_file)))


def pytest_unconfigure(config: pytest.Config) -> None:
    config.stash[_watchdog_key].close()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for marker in item.iter_markers("leaks"):
            unknown = set(marker.args) - set(resources.KINDS)
            if unknown or not marker.args:
                raise pytest.UsageError(f"{item.nodeid}: leaks() takes some of {', '.join(resources.KINDS)}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    marker = item.get_closest_marker("watchdog")
    watchdog = item.config.stash[_watchdog_key]
    watchdog.arm(item.nodeid, WATCHDOG_S if marker is None else float(marker.args[0]))
    try:
        return (yield)
    finally:
        watchdog.disarm()


@pytest.hookimpl(wrapper=True)
def pytest_sessionfinish(session: pytest.Session) -> Iterator[None]:
    # Exit handlers may hang too, and are part of what is promised.
    session.config.stash[_watchdog_key].arm("the end of the test run", WATCHDOG_S)
    return (yield)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    long_files = config.stash.get(_long_files_key, [])
    if long_files:
        terminalreporter.section("files that are longer than a sitting", sep="-")
        for line in long_files:
            terminalreporter.line(line)


@pytest.fixture(scope="session")
def long_files(request: pytest.FixtureRequest) -> list[str]:
    """Lines for the end of the report on files that should be split."""
    lines: list[str] = []
    request.config.stash[_long_files_key] = lines
    return lines


@pytest.fixture(scope="module", autouse=True)
def _module_leaves_nothing(request: pytest.FixtureRequest) -> Iterator[None]:
    watchdog = request.config.stash[_watchdog_key].pid
    before = resources.look(frozenset({watchdog}))
    yield
    session.end_session()

    def surplus() -> list[str]:
        gc.collect()
        # ZeroMQ's context and the modules loaded meanwhile may keep some descriptors for the life of the process; each
        # test is held to account for those.
        return resources.look(frozenset({watchdog})).growth(before, frozenset({"descriptors"}))

    left = resources.settle(surplus, PATIENCE_S)
    if left:
        pytest.fail("left when the module's tests were done:\n  " + "\n  ".join(left), pytrace=False)


@pytest.fixture(autouse=True)
def _test_leaves_nothing(request: pytest.FixtureRequest, _module_leaves_nothing: None) -> Iterator[None]:
    fresh = request.node.get_closest_marker("fresh_session") is not None
    if fresh:
        session.end_session()
    overlook = frozenset(kind for marker in request.node.iter_markers("leaks") for kind in marker.args)
    ignored = frozenset({request.config.stash[_watchdog_key].pid})
    session_before = session.live_session()
    before = resources.look(ignored)
    yield
    if fresh:
        session.end_session()

    def surplus() -> list[str]:
        now = resources.look(ignored)
        found = _growth(before, now, session_before, overlook)
        if found:
            # What only the collector frees is no leak; collecting each time would cost more than the test.
            gc.collect()
            found = _growth(before, resources.look(ignored), session_before, overlook)
        return found

    left = resources.settle(surplus, PATIENCE_S)
    if left:
        pytest.fail("left behind by this test:\n  " + "\n  ".join(left), pytrace=False)


def _growth(before: Holdings, now: Holdings, session_before: object, overlook: frozenset[str]) -> list[str]:
    session_now = session.live_session()
    if session_now is None:
        return now.growth(before, overlook | _unaccountable(session_before, session_now))
    found = []
    if "processes" not in overlook:
        found = [f"{pool} is still open" for pool in session.open_pools(session_now)]
        if len(now.processes) <= max(len(before.processes), IDLE_SESSION_PROCESSES):
            # By count: a zygote or a spare may have been replaced by its like.  Workers of a pool keep it open.
            overlook |= {"processes"}
    return found + now.growth(before, overlook | _unaccountable(session_before, session_now))


def _unaccountable(session_before: object, session_now: object) -> frozenset[str]:
    """A session brings a thread, sockets, a store and a folder; once it is there, they may not grow."""
    if session_now is session_before:
        return frozenset()
    if session_now is None:
        return frozenset({"descriptors"})
    return frozenset({"threads", "descriptors", "shared memory", "folders"})


@pytest.fixture
def own_port() -> Iterator[int]:
    """A port at which nobody listens, and that nobody gets who does not ask for this one."""
    with ports.reserved(1) as [port]:
        yield port


@pytest.fixture
def run_script(tmp_path: Path) -> Callable[..., str]:
    """``run_script(source, *arguments, **options)`` runs a program in a fresh process and returns what it printed.

    :raises AssertionError: when it ends with another status than ``status`` (default 0); both outputs are shown.
    """

    def run(source: str, *arguments: str, status: int = 0, timeout_s: float = 50.0, **options: Any) -> str:
        script = tmp_path / "program.py"
        script.write_text(source)
        # The package where this process found it, be that a checkout or an installed wheel.
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        options = {"env": environment, "cwd": tmp_path, "timeout": timeout_s, **options}
        command = [sys.executable, str(script), *arguments]
        finished = subprocess.run(command, capture_output=True, text=True, **options)
        assert finished.returncode == status, f"status {finished.returncode}\n{finished.stdout}\n{finished.stderr}"
        return finished.stdout

    return run
