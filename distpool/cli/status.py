"""``distpool status``: what a cluster has, and who uses it."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from distpool.errors import ConnectError
from distpool.wire.resources import Shape
from distpool.wire.scheduler_to_driver import ClusterStatus

_STATUS_S = 10.0


def add_status(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The grammar of ``distpool status``."""
    parser = commands.add_parser(
        "status",
        help="show a cluster's nodes and the programs that use it",
        description="Show the nodes of yours that run on this machine, and their cluster.",
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

    running = statefolder.running_nodes()
    for node in running:
        role = "head" if node.head else "node"
        print(f"Here: {role} {node.node}, process {node.pid}, cluster {node.address}, log {node.log or '(foreground)'}")
    chosen = arguments.address or os.environ.get("DISTPOOL_ADDRESS")
    addresses = [chosen] if chosen else list(dict.fromkeys(node.address for node in running))
    if not addresses:
        print("No node of yours runs on this machine; --address asks a cluster elsewhere.")
        return 0
    failed = 0
    for address in addresses:
        try:
            print("\n".join(describe(ask_status(address, _STATUS_S))))
        except ConnectError as error:
            print(f"Cluster {address}: {error}")
            failed = 1
    return failed


def describe(found: ClusterStatus) -> list[str]:
    """The lines that are printed."""
    cpus = sum(node.capacity.num_cpus for node in found.nodes)
    used = sum(node.used.num_cpus for node in found.nodes)
    lines = [f"Cluster {found.cluster}: {len(found.nodes)} nodes, {used:g} of {cpus:g} CPUs in use"]
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
