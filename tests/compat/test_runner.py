"""The runner of other projects' suites: what it says of tests that fail, hang, die or leave something behind."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from compat_tests import __main__ as command
from compat_tests import suites
from compat_tests.runner import comparison, engine, expectations, report, results
from compat_tests.runner.interpreter import Interpreter
from compat_tests.runner.verdict import FAILED, HUNG, PASSED, SKIPPED, Record
from tests.compat import sample_suite
from tests.multihost import hosts

SUITE = sample_suite.SUITE.name
#: For tests that hang; what does not hang has a minute.
SHORT_S = "1"


class Run:
    """:param status: the exit status.
    :param result: what was written for the report.
    :param output: what was printed."""

    def __init__(self, status: int, result: dict[str, Any], output: str) -> None:
        self.status = status
        self.result = result
        self.output = output


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Run]:
    """Runs tests of the sample suite by the command line, one at a time unless told."""
    monkeypatch.setattr(expectations, "FOLDER", tmp_path)
    monkeypatch.setenv(sample_suite.MEMORY, str(tmp_path))

    def run_tests(pattern: str, *options: str, exceptions: str = "") -> Run:
        (tmp_path / f"{SUITE}.toml").write_text(exceptions)
        status = command.main(["run", SUITE, "-k", pattern, "-j", "1", "--results", str(tmp_path), *options])
        (path,) = tmp_path.glob("*.json")
        return Run(status, json.loads(path.read_text()), capsys.readouterr().out)

    return run_tests


def entry(test: str, outcome: str = FAILED) -> str:
    return f'[[exception]]\ntests = ["{test}"]\noutcome = "{outcome}"\nkind = "private"\nreason = "a reason"\n'


@pytest.mark.parametrize(
    ("test", "detail"),
    [
        ("fails", "it is wrong"),
        ("raises", "ValueError: it is raised"),
        ("dies", "without a verdict, exit code 7"),
        ("leaves_a_process", "left processes behind"),
        ("kills_the_nursery", "the nursery ended"),
    ],
)
def test_a_failure_fails_the_run(run: Any, test: str, detail: str) -> None:
    failed = run(test)
    assert failed.status == 1
    assert failed.result["counts"][FAILED] == failed.result["total"] == 1
    assert detail in failed.result["failures"][0]["detail"]
    assert f"unexpected: failed {test}" in failed.output


def test_a_run_that_was_cut_short_goes_on_where_it_ended(run: Any, tmp_path: Path) -> None:
    assert run("is_right").status == 0
    assert not list(tmp_path.glob("*.partial")), "a complete run leaves nothing to go on with"
    minor = f"{sys.version_info[0]}.{sys.version_info[1]}"
    journal = tmp_path / f"{SUITE}-{sample_suite.SUITE.targets[0]}-py{minor}.partial"
    # What a run leaves that is killed while it writes.
    done = json.dumps(Record("fails", PASSED, 1.0)._asdict())
    journal.write_text(f'{done}\n{{"test": "is_ri')
    resumed = run("is_right", "-k", "fails", "--resume")
    assert resumed.result["outcomes"]["fails"] == PASSED, "it was run again"
    assert resumed.result["outcomes"]["is_right"] == PASSED
    assert "1 of them were run before" in resumed.output
    assert run("fails").result["outcomes"] == {"fails": FAILED}, "without the option all is run"


def test_a_failure_that_is_listed_does_not(run: Any) -> None:
    listed = run("fails", exceptions=entry("fails"))
    assert listed.status == 0
    assert "1 listed exceptions, 0 unexpected" in listed.output
    assert run("fails", exceptions=entry("other")).status == 1
    # Nor does an entry that expects a hang cover a failure.
    assert run("fails", exceptions=entry("fails", HUNG)).status == 1


@pytest.mark.parametrize("test", ["never_ends", "ends_but_for_a_thread"])
def test_a_hang_is_ended_and_counts_as_a_failure(run: Any, test: str) -> None:
    hung = run(test, "--timeout", SHORT_S)
    assert hung.status == 1
    assert hung.result["counts"][HUNG] == hung.result["total"] == 1
    (found,) = hung.result["failures"]
    assert "still running after 1 s" in found["detail"]
    assert "most recent call first" in found["detail"]  # the stacks of its threads
    assert run(test, "--timeout", SHORT_S, exceptions=entry(test, HUNG)).status == 0
    # An entry that expects a failure does not cover a hang.
    assert run(test, "--timeout", SHORT_S, exceptions=entry(test)).status == 1


def test_what_passes_and_what_is_skipped(run: Any) -> None:
    assert run("is_right").status == 0
    skipped = run("skips")
    assert skipped.status == 0
    assert skipped.result["skipped"] == {"not here": 1}


@pytest.mark.skipif(bool(hosts.missing()), reason=f"no hosts of their own: {hosts.missing()}")
def test_on_hosts_a_test_is_a_program_of_their_cluster(tmp_path: Path) -> None:
    assert command.main(["run", "tests.compat.hosts_suite", "--hosts", "--results", str(tmp_path)]) == 0
    (path,) = tmp_path.glob("*.json")
    result = json.loads(path.read_text())
    assert result["target"] == "distpool-hosts"
    assert list(result["skipped"]) == ["program works with 24 CPUs of ['one', 'three', 'two']"]


def test_exceptions_of_one_machine_hold_on_hosts_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expectations, "FOLDER", tmp_path)
    both = entry("anywhere") + entry("here") + 'targets = ["distpool"]\n' + entry("there") + 'targets = ["hosts"]\n'
    (tmp_path / "some.toml").write_text(both)
    assert [found.tests for found in expectations.load("some", "distpool", "3.13")] == [("anywhere",), ("here",)]
    on_hosts = expectations.load("some", "distpool-hosts", "3.13")
    assert [found.tests for found in on_hosts] == [("anywhere",), ("here",), ("there",)]
    other = expectations.load("some", "distexecutor-hosts", "3.13")
    assert [found.tests for found in other] == [("anywhere",), ("there",)]


def test_an_entry_that_no_longer_holds_is_reported(run: Any) -> None:
    stale = entry("is_right")
    passed = run("is_right", exceptions=stale)
    assert passed.status == 0
    assert "warning: is_right passes, but is listed: a reason" in passed.output
    assert run("is_right", "--strict", exceptions=stale).status == 1
    assert run("is_right", "--strict", exceptions=entry("is_right", "either")).status == 0


def test_retries(run: Any) -> None:
    again = run("needs_two_attempts", "--retries", "1")
    assert again.status == 0
    assert again.result["passed_on_retry"] == ["needs_two_attempts"]
    assert "attempt 3 fails" in run("fails", "--retries", "2").output
    assert "attempt" not in run("fails", "--retries", "2", exceptions=entry("fails")).output


def test_all_of_it_two_at_a_time(run: Any) -> None:
    """One test that kills its nursery, or hangs, costs none of the others its turn."""
    all_of_it = run("", "-j", "2", "--timeout", "4")
    outcomes = all_of_it.result["outcomes"]
    assert list(outcomes) == list(sample_suite.TESTS)
    assert all_of_it.result["counts"] == {PASSED: 1, FAILED: 6, HUNG: 2, SKIPPED: 1}


def test_the_list_of_tests(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["run", SUITE, "--list"]) == 0
    assert capsys.readouterr().out.split() == list(sample_suite.TESTS)
    assert command.main(["run", SUITE, "--list", "-k", "is_*t", "-k", "skip"]) == 0
    assert capsys.readouterr().out.split() == ["is_right", "skips"]


def test_processes_below_a_test_are_patched_at_little_cost() -> None:
    """Suites start thousands of interpreters, and each of them is patched."""
    code = (
        "import sys; print([name for name in ('subprocess', 'shutil', 'pathlib', 'unittest') if name in sys.modules])"
    )
    for suite in ("concurrent_futures", "multiprocessing", "joblib", "sklearn"):
        environment = engine.environment_for(suite, "distpool", {"COMPAT_EXTRAS": ""})
        program = [sys.executable, "-c", code]
        run = subprocess.run(program, env=environment, capture_output=True, text=True, timeout=60, check=True)
        bare = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
        assert run.stdout == bare.stdout, suite


class TestExceptions:
    """The files of known exceptions."""

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ('[[exception]]\ntests = ["a"]\nkind = "private"', "a reason"),
            ('[[exception]]\ntests = ["a"]\nkind = "whim"\nreason = "r"', "a kind of"),
            ('[[exception]]\nkind = "private"\nreason = "r"', "needs tests"),
            ('[[exception]]\ntests = ["a"]\nkind = "private"\nreason = "r"\noutcome = "passed"', "outcome"),
            ('[[exception]]\ntests = ["a"]\nkind = "private"\nreason = "r"\nversion = "3.10"', "unknown keys"),
        ],
    )
    def test_what_makes_no_sense_is_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str
    ) -> None:
        monkeypatch.setattr(expectations, "FOLDER", tmp_path)
        (tmp_path / "mine.toml").write_text(text)
        with pytest.raises(expectations.ExpectationError, match=message):
            expectations.load("mine", "distpool", "3.11")

    def test_which_apply(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(expectations, "FOLDER", tmp_path)
        (tmp_path / "mine.toml").write_text(
            entry("everywhere") + entry("old") + 'python = ["3.10"]\n' + entry("original") + 'targets = ["stdlib"]\n'
        )

        def applying(target: str, minor: str) -> list[str]:
            return [test for found in expectations.load("mine", target, minor) for test in found.tests]

        assert applying("distpool", "3.10") == ["everywhere", "old"]
        assert applying("distpool", "3.13") == ["everywhere"]
        assert applying("stdlib", "3.10") == ["original"]

    @pytest.mark.parametrize("suite", suites.NAMES)
    def test_those_that_are_committed(self, suite: str) -> None:
        for target in suites.load(suite).targets:
            for found in expectations.load(suite, target, "3.11"):
                assert len(found.reason) > 20

    def test_an_entry_without_a_test_is_reported_by_complete_runs(self) -> None:
        known = expectations.Expectation(("gone",), (), (), FAILED, "private", "a reason")
        record = Record("here", PASSED, 0.1)
        assert expectations.judge([record], [known], complete=True).surprises == ["no test matches gone"]
        assert expectations.judge([record], [known], complete=False).surprises == []


class TestReport:
    """The page that is made from the results."""

    def test_what_it_says_of_a_run(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(expectations, "FOLDER", tmp_path)
        (tmp_path / "joblib.toml").write_text(entry("*listed"))
        records = [
            Record("a.test_good", PASSED, 0.1),
            Record("a.test_listed", FAILED, 0.1, "why"),
            Record("a.test_other", HUNG, 0.1, "why"),
            Record("a.test_skipped", SKIPPED, 0.1, "no such thing"),
        ]
        judgement = expectations.judge(records, expectations.load("joblib", "distpool", "3.11"), complete=True)
        python = Interpreter(Path("python"), "3.11.7", tmp_path, {"joblib": "1.6"})
        results.write(tmp_path, "joblib", "distpool", python, "", records, judgement, 1.0)
        page = report.render(results.read_all(tmp_path))
        assert "| joblib 1.6 | 3.11.7 | distpool | 1 | 1 | 1 | 1 | 1 | 4 |" in page
        assert "**a reason** (the test inspects private parts" in page
        assert "- `a.test_listed`: 3.11" in page
        assert "**Unexpected failures**, to be fixed:\n\n- `a.test_other`: 3.11" in page
        assert "- 1 × no such thing" in page

    def test_each_test_counts_with_its_last_run(self, tmp_path: Path) -> None:
        python = Interpreter(Path("python"), "3.11.7", tmp_path, {})

        def write(selection: str, *records: Record) -> None:
            judgement = expectations.judge(records, [], complete=not selection)
            results.write(tmp_path, "joblib", "distpool", python, selection, records, judgement, 1.0)

        write("", Record("a", FAILED, 0.1, "why"), Record("b", PASSED, 0.1), Record("c", HUNG, 0.1, "long"))
        write("a, b", Record("a", PASSED, 0.1), Record("b", FAILED, 0.1, "now"), Record("other", FAILED, 0.1))
        (result,) = results.read_all(tmp_path)
        assert result["outcomes"] == {"a": PASSED, "b": FAILED, "c": HUNG}
        assert result["counts"] == {PASSED: 1, FAILED: 1, HUNG: 1, SKIPPED: 0}
        assert [(failure["test"], failure["detail"]) for failure in result["failures"]] == [("b", "now"), ("c", "long")]

    def test_a_selection_does_not_count_as_a_run(self, tmp_path: Path) -> None:
        python = Interpreter(Path("python"), "3.11.7", tmp_path, {})
        judgement = expectations.judge([], [], complete=False)
        results.write(tmp_path, "joblib", "distpool", python, "some", [], judgement, 1.0)
        assert results.read_all(tmp_path) == []

    def test_the_comparison_with_the_original(self, tmp_path: Path) -> None:
        (tmp_path / "test_it.py").write_text(
            'def test_one():\n    """It works (python/cpython#1,\n    python/cpython#22).\n\n    More."""\n'
        )
        ran = [
            {"target": "stdlib", "python": "3.13.0", "outcomes": {"test_it.py::test_one": PASSED}},
            {"target": "stdlib", "python": "3.9.1", "outcomes": {"test_it.py::test_one": HUNG}},
            {"target": "distpool", "python": "3.9.1", "outcomes": {"test_it.py::test_one": PASSED}},
        ]
        row = comparison.render(ran, tmp_path).splitlines()[-1]
        assert row.startswith("| It works. | hangs (3.9), right (3.13) | right | [#1](https://github.com/python/")
        (tmp_path / "test_it.py").write_text("def test_one(): pass\n")
        with pytest.raises(ValueError, match="names no issue of CPython"):
            comparison.render(ran, tmp_path)
