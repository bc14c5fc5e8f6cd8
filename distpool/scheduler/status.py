"""The books as people want to see them (``distpool status``)."""

from __future__ import annotations

from distpool.scheduler.book import Book
from distpool.scheduler.state import HELD
from distpool.wire.resources import Shape
from distpool.wire.scheduler_to_driver import ClusterStatus, DriverStatus, NodeStatus


def cluster_status(book: Book, cluster: str, request: int) -> ClusterStatus:
    """The answer to ``StatusWanted``."""
    nodes = tuple(
        NodeStatus(
            node.name,
            node.host,
            node.capacity,
            Shape(
                node.used_cpus,
                node.used_gpus,
                node.used_memory_bytes,
                tuple(sorted((name, amount) for name, amount in node.used_custom.items() if amount)),
            ),
            len(node.leases),
        )
        for node in book.nodes.values()
    )
    drivers = []
    for driver in book.drivers.values():
        members = [(pool, pool.members[driver.name]) for pool in driver.pools.values()]
        drivers.append(
            DriverStatus(
                driver.name,
                driver.host,
                driver.pid,
                driver.parent_lease,
                tuple(pool.label or pool.name for pool, _ in members),
                sum(1 for _, member in members for lease in member.leases.values() if lease.state in HELD),
                sum(max(0, demand.unmet) for _, member in members for demand in member.demands.values()),
            )
        )
    return ClusterStatus(request, cluster, nodes, tuple(drivers))
