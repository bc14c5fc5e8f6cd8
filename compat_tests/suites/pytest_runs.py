"""Collects a pytest suite once and runs single tests of it in forked processes."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compat_tests.runner.verdict import FAILED, PASSED, SKIPPED, Verdict

if TYPE_CHECKING:
    from compat_tests.runner.nursery import Nursery


def serve(nursery: Nursery, arguments: Sequence[str], before_test: Callable[[], None] | None = None) -> None:
    """Collects with ``pytest arguments`` and hands the tests to ``nursery.serve``.

    :param before_test: called in the test process before each test.
    """
    import pytest

    plugin = _Plugin(nursery, before_test)
    # -s: capture by file descriptors would write to a file that all forked processes share.
    options = ["-s", "-q", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", str(Path.cwd())]
    code = pytest.main([*options, *arguments], plugins=[plugin])
    if not plugin.served:
        raise RuntimeError(f"pytest collected nothing and ended with {code}")


class _Plugin:
    """Takes the place of pytest's loop over the collected tests."""

    def __init__(self, nursery: Nursery, before_test: Callable[[], None] | None) -> None:
        self._nursery = nursery
        self._before_test = before_test
        self._problems: list[str] = []
        #: Modules that skip themselves, and why.
        self._left_out: dict[str, str] = {}
        self._reports: list[Any] = []
        self.served = False

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            self._problems.append(f"{report.nodeid}: not collected\n{report.longreprtext}")
        elif report.skipped:
            self._left_out[report.nodeid] = _reason(report)

    def pytest_runtest_logreport(self, report: Any) -> None:
        self._reports.append(report)

    def pytest_runtestloop(self, session: Any) -> bool:
        if self._problems:
            # A module that vanishes from the suite must not look like a success.
            raise RuntimeError("\n".join(self._problems))
        items: dict[str, Any] = {}
        for item in session.items:
            name, count = item.nodeid, 2
            while name in items:
                name, count = f"{item.nodeid}#{count}", count + 1
            items[name] = item
        self.served = True
        # Each module that is left out counts as one test that is skipped, so that the results say so.
        self._nursery.serve([*items, *self._left_out], lambda name: self._run(name, items.get(name)))
        return True

    def _run(self, name: str, item: Any) -> Verdict:
        if item is None:
            return Verdict(SKIPPED, self._left_out[name])
        if self._before_test is not None:
            self._before_test()
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=None)
        failures = [f"{report.when}:\n{report.longreprtext}" for report in self._reports if report.failed]
        if failures:
            return Verdict(FAILED, "\n".join(failures))
        for report in self._reports:
            if report.skipped:
                if hasattr(report, "wasxfail"):
                    # The suite expects this test to fail with its own library as well.
                    return Verdict(PASSED)
                return Verdict(SKIPPED, _reason(report))
        return Verdict(PASSED)


def _reason(report: Any) -> str:
    return report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
