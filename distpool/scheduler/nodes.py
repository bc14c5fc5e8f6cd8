"""The scheduler core's answers to agents: nodes that come and go, and what becomes of their workers."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any

from distpool.scheduler.capacity import Node
from distpool.scheduler.desk import Desk
from distpool.scheduler.events import AgentSaid, ToAgent
from distpool.scheduler.sites import SiteSide
from distpool.scheduler.state import Lease, LeaseState
from distpool.version import __version__
from distpool.wire import agent_to_scheduler as from_agent
from distpool.wire import codec
from distpool.wire import scheduler_to_agent as to_agent

#: A task may be known to wait before what it waits for is wanted: the two words come by different ways.  So long its
#: CPUs are kept for that; whoever else got them might keep them for long, and the task would have nothing.
_UNSAID_S = 0.005


class NodeSide:
    """See the module's description."""

    def __init__(self, desk: Desk, sites: SiteSide) -> None:
        self._desk = desk
        self._sites = sites
        self._on_agent: dict[type, Callable[[Node, Any], None]] = {
            from_agent.WorkerReady: self._on_worker_ready,
            from_agent.WorkerExited: self._on_worker_exited,
            from_agent.LeaseBlocked: self._on_lease_blocked,
            from_agent.LeaseUnblocked: self._on_lease_unblocked,
            from_agent.AgentHeartbeat: lambda node, message: None,
            from_agent.SiteWanted: sites.on_agent_wants,
            from_agent.Draining: self._on_draining,
            from_agent.SuccessorFailed: self._on_successor_failed,
            from_agent.AgentGoodbye: self._on_goodbye,
        }

    def on_agent_said(self, event: AgentSaid) -> None:
        name, message = event.node, event.message
        if type(message) is from_agent.AgentHello:
            self._on_agent_hello(name, message)
            return
        node = self._desk.book.nodes.get(name)
        if node is None:
            if type(message) is from_agent.AgentHeartbeat:
                self._desk.effects.append(ToAgent(name, to_agent.HelloWanted()))
            return
        node.heard_at = self._desk.now
        self._on_agent[type(message)](node, message)

    def _on_agent_hello(self, name: str, hello: from_agent.AgentHello) -> None:
        if (hello.protocol, hello.python, hello.distpool) != (codec.PROTOCOL, self._desk.python, __version__):
            theirs = f"Python {hello.python}, distpool {hello.distpool} (protocol {hello.protocol})"
            ours = f"Python {self._desk.python}, distpool {__version__} (protocol {codec.PROTOCOL})"
            self._desk.effects.append(
                ToAgent(name, to_agent.AgentRefused(f"the node runs {theirs}, the cluster {ours}"))
            )
            return
        book = self._desk.book
        node = book.nodes.get(name)
        if node is None:
            if hello.leases:
                self._desk.note_predecessor()
            node = book.add_node(name, hello)
            book.placement.set_offers(name, ())
        node.site_endpoint = hello.site_endpoint
        node.head = hello.head
        for gone in hello.stands_for:
            self._desk.successors.setdefault(gone, name)
        for other in book.nodes.values() if hello.site_endpoint else ():
            self._desk.retire_if_drained(other)  # had nobody to take over what it has, perhaps
        self._desk.successors.pop(name, None)
        node.heard_at = self._desk.now
        if not node.elastic_cpus:  # a private node lives in the scheduler's own process
            self._desk.arm("node", name, self._desk.now)
        self._desk.effects.append(ToAgent(name, to_agent.AgentWelcome(self._desk.cluster)))
        reported = {live.lease for live in hello.leases}
        for lease in list(node.leases.values()):
            if lease.name not in reported:
                self._desk.lease_lost(lease, "it ended while its node was out of reach")
        for live in hello.leases:
            self._reconcile(node, live)
        if hello.draining or node.draining:
            node.knows_of_drain = hello.draining
            self._desk.drain(node)
        if hello.draining:
            self._desk.tell_drained(node)

    def _reconcile(self, node: Node, live: from_agent.LiveLease) -> None:
        """A worker that runs on a node that says hello (again)."""
        lease = self._desk.book.leases.get(live.lease)
        if lease is None:
            desk = self._desk
            driver = desk.book.drivers.get(live.driver)
            claimed = driver is None or not driver.greeted or desk.doubtful.get(live.lease, ("",))[0] == live.driver
            if desk.is_own(live.lease) or live.lease in desk.ended_foreign or not claimed:
                # Its driver was told that it ended: whatever it still does must not be heard.
                desk.effects.append(ToAgent(node.name, to_agent.StopWorker(live.lease, 0.0)))
                return
            if driver is None:
                # It has as long to say hello as it may be silent.
                driver = desk.book.add_driver(live.driver, None)
                desk.heard_from_driver(driver)
            desk.doubtful.pop(live.lease, None)
            desk.book.adopt(node, live, driver)
            return
        if lease.state is LeaseState.STOPPING:
            self._desk.effects.append(ToAgent(node.name, to_agent.StopWorker(lease.name, 0.0)))
            return
        if lease.state is LeaseState.STARTING:
            self._became_ready(lease, live.worker, live.endpoint, live.pid)
        if live.blocked != (lease.state is LeaseState.BLOCKED):
            self._desk.book.set_state(lease, LeaseState.BLOCKED if live.blocked else LeaseState.ACTIVE)

    def node_lost(self, name: str, why: str) -> None:
        """A node is gone, with its workers; unless it was drained it may come back, and what only it could serve waits
        for a while."""
        node = self._desk.book.nodes.get(name)
        if node is None:
            return
        if not node.draining:
            self._desk.expect_back(node)
        node.draining = False  # it leaves now in any case
        for lease in list(node.leases.values()):
            self._desk.lease_lost(lease, f"node {name} was lost: {why}")
        self._desk.book.remove_node(node)
        self._desk.refuse_infeasible()
        self._desk.tell_drained(node, f"it is gone: {why}")
        self._sites.on_node_gone(name)

    def _on_draining(self, node: Node, message: from_agent.Draining) -> None:
        if node.draining:
            node.knows_of_drain = True
            self._desk.tell_drained(node)

    def _on_successor_failed(self, node: Node, message: from_agent.SuccessorFailed) -> None:
        if node.draining:
            node.refused_by.add(message.successor)
            self._desk.retire_if_drained(node)

    def _on_goodbye(self, node: Node, message: from_agent.AgentGoodbye) -> None:
        if message.successor:
            self._desk.successors[node.name] = message.successor
        self.node_lost(node.name, "it left the cluster")

    def _on_worker_ready(self, node: Node, message: from_agent.WorkerReady) -> None:
        lease = self._desk.book.leases.get(message.lease)
        if lease is None or lease.node is not node:
            # It was given up meanwhile (the node was silent for too long): nobody waits for it.
            self._desk.effects.append(ToAgent(node.name, to_agent.StopWorker(message.lease, 0.0)))
        elif lease.state is LeaseState.STARTING:
            self._became_ready(lease, message.worker, message.endpoint, message.pid)

    def _became_ready(self, lease: Lease, worker: str, endpoint: str, pid: int) -> None:
        lease.worker, lease.endpoint, lease.pid = worker, endpoint, pid
        lease.pool.start_failures = 0
        self._desk.book.set_state(lease, LeaseState.ACTIVE)
        self._desk.came_up(lease)

    def _on_worker_exited(self, node: Node, message: from_agent.WorkerExited) -> None:
        lease = self._desk.book.leases.get(message.lease)
        if lease is None or lease.node is not node:
            return
        if lease.state is LeaseState.STARTING:
            self._desk.start_failed(lease.pool)
        lease.pid = message.pid or lease.pid
        self._desk.lease_ended(
            lease,
            message.exit_code,
            message.reason,
            message.stderr_tail,
            message.peak_rss_bytes,
            shortage=message.shortage,
        )
        if message.shortage == "node":
            self._desk.grow_careful(node)

    def _on_lease_blocked(self, node: Node, message: from_agent.LeaseBlocked) -> None:
        lease = self._desk.book.leases.get(message.lease)
        if lease is not None and lease.node is node and lease.state is LeaseState.ACTIVE:
            # The worker said so to its agent; what it waits for, it says to us.
            if not any(map(self._wants_any, lease.children)):
                lease.lends_soon = True
                heapq.heappush(self._desk.timers, (self._desk.now + _UNSAID_S, "lend", lease.name))
            else:
                self._desk.book.set_state(lease, LeaseState.BLOCKED)

    def _wants_any(self, driver: str) -> bool:
        pools = self._desk.book.drivers[driver].pools.values()
        return any(demand.wanted for pool in pools for demand in pool.members[driver].demands.values())

    def _on_lease_unblocked(self, node: Node, message: from_agent.LeaseUnblocked) -> None:
        lease = self._desk.book.leases.get(message.lease)
        if lease is not None and lease.node is node:
            lease.lends_soon = False
            if lease.state is LeaseState.BLOCKED:
                self._desk.book.set_state(lease, LeaseState.ACTIVE)
