"""On which node a lease goes: where there is room for its shape, spread over the nodes or packed on few.

For each shape in use the nodes stand in the order in which they would be chosen, so that a lease finds its node in
logarithmic time, however many nodes and resources there are.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Sequence

from distpool.scheduler.capacity import EPSILON, Node, how_many
from distpool.scheduler.fairness import FairQueue
from distpool.wire.resources import NodeOffer, Shape, words

#: So many shapes have an order of their own at one time; whichever was used least recently makes room.
_MOST_ORDERS = 64
#: Of so many shapes at one time it is remembered whether the nodes would do for them.
_MOST_REMEMBERED = 1000
#: So many kinds of nodes are listed when something cannot be had.
_MOST_KINDS = 4


class Placement:
    """The nodes."""

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}
        #: kinds of nodes that could be started if they were needed, by who offers them
        self.offers: dict[str, tuple[NodeOffer, ...]] = {}
        self._orders: dict[Shape, FairQueue[Node]] = {}
        self._feasible: dict[Shape, bool] = {}
        #: shapes for which all nodes together would not do; more will, fewer never
        self._too_few: set[Shape] = set()
        self._capacity: Shape | None = None

    def add(self, node: Node) -> None:
        """A node has come."""
        self.nodes[node.name] = node
        self._too_few.clear()
        for order in self._orders.values():
            order.add(node)
        self._feasible.clear()
        self._capacity = None

    def remove(self, node: Node) -> None:
        """A node has gone."""
        del self.nodes[node.name]
        for order in self._orders.values():
            order.discard(node)
        self._feasible.clear()
        self._capacity = None

    def drain(self, node: Node) -> None:
        """Place nothing on ``node`` any more."""
        node.draining = True
        self._feasible.clear()

    def set_offers(self, who: str, offers: tuple[NodeOffer, ...]) -> None:
        """What nodes ``who`` could start; none: it is gone."""
        if offers:
            self.offers[who] = offers
        else:
            self.offers.pop(who, None)
        self._feasible.clear()

    def taken(self, node: Node) -> None:
        """Resources of ``node`` came into use."""
        # Where nodes that are full come first, it has moved forward; moving backward is noticed by the order itself.
        for shape, order in self._orders.items():
            if shape.pack:
                order.touch(node)

    def freed(self, node: Node) -> None:
        """Resources of ``node`` became free."""
        for order in self._orders.values():
            order.touch(node)

    def find(self, shape: Shape, near: Sequence[str] = ()) -> Node | None:
        """A node with room for ``shape``: one of ``near``, the first that has room, or else the best of all."""
        for name in near:
            preferred = self.nodes.get(name)
            if preferred is not None and preferred.fits(shape):
                return preferred
        order = self._orders.pop(shape, None) or self._make_order(shape)
        self._orders[shape] = order
        node = order.best()
        return node if node is not None and node.fits(shape) else None

    def find_gang(self, shape: Shape, near: Sequence[str] = ()) -> list[Node] | None:
        """Nodes with room for all workers of a gang, one node per worker; None when there is not room for all."""
        chosen: list[tuple[Node, tuple[str, ...]]] = []
        together = self._room_for_all(shape) if shape.pack else None
        while len(chosen) < shape.gang:
            node = together or self.find(shape, near)
            if node is None:
                break
            chosen.append((node, node.reserve(shape)))
            self.taken(node)
        for node, gpus in reversed(chosen):
            node.unreserve(shape, gpus)
            self.freed(node)
        if len(chosen) < shape.gang:
            return None
        # Those on one node get ranks that follow each other.
        return sorted((node for node, _ in chosen), key=lambda node: node.sequence)

    def nodes_to_clear(self, shape: Shape) -> list[Node]:
        """The fewest nodes, of those with most free, that would have room for ``shape`` if they were empty."""
        if shape in self._too_few:
            return []
        missing = max(1, shape.gang)
        chosen = []
        for node in sorted(self.nodes.values(), key=lambda node: (-node.free_cpus, node.sequence)):
            count = 0 if node.draining or node.elastic_cpus else how_many(node.capacity, shape)
            if count and missing > 0:
                missing -= count
                chosen.append(node)
        if missing > 0:
            if len(self._too_few) >= _MOST_REMEMBERED:
                self._too_few.clear()
            self._too_few.add(shape)
            return []
        return chosen

    def feasible(self, shape: Shape) -> bool:
        """Whether ``shape`` (all workers of a gang) could be had if nothing else ran, or with nodes on offer."""
        known = self._feasible.get(shape)
        if known is None:
            if len(self._feasible) >= _MOST_REMEMBERED:
                self._feasible.clear()
            known = self._feasible[shape] = self._find_out(shape)
        return known

    def capacity(self) -> Shape:
        """The sum over all nodes."""
        if self._capacity is not None:
            return self._capacity
        custom: dict[str, float] = {}
        cpus = gpus = 0.0
        memory_bytes = 0
        for node in self.nodes.values():
            cpus += node.capacity.num_cpus
            gpus += node.capacity.num_gpus
            memory_bytes += node.capacity.memory_bytes
            for name, amount in node.capacity.custom:
                custom[name] = custom.get(name, 0.0) + amount
        self._capacity = Shape(cpus, gpus, memory_bytes, tuple(sorted(custom.items())))
        return self._capacity

    def describe(self) -> str:
        """What nodes there are, for an error."""
        kinds = Counter(words(node.capacity) for node in self.nodes.values() if not node.draining)
        parts = [
            f"{count} node{'s' if count > 1 else ''} with {kind}" for kind, count in kinds.most_common(_MOST_KINDS)
        ]
        others = kinds.total() - sum(count for _, count in kinds.most_common(_MOST_KINDS))
        return "; ".join(parts + ([f"{others} others"] if others else [])) or "no nodes"

    # -- within -------------------------------------------------------------------------------------------------

    def _make_order(self, shape: Shape) -> FairQueue[Node]:
        if len(self._orders) >= _MOST_ORDERS:
            del self._orders[next(iter(self._orders))]
        order: FairQueue[Node] = FairQueue(functools.partial(_rank, shape))
        for node in self.nodes.values():
            order.add(node)
        return order

    def _room_for_all(self, shape: Shape) -> Node | None:
        """The fullest node with room for a whole gang."""
        best = None
        for node in self.nodes.values():
            if not node.fits(shape) or (
                not node.elastic_cpus and node.free_cpus + EPSILON < shape.num_cpus * shape.gang
            ):
                continue
            if (best is None or _rank(shape, node) < _rank(shape, best)) and _room(node, shape) >= shape.gang:
                best = node
        return best

    def _find_out(self, shape: Shape) -> bool:
        missing = max(1, shape.gang)
        for node in self.nodes.values():
            if not node.draining:
                missing -= how_many(node.capacity, shape, elastic_cpus=node.elastic_cpus)
        for offers in self.offers.values():
            for offer in offers:
                missing -= offer.count * how_many(offer.capacity, shape)
        return missing <= 0


def _rank(shape: Shape, node: Node) -> tuple[float, ...]:
    """Nodes in the order of this have room first, then those without GPUs that are not needed, then by what is free."""
    free = sum(node.free_gpus.values()) if shape.num_gpus else node.free_cpus
    idle_gpus = bool(node.free_gpus) and not shape.num_gpus
    return not node.fits(shape), idle_gpus, free if shape.pack else -free, node.sequence


def _room(node: Node, shape: Shape) -> int:
    """How many leases of ``shape``, up to a gang of them, have room on ``node`` now."""
    reserved: list[tuple[str, ...]] = []
    while len(reserved) < shape.gang and node.fits(shape):
        reserved.append(node.reserve(shape))
    for gpus in reversed(reserved):
        node.unreserve(shape, gpus)
    return len(reserved)
