"""``run SUITE``: other projects' test suites against distpool; ``report``: the results as a page."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from compat_tests import suites
from compat_tests.runner import engine, expectations, place, report, results
from compat_tests.runner.interpreter import Interpreter, find_interpreter
from compat_tests.runner.verdict import FAILED, HUNG, PASSED, SKIPPED, Record

_CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "distpool-compat"
_PAGE = engine.ROOT / "docs" / "compatibility.md"
#: Exit statuses: a suite that is not to be had is neither a success nor a failure of distpool.
_UNEXPECTED, _UNAVAILABLE = 1, 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; gives the exit status."""
    options = _parser().parse_args(arguments)
    if options.command == "report":
        page = report.render(results.read_all(options.results))
        options.output.write_text(page)
        print(f"wrote {options.output}")
        return 0
    try:
        interpreters = [find_interpreter(wanted) for wanted in options.python or [None]]
    except LookupError as error:
        print(f"compat_tests: {error}", file=sys.stderr)
        return 2
    names = suites.NAMES if options.suite == "all" else (options.suite,)
    status = 0
    for interpreter in interpreters:
        for name in names:
            suite = suites.load(name)
            for target in options.target or [target for target in suite.targets if target not in suites.BASELINES]:
                status = max(status, _run(suite, target, interpreter, options))
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m compat_tests", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="run a suite and compare with its committed exceptions")
    run.add_argument("suite", type=_suite_name, help=f"{', '.join(suites.NAMES)}, or all")
    run.add_argument("--python", action="append", help="path or version, e.g. 3.13; may be repeated")
    run.add_argument(
        "--target",
        action="append",
        help="e.g. distpool, or stdlib: the original, unpatched (default: all but the originals)",
    )
    run.add_argument(
        "-k",
        dest="patterns",
        action="append",
        default=[],
        help="only tests whose name has this in it (* stands for anything); may be repeated, to have them all",
    )
    run.add_argument("-j", dest="jobs", type=int, default=2, help="tests at a time (default 2)")
    run.add_argument("--timeout", type=float, help="limit for one test, in seconds")
    run.add_argument("--retries", type=int, default=0, help="run a failed test again before it counts (default 0)")
    run.add_argument("--resume", action="store_true", help="go on where a run that was cut short ended")
    run.add_argument("--hosts", action="store_true", help="as programs of a cluster of three hosts (needs root)")
    run.add_argument("--list", action="store_true", help="show the tests' names, run nothing")
    run.add_argument("-v", dest="verbose", action="store_true", help="show every test, and details of failures")
    run.add_argument("--results", type=Path, default=results.FOLDER, help="folder for the result")
    run.add_argument("--strict", action="store_true", help="exceptions that no longer hold fail the run as well")
    page = commands.add_parser("report", help="write docs/compatibility.md from the results")
    page.add_argument("--results", type=Path, default=results.FOLDER)
    page.add_argument("--output", type=Path, default=_PAGE)
    return parser


def _suite_name(name: str) -> str:
    try:
        return name if name == "all" else suites.load(name).name
    except (KeyError, ModuleNotFoundError):
        raise argparse.ArgumentTypeError(f"no suite {name!r}; there are {', '.join(suites.NAMES)}, and all") from None


def _run(suite: suites.Suite, target: str, interpreter: Interpreter, options: argparse.Namespace) -> int:
    where = ", three hosts" if options.hosts else ""
    title = f"{suite.name} ({target}{where}) on Python {interpreter.version}"
    if target not in suite.targets:
        print(f"compat_tests: {suite.name} has no target {target}, only {', '.join(suite.targets)}", file=sys.stderr)
        return 2
    if options.hosts:
        why_not = place.no_hosts()
        if why_not:
            print(f"=== {title}: NOT RUN: {why_not}")
            return _UNAVAILABLE
    label = target + place.SUFFIX if options.hosts else target
    entries = expectations.load(suite.name, label, interpreter.minor)
    try:
        additions = suite.prepare(interpreter, _CACHE)
    except suites.SuiteUnavailable as unavailable:
        print(f"=== {title}: NOT RUN: {unavailable}")
        return _UNAVAILABLE

    journal = results.Journal(options.results, suite.name, label, interpreter)
    earlier = {record.test: record for record in journal.read()} if options.resume else {}
    order: dict[str, int] = {}

    def choose(tests: Sequence[str]) -> Sequence[str]:
        order.update((test, index) for index, test in enumerate(tests))
        if options.patterns:
            wanted = [f"*{pattern}*" for pattern in options.patterns]
            tests = [test for test in tests if any(expectations.matches(pattern, test) for pattern in wanted)]
        if options.list:
            print("\n".join(tests))
            return []
        print(f"=== {title}: {len(tests)} tests", flush=True)
        for test in earlier.keys() - set(tests):
            del earlier[test]
        if earlier:
            print(f"{len(earlier)} of them were run before")
        if not options.resume:
            journal.clear()
        return [test for test in tests if test not in earlier]

    def progress(record: Record, done: int, total: int) -> None:
        journal.add(record)
        known = any(entry.covers(record.test) for entry in entries)
        if options.verbose or record.outcome in (FAILED, HUNG) or record.attempts > 1:
            note = " (listed)" if known and record.outcome != PASSED else ""
            again = f", attempt {record.attempts}" if record.attempts > 1 else ""
            print(f"[{done}/{total}] {record.outcome}{note} {record.seconds:.1f} s{again} {record.test}", flush=True)
            if options.verbose and record.outcome in (FAILED, HUNG):
                print("    " + record.detail.replace("\n", "\n    "), flush=True)
        elif record.outcome == SKIPPED and suite.name == "libraries":
            print(f"[{done}/{total}] SKIPPED {record.test}: {record.detail}", flush=True)
        elif done % 100 == 0:
            print(f"[{done}/{total}]", flush=True)

    started = time.monotonic()
    try:
        records = engine.run_suite(
            suite.name,
            target,
            interpreter,
            additions,
            choose,
            progress,
            jobs=options.jobs,
            timeout_s=options.timeout or suite.timeout_s,
            retries=options.retries,
            expected=lambda record: expectations.fitting(record, entries) is not None,
            place=place.three_hosts if options.hosts else place.here,
        )
    except engine.SuiteBroken as broken:
        print(f"=== {title}: the suite could not be loaded:\n{broken}")
        return _UNEXPECTED
    if options.list:
        return 0
    records = sorted([*earlier.values(), *records], key=lambda record: order[record.test])
    judgement = expectations.judge(records, entries, complete=not options.patterns)
    seconds = time.monotonic() - started
    selection = ", ".join(options.patterns)
    path = results.write(options.results, suite.name, label, interpreter, selection, records, judgement, seconds)
    journal.clear()
    return _conclude(title, records, judgement, path, options.strict)


def _conclude(title: str, records: list[Record], judgement: expectations.Judgement, path: Path, strict: bool) -> int:
    for surprise in judgement.surprises:
        print(f"warning: {surprise}")
    for record in judgement.unexpected:
        print(f"unexpected: {record.outcome} {record.test}")
    counts = results.counts(records)
    numbers = ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
    print(f"=== {title}: {numbers} of {len(records)}; {len(judgement.expected)} listed exceptions,", end=" ")
    print(f"{len(judgement.unexpected)} unexpected; {path}", flush=True)
    return _UNEXPECTED if judgement.unexpected or (strict and judgement.surprises) else 0


if __name__ == "__main__":
    sys.exit(main())
