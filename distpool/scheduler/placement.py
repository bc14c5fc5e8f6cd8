"""On which node a lease goes: spread over the nodes, where there is room for its shape."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from distpool.scheduler.fairness import FairQueue
from distpool.wire.resources import Shape

if TYPE_CHECKING:
    from distpool.scheduler.state import Lease

#: Sums of fractional CPUs are compared with this much slack.
EPSILON = 1e-9


@dataclass(slots=True, eq=False)
class Node:
    """A machine with an agent."""

    name: str
    host: str
    capacity: Shape
    #: its CPU count limits nothing: the private node of one program
    elastic_cpus: bool
    sequence: int
    heard_at: float = 0.0
    used_cpus: float = 0.0
    used_gpus: float = 0.0
    used_memory_bytes: int = 0
    used_custom: dict[str, float] = field(default_factory=dict)
    leases: dict[str, Lease] = field(default_factory=dict)

    def could_fit(self, shape: Shape) -> bool:
        """Whether there would be room if the node were empty."""
        capacity = self.capacity
        if shape.num_gpus > capacity.num_gpus or shape.memory_bytes > capacity.memory_bytes:
            return False
        if shape.num_cpus > capacity.num_cpus and not self.elastic_cpus:
            return False
        if not shape.custom:
            return True
        custom = dict(capacity.custom)
        return all(amount <= custom.get(name, 0.0) for name, amount in shape.custom)

    def fits(self, shape: Shape) -> bool:
        """Whether there is room now."""
        capacity = self.capacity
        if not self.elastic_cpus and self.used_cpus + shape.num_cpus > capacity.num_cpus + EPSILON:
            return False
        if shape.memory_bytes and self.used_memory_bytes + shape.memory_bytes > capacity.memory_bytes:
            return False
        if shape.num_gpus and self.used_gpus + shape.num_gpus > capacity.num_gpus + EPSILON:
            return False
        if not shape.custom:
            return True
        custom = dict(capacity.custom)
        used = self.used_custom
        return all(used.get(name, 0.0) + amount <= custom.get(name, 0.0) + EPSILON for name, amount in shape.custom)

    def take(self, lease: Lease) -> None:
        """Count a new lease."""
        shape = lease.shape
        self.leases[lease.name] = lease
        if lease.on_cpu:
            self.used_cpus += shape.num_cpus
        self.used_gpus += shape.num_gpus
        self.used_memory_bytes += shape.memory_bytes
        for name, amount in shape.custom:
            self.used_custom[name] = self.used_custom.get(name, 0.0) + amount

    def give_back(self, lease: Lease) -> None:
        """Forget a lease that ended."""
        shape = lease.shape
        del self.leases[lease.name]
        if lease.on_cpu:
            self.used_cpus -= shape.num_cpus
        self.used_gpus -= shape.num_gpus
        self.used_memory_bytes -= shape.memory_bytes
        for name, amount in shape.custom:
            self.used_custom[name] -= amount


def _node_key(node: Node) -> tuple[float, int]:
    free = float(len(node.leases)) if node.elastic_cpus else node.used_cpus - node.capacity.num_cpus
    return free, node.sequence


class Placement:
    """The nodes, ordered so that a plain lease finds its node in logarithmic time."""

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}
        self._by_free_cpus: FairQueue[Node] = FairQueue(_node_key)
        self._could_fit: dict[Shape, bool] = {}

    def add(self, node: Node) -> None:
        self.nodes[node.name] = node
        self._by_free_cpus.add(node)
        self._could_fit.clear()

    def remove(self, node: Node) -> None:
        del self.nodes[node.name]
        self._by_free_cpus.discard(node)
        self._could_fit.clear()

    def freed(self, node: Node) -> None:
        """Resources of ``node`` became free."""
        self._by_free_cpus.touch(node)

    def could_fit(self, shape: Shape) -> bool:
        """Whether any node, if it were empty, has room for ``shape``."""
        known = self._could_fit.get(shape)
        if known is None:
            if len(self._could_fit) > 1000:
                self._could_fit.clear()
            known = self._could_fit[shape] = any(node.could_fit(shape) for node in self.nodes.values())
        return known

    def find(self, shape: Shape) -> Node | None:
        """A node with room for ``shape``: of those, one with the most CPUs free."""
        node = self._by_free_cpus.best()
        if node is None or node.fits(shape):
            return node
        if shape.num_gpus or shape.memory_bytes or shape.custom:
            return self._search(shape, self.nodes.values())
        # The one with the most CPUs free has not enough: nobody has, unless elastic ones are mixed with others.
        return None

    @staticmethod
    def _search(shape: Shape, nodes: Iterable[Node]) -> Node | None:
        fitting = [node for node in nodes if node.fits(shape)]
        return min(fitting, key=_node_key) if fitting else None

    def capacity(self) -> Shape:
        """The sum over all nodes."""
        custom: dict[str, float] = {}
        cpus = gpus = 0.0
        memory_bytes = 0
        for node in self.nodes.values():
            cpus += node.capacity.num_cpus
            gpus += node.capacity.num_gpus
            memory_bytes += node.capacity.memory_bytes
            for name, amount in node.capacity.custom:
                custom[name] = custom.get(name, 0.0) + amount
        return Shape(cpus, gpus, memory_bytes, tuple(sorted(custom.items())))
