"""``distpool status``: what a cluster has, and who uses it; and the programs that have nodes of their own."""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from distpool.errors import ConnectError
from distpool.wire.resources import Shape
from distpool.wire.scheduler_to_driver import ClusterStatus

_STATUS_S = 10.0
#: For so long a program's own scheduler, on this machine, is waited for.
_OWN_S = 3.0
#: So much of a program's command line is shown.
_COMMAND_CHARACTERS = 60
_NO_OWN = "No program of yours on this machine has nodes of its own now."


def add_status(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The grammar of ``distpool status``."""
    parser = commands.add_parser(
        "status",
        help="show a cluster's nodes and the programs that use it",
        description="Show the nodes of yours that run on this machine and their cluster, and your programs here that "
        "have nodes of their own.",
    )
    parser.add_argument(
        "--address",
        metavar="ADDRESS",
        help="host:port of a scheduler, or a token file (default: DISTPOOL_ADDRESS, or the cluster of a node here)",
    )
    parser.set_defaults(run=status)


def status(arguments: argparse.Namespace) -> int:
    """Run ``distpool status``."""
    from distpool.driver.attach import ask_status
    from distpool.node import statefolder
    from distpool.provision.registry import is_engine

    running = statefolder.running_nodes()
    for node in running:
        role = "head" if node.head else "node"
        print(f"Here: {role} {node.node}, process {node.pid}, cluster {node.address}, log {node.log or '(foreground)'}")
    chosen = arguments.address or os.environ.get("DISTPOOL_ADDRESS")
    if chosen and is_engine(chosen):
        print(f"{chosen} names an engine: each program that uses it has nodes of its own.")
        print("\n".join(_own_programs() or [_NO_OWN]))
        return 0
    addresses = [chosen] if chosen else list(dict.fromkeys(node.address for node in running))
    failed = 0
    for address in addresses:
        try:
            print("\n".join(describe(ask_status(address, _STATUS_S))))
        except ConnectError as error:
            print(f"Cluster {address}: {error}")
            failed = 1
    if not chosen:
        own = _own_programs()
        if not running:
            print("No node of yours runs on this machine; --address asks a cluster elsewhere.")
            own = own or [_NO_OWN]
        for line in own:
            print(line)
    return failed


def _own_programs() -> list[str]:
    """The lines about programs of this user, on this machine, each of which has a scheduler for itself."""
    from distpool.driver.attach import ask_own_status
    from distpool.node.folders import root_folders

    rows = [("PROCESS", "COMMAND", "NODES", "IN USE", "WORKERS", "WAITS FOR")]
    for root in root_folders():
        found = ask_own_status(root, _OWN_S)
        if found is None or not found.drivers:
            continue  # it begins, or ends, just now
        program = next((driver for driver in found.drivers if not driver.parent), found.drivers[0])
        # One that offers nothing has the scheduler and is no node to its program.
        nodes = [node for node in found.nodes if node.capacity.num_cpus or node.capacity.num_gpus]
        cpus = sum(node.capacity.num_cpus for node in nodes)
        used = sum(node.used.num_cpus for node in nodes)
        workers = sum(driver.workers for driver in found.drivers)
        unmet = sum(driver.unmet for driver in found.drivers)
        usage = f"{used:g}/{cpus:g} CPUs"
        rows.append((str(program.pid), _command(program.pid), str(len(nodes)), usage, str(workers), str(unmet)))
    return ["Programs of yours on this machine that have nodes of their own:", *_table(rows)] if rows[1:] else []


def _command(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
    except OSError:
        return "?"
    line = shlex.join(word.decode(errors="replace") for word in words)
    return line if len(line) <= _COMMAND_CHARACTERS else f"{line[: _COMMAND_CHARACTERS - 3]}..."


def describe(found: ClusterStatus) -> list[str]:
    """The lines that are printed."""
    cpus = sum(node.capacity.num_cpus for node in found.nodes)
    used = sum(node.used.num_cpus for node in found.nodes)
    lines = [f"Cluster {found.cluster}: {_count(found.nodes, 'node')}, {used:g} of {cpus:g} CPUs in use"]
    rows = [("NODE", "HOST", "IN USE", "WORKERS")]
    rows += [(node.node, node.host, _usage(node.used, node.capacity), str(node.workers)) for node in found.nodes]
    lines += _table(rows)
    if found.drivers:
        rows = [("PROGRAM", "POOLS", "WORKERS", "WAITS FOR")]
        rows += [
            (
                f"process {driver.pid} on {driver.host}" + (" (in a task)" if driver.parent else ""),
                ", ".join(driver.pools) or "-",
                str(driver.workers),
                str(driver.unmet),
            )
            for driver in found.drivers
        ]
        lines += _table(rows)
    return lines


def _count(things: Sequence[object], name: str) -> str:
    return f"{len(things)} {name}{'s' * (len(things) != 1)}"


def _usage(used: Shape, capacity: Shape) -> str:
    parts = [f"{used.num_cpus:g}/{capacity.num_cpus:g} CPUs"]
    if capacity.num_gpus:
        parts.append(f"{used.num_gpus:g}/{capacity.num_gpus:g} GPUs")
    if used.memory_bytes:
        parts.append(f"{used.memory_bytes / 2**30:.1f}/{capacity.memory_bytes / 2**30:.1f} GiB")
    amounts = dict(used.custom)
    parts += [f"{amounts.get(name, 0):g}/{amount:g} {name}" for name, amount in capacity.custom]
    return ", ".join(parts)


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
