"""The scheduler core's answers to drivers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from distpool.scheduler.desk import Desk
from distpool.scheduler.events import DriverSaid
from distpool.scheduler.sites import SiteSide
from distpool.scheduler.state import Driver, LeaseState
from distpool.scheduler.status import cluster_status
from distpool.version import __version__
from distpool.wire import codec
from distpool.wire import driver_to_scheduler as from_driver
from distpool.wire import scheduler_to_driver as to_driver


class DriverSide:
    """See the module's description."""

    def __init__(self, desk: Desk, sites: SiteSide) -> None:
        self._desk = desk
        self._on_driver: dict[type, Callable[[Driver, Any], None]] = {
            from_driver.OpenPool: self._on_open_pool,
            from_driver.JoinPool: self._on_join_pool,
            from_driver.Demand: self._on_demand,
            from_driver.ReturnLease: self._on_return_lease,
            from_driver.ClosePool: self._on_close_pool,
            from_driver.DriverHeartbeat: lambda driver, message: None,
            from_driver.SiteWanted: lambda driver, message: sites.on_driver_wants(driver.name, message),
            from_driver.DriverGoodbye: lambda driver, message: desk.driver_lost(driver.name, kill=False),
        }

    def on_driver_said(self, event: DriverSaid) -> None:
        name, message = event.driver, event.message
        driver = self._desk.book.drivers.get(name)
        if type(message) is from_driver.DriverHello:
            self._on_driver_hello(name, message, event.watched)
        elif type(message) is from_driver.StatusWanted:
            desk = self._desk
            desk.tell_anyone(name, cluster_status(desk.book, desk.cluster, message.request))
        elif driver is None or not driver.greeted:
            # To a heartbeat only: an answer to each message of a hello that was refused would never come to an end.
            if type(message) is from_driver.DriverHeartbeat:
                self._desk.tell_anyone(name, to_driver.HelloWanted())
        else:
            driver.heard_at = self._desk.now
            self._on_driver[type(message)](driver, message)

    def _on_driver_hello(self, name: str, hello: from_driver.DriverHello, watched: bool) -> None:
        if (hello.protocol, hello.distpool) != (codec.PROTOCOL, __version__):
            theirs = f"this program has distpool {hello.distpool} (protocol {hello.protocol})"
            ours = f"the cluster distpool {__version__} (protocol {codec.PROTOCOL})"
            self._desk.tell_anyone(name, to_driver.Refused(f"{theirs}, {ours}"))
            return
        if hello.python != self._desk.python:
            reason = f"this program runs Python {hello.python}, the cluster's workers run {self._desk.python}"
            self._desk.tell_anyone(name, to_driver.Refused(reason))
            return
        parent = self._desk.book.leases.get(hello.parent_lease)
        if hello.parent_lease and parent is None and hello.parent_lease.startswith(self._desk.prefix):
            # The message was under way when its worker ended, or its node has been out of reach.
            self._desk.tell_anyone(name, to_driver.Refused("the lease on this worker has ended", ended=True))
            return
        driver = self._desk.book.drivers.get(name)
        if driver is None:
            if hello.number > 1 or hello.leases or (hello.parent_lease and parent is None):
                self._desk.note_predecessor()
            driver = self._desk.book.add_driver(name, parent)
        elif parent is not None:
            self._desk.book.set_parent(driver, parent)
        driver.claimed_parent = hello.parent_lease
        driver.greeted = True
        driver.host, driver.pid = hello.host, hello.pid
        # A nested driver ends with its worker, of which the agent tells.
        driver.watched = watched or parent is not None
        self._desk.heard_from_driver(driver)
        placement = self._desk.book.placement
        nodes, capacity = len(placement.nodes), placement.capacity()
        self._desk.tell(name, to_driver.SchedulerWelcome(self._desk.cluster, nodes, capacity, hello.number))
        self._settle_leases(driver, hello)

    def _settle_leases(self, driver: Driver, hello: from_driver.DriverHello) -> None:
        """Make the driver's leases those of the books."""
        desk = self._desk
        held = {lease.lease for lease in hello.leases}
        for pool in list(driver.pools.values()):
            for lease in list(pool.members[driver.name].leases.values()):
                if not desk.is_own(lease.name) and lease.name not in held:
                    # An earlier scheduler may have told the driver that it ended, so that it must not be heard again.
                    desk.stop(lease, 0.0)
                elif lease.state in (LeaseState.ACTIVE, LeaseState.BLOCKED):
                    # After a lost connection the driver may have missed the grant; one that it has it knows by name.
                    desk.announce(lease)
        for claim in hello.leases:
            known = desk.book.leases.get(claim.lease)
            if known is None or known.driver != driver.name:
                desk.doubt(driver.name, claim)

    def _on_open_pool(self, driver: Driver, message: from_driver.OpenPool) -> None:
        pool = self._desk.book.open_pool(message.pool, driver, message.slots, message.label)
        if pool is None:
            return
        # Others may have joined before the owner came back to a scheduler that was restarted.
        for member in list(pool.members.values()):
            self._desk.refuse_infeasible(list(member.demands.values()))

    def _on_join_pool(self, driver: Driver, message: from_driver.JoinPool) -> None:
        pool = self._desk.book.pools.get(message.pool)
        if pool is None:
            self._desk.book.join_unknown(message.pool, driver)
        elif not pool.closed:
            self._desk.book.join(pool, driver)

    def _on_demand(self, driver: Driver, message: from_driver.Demand) -> None:
        pool = driver.pools.get(message.pool)
        shape = message.shape
        if pool is None or pool.closed:
            if message.workers:
                self._desk.tell(driver.name, to_driver.DemandInfeasible(message.pool, shape, "the pool is closed"))
            return
        member = pool.members[driver.name]
        known = member.demands.get(shape)
        grown = message.workers > (known.wanted if known is not None else 0)
        self._desk.book.set_wanted(member, shape, max(0, message.workers), message.near)
        if message.workers > 0:
            self._desk.lend(driver.parent_lease)
            self._desk.refuse_infeasible([member.demands[shape]])
        if grown:  # saying the same again makes nothing more urgent
            self._desk.reclaim.hurry()

    def _on_return_lease(self, driver: Driver, message: from_driver.ReturnLease) -> None:
        lease = self._desk.book.leases.get(message.lease)
        if lease is not None and lease.driver == driver.name:
            self._desk.stop(lease, message.grace_s, message.terminate)
        elif lease is None:
            self._desk.settle_doubt(message.lease, driver.name)

    def _on_close_pool(self, driver: Driver, message: from_driver.ClosePool) -> None:
        for claim in [held.lease for _, held in self._desk.doubtful.values() if held.pool == message.pool]:
            self._desk.settle_doubt(claim, driver.name)
        pool = driver.pools.get(message.pool)
        if pool is None:
            return
        if pool.owner == driver.name:
            self._desk.close_pool(pool, message.grace_s)
        else:
            self._desk.leave_pool(pool, driver, message.grace_s)
