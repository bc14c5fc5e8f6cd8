"""The books recounted from scratch; called by tests after every event."""

from __future__ import annotations

from distpool.scheduler.book import Book
from distpool.scheduler.capacity import EPSILON, Node
from distpool.scheduler.state import HELD, USES_BUDGET, LeaseState, Root

_SLACK = 1e-6


def check_book(book: Book) -> None:
    """Raise ``AssertionError`` when a sum is wrong, a budget exceeded, or something is left of what ended."""
    roots: dict[Root, float] = {}
    for pool in book.pools.values():
        used = exempt = 0.0
        assert pool.members or not pool.closed, f"closed pool {pool.name} is left"
        for member in pool.members.values():
            member_used = 0.0
            held: dict[object, int] = {}
            driver = book.drivers.get(member.driver)
            present = driver is not None and pool.name in driver.pools
            assert present or member.leases, f"{member.driver} is left in {pool.name}"
            for lease in member.leases.values():
                assert book.leases.get(lease.name) is lease
                assert lease.node.leases.get(lease.name) is lease
                assert book.nodes.get(lease.node.name) is lease.node
                assert present or lease.state is LeaseState.STOPPING, f"{lease.name}: {lease.state} of a lost driver"
                if lease.state in USES_BUDGET:
                    member_used += lease.shape.num_cpus
                    exempt += lease.shape.num_cpus if lease.exempt else 0.0
                if lease.state in HELD:
                    held[lease.shape] = held.get(lease.shape, 0) + 1
            assert abs(member_used - member.used_cpus) < _SLACK, f"{member.driver}: {member.used_cpus}"
            used += member_used
            for shape, demand in member.demands.items():
                assert demand.held == held.pop(shape, 0), f"{member.driver}: {demand.held} held"
                assert (demand in book.unmet) == demand.short
                if demand.short:
                    assert demand.aside != (demand in pool.queue), "neither in the queue nor aside"
            assert not held, f"leases without demand: {held}"
        assert abs(used - pool.used_cpus) < _SLACK
        assert used - exempt <= pool.slots + EPSILON, f"pool {pool.name} uses {used:g} of {pool.slots:g}"
        roots[pool.root] = roots.get(pool.root, 0.0) + used
    for root, used in roots.items():
        assert abs(root.used_cpus - used) < _SLACK
    _check_nodes(book)
    _check_drivers(book)


def _check_nodes(book: Book) -> None:
    for lease in book.leases.values():
        if lease.gang is not None and lease.state in HELD:
            assert all(other.state is not LeaseState.ENDED for other in lease.gang.leases), (
                f"{lease.name} is left alone"
            )
            assert len(lease.gang.leases) == lease.shape.gang
            assert lease.gang.leases[lease.rank] is lease
    for node in book.nodes.values():
        cpus = sum(lease.shape.num_cpus for lease in node.leases.values() if lease.on_cpu)
        exempt = sum(lease.shape.num_cpus for lease in node.leases.values() if lease.exempt)
        memory_bytes = sum(lease.shape.memory_bytes for lease in node.leases.values())
        assert abs(cpus - node.used_cpus) < _SLACK, f"node {node.name}: {cpus} {node.used_cpus}"
        assert memory_bytes == node.used_memory_bytes
        assert node.elastic_cpus or cpus - exempt <= node.capacity.num_cpus + _SLACK
        _check_gpus(node)
        # Of what an earlier scheduler granted, it may have taken something for lost that was about to start.
        granted_bytes = sum(lease.shape.memory_bytes for lease in node.leases.values() if not lease.exempt)
        assert granted_bytes <= node.capacity.memory_bytes
    assert len(book.leases) == sum(len(node.leases) for node in book.nodes.values())

    assert len({node.reserved_for for node in book.nodes.values()} - {None}) <= 1, "room is kept for two at a time"


def _check_gpus(node: Node) -> None:
    used = dict.fromkeys(node.free_gpus, 0.0)
    for lease in node.leases.values():
        wanted = lease.shape.num_gpus
        assert len(lease.gpus) == (1 if 0 < wanted < 1 else wanted), f"{lease.name} has {lease.gpus} for {wanted} GPUs"
        for name in lease.gpus:
            used[name] += min(1.0, wanted)
    for name, share in used.items():
        assert share <= 1 + _SLACK, f"GPU {name} of {node.name} is given {share:g} times"
        assert abs(share + node.free_gpus[name] - 1) < _SLACK


def _check_drivers(book: Book) -> None:
    for driver in book.drivers.values():
        for pool in driver.pools.values():
            assert driver.name in pool.members
            assert book.pools.get(pool.name) is pool
        if driver.parent_lease:
            parent = book.leases.get(driver.parent_lease)
            assert parent is not None, f"{driver.name} has survived its worker"
            assert driver.name in parent.children
