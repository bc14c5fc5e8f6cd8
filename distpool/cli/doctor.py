"""``distpool doctor``: is everything as it must be, here and on the nodes of a cluster; and if not, what to do."""

from __future__ import annotations

import argparse
import os
import socket
import sys
import time
from collections.abc import Iterator
from typing import NamedTuple

from distpool.errors import ConnectError
from distpool.node.checkup import BEWARE, OK, WRONG, Finding, examine, versions

#: Clocks that differ by more make logs and time-outs hard to understand.
_CLOCK_S = 2.0
#: How long the rest of the nodes is waited for when the first is there, and how long a node may take to answer.
_REST_S, _ANSWER_S = 60.0, 60.0
#: How often it is tried to get a worker of each node.
_ROUNDS = 5


class Report(NamedTuple):
    """What a node says of itself."""

    node: str
    host: str
    clock: float
    versions: dict[str, str]
    findings: list[Finding]


def add_doctor(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The grammar of ``distpool doctor``."""
    parser = commands.add_parser(
        "doctor",
        help="look for what is wrong, and say how to mend it",
        description="Look for what is wrong on this machine, and in a cluster or with an engine if one is named. "
        "The exit status is 1 when something does not work.",
    )
    parser.add_argument(
        "address",
        nargs="?",
        default=os.environ.get("DISTPOOL_ADDRESS") or None,
        help="of a cluster or an engine, as in DISTPOOL_ADDRESS (default: that variable, otherwise this machine alone)",
    )
    parser.add_argument("--quiet", action="store_true", help="say only what is not as it should be")
    parser.set_defaults(run=doctor)


def doctor(arguments: argparse.Namespace) -> int:
    """Run ``distpool doctor``."""
    os.environ.pop("DISTPOOL_ADDRESS", None)  # what is examined is said once
    own = versions()
    known = ", ".join(f"{name} {version}" for name, version in own.items())
    levels = show(f"This machine, {socket.gethostname()}: {known}", examine(), arguments.quiet)
    if arguments.address is None:
        levels |= show("A program on this machine", _private_node(), arguments.quiet)
    else:
        for title, findings in _cluster(arguments.address, own):
            levels |= show(title, findings, arguments.quiet)
    if WRONG in levels:
        print("Something does not work; what to do stands behind ->.")
    elif BEWARE in levels:
        print("It works; what could be better stands behind ->.")
    elif not arguments.quiet:
        print("All is well.")
    return int(WRONG in levels)


def show(title: str, findings: list[Finding], quiet: bool = False) -> set[str]:
    """Print findings; returns their levels."""
    shown = [finding for finding in findings if not quiet or finding.level != OK]
    if shown:
        print(title)
    for finding in shown:
        print(f"  {finding.level:<7} {finding.subject}: {finding.words}")
        if finding.cure:
            print(f"          -> {finding.cure}")
    sys.stdout.flush()
    return {finding.level for finding in findings}


# -- what is tried ---------------------------------------------------------------------------------------------------


def _private_node() -> list[Finding]:
    from distpool import DistExecutor, shutdown

    began = time.monotonic()
    try:
        with DistExecutor(1) as executor:
            executor.submit(pow, 2, 10).result(_ANSWER_S)
    except Exception as error:
        return [Finding(WRONG, "a call in a worker", f"{type(error).__name__}: {error}")]
    finally:
        shutdown()
    return [Finding(OK, "a call in a worker", f"answered {time.monotonic() - began:.1f} s after the start")]


def _cluster(address: str, own: dict[str, str]) -> Iterator[tuple[str, list[Finding]]]:
    """What is found at an address, and on each node there."""
    from distpool import init, shutdown
    from distpool.driver.current import current_session

    title = f"The cluster at {address}"
    try:
        init(address)
        session = current_session()
        missing = session.cluster.wait_for_all(_REST_S) if session.cluster is not None else ""
        nodes = {node.node for node in session.nodes() or () if node.capacity.num_cpus >= 1}
        findings = [Finding(OK, "the scheduler", f"answers; it is of the same version, and has {len(nodes)} nodes")]
        if missing:
            findings.append(Finding(WRONG, "nodes", missing))
        if not nodes:
            findings.append(Finding(BEWARE, "nodes", "there is none that has a CPU", "start some; calls wait for them"))
        reports, trouble = _reports(nodes)
        yield title, findings + trouble
        for report, off_s in sorted(reports.values(), key=lambda heard: (heard[0].host, heard[0].node)):
            yield f"Node {report.node} on {report.host}", [*compare(report, own, off_s), *report.findings]
    except ConnectError as error:
        yield title, [Finding(WRONG, "the way there", str(error))]
    finally:
        shutdown()


def _reports(nodes: set[str]) -> tuple[dict[str, tuple[Report, float]], list[Finding]]:
    """What each node says of itself, by how much its clock is off at least, and what is to be said of the others."""
    from distpool import DistExecutor

    reports: dict[str, tuple[Report, float]] = {}
    trouble: list[Finding] = []
    for attempt in range(_ROUNDS):
        if not nodes - set(reports):
            break
        try:
            # As many at one time as there are nodes: the emptiest node is chosen for each.
            with DistExecutor(len(nodes) * (attempt + 1)) as executor:
                spread = executor.with_options(strategy="spread")
                asked = time.time()
                for future in [spread.submit(_examine_node) for _ in range(len(nodes) * (attempt + 1))]:
                    report = future.result(_ANSWER_S)
                    # It looked at its clock between the two.
                    off_s = max(asked - report.clock, report.clock - time.time(), 0.0)
                    reports.setdefault(report.node, (report, off_s))
        except Exception as error:
            words = f"{type(error).__name__}: {error}"
            cure = "can this machine reach the ports of the nodes (distpool start --worker-ports)?"
            trouble.append(Finding(WRONG, "a call in a worker", words, cure))
            break
    absent = sorted(nodes - set(reports))
    trouble += [Finding(BEWARE, "nodes", f"{node} was not examined: it had no room for a call") for node in absent]
    return reports, trouble


def _examine_node() -> Report:
    """Runs on a node, for long enough that each node gets one."""
    from distpool.worker import context

    worker = context.current()
    assert worker is not None
    report = Report(worker.node, socket.gethostname(), 0.0, versions(), examine())
    time.sleep(0.3)
    return report._replace(clock=time.time())


def compare(report: Report, own: dict[str, str], off_s: float) -> list[Finding]:
    """How a node's versions and clock agree with ours.

    :param off_s: by so much at least its clock is off.
    """
    found = []
    if off_s > _CLOCK_S:
        cure = "synchronise the clocks (chrony, systemd-timesyncd): times in logs and of files do not match"
        found.append(Finding(BEWARE, "clock", f"it differs by {off_s:.0f} s or more from the one here", cure))
    other = {name: version for name, version in report.versions.items() if own.get(name, version) != version}
    for name, version in other.items():
        words = f"{name} {version} there, {own[name]} here"
        found.append(Finding(BEWARE, "versions", words, "install the same: what one side pickles the other reads"))
    absent = [f"{name} {own[name]} here, none there" for name in own if name not in report.versions]
    found += [Finding(BEWARE, "versions", words, "install it if tasks use it") for words in absent]
    return found or [Finding(OK, "versions and clock", "the same as here")]
