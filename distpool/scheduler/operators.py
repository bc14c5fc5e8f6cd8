"""The scheduler core's answers to operators: demand and idle nodes, drains, and nodes on offer."""

from __future__ import annotations

import heapq

from distpool.scheduler.book import Book
from distpool.scheduler.capacity import EPSILON
from distpool.scheduler.desk import Desk
from distpool.scheduler.events import OperatorSaid, ToOperator
from distpool.scheduler.state import Demand
from distpool.wire import codec
from distpool.wire.operator_to_scheduler import DrainNode, LoadWanted
from distpool.wire.resources import NodeOffer, Shape
from distpool.wire.scheduler_to_operator import (
    ClusterLoad,
    DrainAnswer,
    Message,
    NodeLoad,
    OperatorRefused,
    UnmetDemand,
)

_HEAD_STAYS = (
    "it is the head, whose process is also the cluster's scheduler, and would take the cluster with it. To end the "
    "cluster, run distpool stop there; a head that is started with --num-cpus 0 gets no work"
)


class OperatorSide:
    """See the module's description."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        #: when those that offer nodes were last heard of
        self._heard_at: dict[str, float] = {}

    def on_operator_said(self, event: OperatorSaid) -> None:
        name, message = event.operator, event.message
        if not isinstance(message, (LoadWanted, DrainNode)):
            self._forget(name)
        elif message.protocol != codec.PROTOCOL:
            reason = f"this program speaks protocol {message.protocol}, the cluster's speaks {codec.PROTOCOL}"
            self._tell(name, OperatorRefused(reason))
        elif isinstance(message, DrainNode):
            self._drain(name, message.node)
        else:
            self._set_offers(name, message.offers)
            if message.offers and name not in self._heard_at:
                heapq.heappush(self._desk.timers, (self._desk.now + self._desk.silence_s, "operator", name))
            self._heard_at[name] = self._desk.now
            self._tell(name, cluster_load(self._desk.book, self._desk.cluster))

    def on_time(self, name: str) -> None:
        """Look whether an operator has fallen silent: then nothing that it offered will come."""
        heard_at = self._heard_at.get(name)
        if heard_at is None:
            return
        if heard_at + self._desk.silence_s > self._desk.now:
            heapq.heappush(self._desk.timers, (heard_at + self._desk.silence_s, "operator", name))
        else:
            self._forget(name)

    def _drain(self, operator: str, name: str) -> None:
        desk = self._desk
        node = desk.book.nodes.get(name)
        if node is None:
            known = ", ".join(sorted(desk.book.nodes)) or "none"
            self._tell(operator, DrainAnswer(name, 0, f"there is no node {name}; the cluster's nodes are: {known}"))
        elif node.elastic_cpus:
            problem = f"{name} is a program's private node and ends with it"
            self._tell(operator, DrainAnswer(name, len(node.leases), problem))
        elif node.head:
            self._tell(operator, DrainAnswer(name, len(node.leases), _HEAD_STAYS))
        else:
            node.drained_by.add(operator)
            desk.drain(node)
            if node.knows_of_drain:
                desk.tell_drained(node)

    def _forget(self, name: str) -> None:
        self._heard_at.pop(name, None)
        self._set_offers(name, ())

    def _set_offers(self, name: str, offers: tuple[NodeOffer, ...]) -> None:
        placement = self._desk.book.placement
        if offers != placement.offers.get(name, ()):
            placement.set_offers(name, offers)
            self._desk.refuse_infeasible()

    def _tell(self, name: str, message: Message) -> None:
        self._desk.effects.append(ToOperator(name, message))


def cluster_load(book: Book, cluster: str) -> ClusterLoad:
    """What is needed and what is idle, now."""
    now = book.now
    nodes = tuple(
        NodeLoad(
            node.name,
            node.host,
            node.capacity,
            len(node.leases),
            0.0 if node.leases else now - node.idle_since,
            node.draining,
        )
        for node in book.nodes.values()
    )
    unmet: dict[Shape, tuple[int, float]] = {}
    for demand in book.unmet:
        workers = _that_nodes_could_serve(demand)
        if workers and (not book.nodes or demand.shape in book.full):
            known, longest_s = unmet.get(demand.shape, (0, 0.0))
            waited_s = now - demand.unmet_since if demand.unmet_since is not None else 0.0
            unmet[demand.shape] = known + workers, max(longest_s, waited_s)
    return ClusterLoad(cluster, nodes, tuple(UnmetDemand(shape, *figures) for shape, figures in unmet.items()))


def _that_nodes_could_serve(demand: Demand) -> int:
    """How many more leases the pool's budget would allow."""
    shape, pool = demand.shape, demand.member.pool
    if pool.parked or not shape.num_cpus:
        return 0 if pool.parked else demand.unmet
    sets = int((pool.slots - pool.used_cpus) / demand.at_once + EPSILON)
    return min(demand.unmet, max(0, sets) * max(1, shape.gang))
