"""How many nodes there should be: the decisions, without any input or output.

Told now and then what the cluster needs and which machines there are, it answers which to start and which to end.
Up quickly, down slowly: demand that has waited for ``patience_s`` starts machines, as many as it needs beside those
that are on their way; a machine that has been idle for ``idle_s`` is drained, and released when it has left.  Between
the two lies more than a machine takes to start, so that their number does not swing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from distpool.provision.interface import Machine, NodeType, Phase
from distpool.scheduler.capacity import Node, gpu_names, how_many
from distpool.wire.resources import NodeOffer, Shape
from distpool.wire.scheduler_to_operator import ClusterLoad, UnmetDemand

#: Seconds between two looks.
LOOK_S = 1.0
#: A machine that takes so many times as long to start as its type says, and at least so many seconds, will not come.
_OVERDUE_TIMES, _OVERDUE_S = 5.0, 30.0
#: After a machine was refused or did not come: seconds until the next try, doubled each time.
_PAUSE_S, _LONGEST_PAUSE_S = 5.0, 300.0
#: After so many failures in a row a type is not promised to anybody any more.
_HOPELESS = 3


#: What a machine of unknown capacity is taken for until the first one is there.
_UNKNOWN_CPUS, _UNKNOWN_MEMORY_BYTES = 1.0, 1 << 62


class Looked(NamedTuple):
    """What the scheduler says, and which machines there are, by name."""

    load: ClusterLoad
    machines: Mapping[str, Machine]


class Refused(NamedTuple):
    """A machine that was asked for was refused."""

    node: str
    hopeless: bool = False


class Start(NamedTuple):
    """Ask for a machine."""

    node: str
    node_type: str


class Drain(NamedTuple):
    """Have the scheduler grant nothing more there."""

    node: str


class Release(NamedTuple):
    """End a machine."""

    node: str


Event: TypeAlias = "Looked | Refused"
Effect: TypeAlias = "Start | Drain | Release"


@dataclass(slots=True)
class _Type:
    kind: NodeType
    capacity: Shape
    failures: int = 0
    paused_until: float = 0.0


@dataclass(slots=True)
class _Machine:
    node_type: str
    #: since when it has not been in the cluster although it should be
    missing_since: float
    joined: bool = False
    #: what its node offers, when it has joined
    num_cpus: float = 0.0
    draining: bool = False


@dataclass(slots=True)
class _Plan:
    """Machines that are on their way or idle, as bins that are filled with demand."""

    bins: list[Node] = field(default_factory=list)
    new: list[NodeType] = field(default_factory=list)


class AutoscalerCore:
    """See the module's description.

    :param types: the kinds of machines.
    :param prefix: starts the names of all machines; differs from run to run.
    :param least: so many machines are kept.
    :param most: more there never are.
    :param patience_s: for so long demand may wait before machines are started for it.
    :param idle_s: for so long a machine may be idle before it is ended; at least twice what one takes to start.
    """

    def __init__(
        self,
        types: Sequence[NodeType],
        prefix: str,
        least: int = 0,
        most: int = 10,
        patience_s: float = 1.0,
        idle_s: float = 60.0,
    ) -> None:
        self._types = {
            kind.name: _Type(kind, _assumed(kind.capacity))
            for kind in sorted(types, key=lambda kind: (kind.price, kind.start_s))
        }
        self._prefix = prefix
        self._least, self._most = least, most
        self._patience_s = patience_s
        self._idle_s = {kind.name: max(idle_s, 2 * kind.start_s) for kind in types}
        self._machines: dict[str, _Machine] = {}
        self._last = 0
        self._looked_at: float | None = None

    def handle(self, event: Event, now: float) -> list[Effect]:
        """What must be done because of ``event``."""
        if isinstance(event, Refused):
            machine = self._machines.pop(event.node, None)
            if machine is not None:
                self._failed(machine.node_type, now, event.hopeless)
            return []
        self._looked_at = now
        effects: list[Effect] = []
        self._compare(event, now, effects)
        self._grow(event.load, now, effects)
        self._shrink(event.load, effects)
        return effects

    def next_deadline(self) -> float | None:
        """When ``Looked`` is due."""
        return None if self._looked_at is None else self._looked_at + LOOK_S

    def offers(self) -> tuple[NodeOffer, ...]:
        """What may be promised to those whose requests no node could serve."""
        # One that is being ended leaves its place to another, also if it never came.
        there = [machine.node_type for machine in self._staying().values() if machine.joined]
        left = self._most - len(there)
        offers = []
        for name, known in self._types.items():
            count = min(left, known.kind.most - there.count(name))
            if count > 0 and known.failures < _HOPELESS:
                offers.append(NodeOffer(known.capacity, count))
        return tuple(offers)

    def joined(self) -> list[str]:
        """The machines whose nodes are in the cluster and stay there."""
        return [name for name, machine in self._staying().items() if machine.joined]

    def wanted(self) -> int:
        """How many machines there should be by now."""
        return max(self._least, len(self._staying()))

    def promised_cpus(self) -> float:
        """CPUs of as many machines as there may be: of those that are there, and what others would have."""
        there = [machine for machine in self._staying().values() if machine.joined]
        cpus, left = sum(machine.num_cpus for machine in there), self._most - len(there)
        for name, known in self._types.items():
            count = min(left, known.kind.most - sum(1 for machine in there if machine.node_type == name))
            cpus += count * known.capacity.num_cpus
            left -= count
        return cpus

    def hopeless(self) -> bool:
        """Whether there is no machine, and none can be expected any more."""
        return not self._staying() and all(known.failures >= _HOPELESS for known in self._types.values())

    # -- what there is ------------------------------------------------------------------------------------------

    def _compare(self, event: Looked, now: float, effects: list[Effect]) -> None:
        """Bring what is remembered in line with what is there."""
        for name in [name for name in self._machines if name not in event.machines]:
            machine = self._machines.pop(name)
            if not machine.joined and not machine.draining:
                self._failed(machine.node_type, now)
        nodes = {node.node: node for node in event.load.nodes}
        for name, seen in event.machines.items():
            node_type = seen.node_type
            machine = self._machines.setdefault(name, _Machine(node_type, now))
            node = nodes.get(name)
            if seen.phase is Phase.FAILED:
                if not machine.joined and not machine.draining:
                    self._failed(node_type, now, seen.hopeless)
                del self._machines[name]
                effects.append(Release(name))
            elif node is not None:
                if not machine.joined and node_type in self._types:
                    self._came(self._types[node_type], node.capacity)
                machine.joined = True
                machine.num_cpus = node.capacity.num_cpus
                machine.missing_since = now
                machine.draining = machine.draining or node.draining
            elif machine.draining and machine.joined:
                effects.append(Release(name))
            elif seen.phase is Phase.QUEUED:
                machine.missing_since = now  # it is not late: the engine has no room
            elif now - machine.missing_since >= self._overdue_s(node_type):
                if not machine.joined:
                    self._failed(node_type, now)
                machine.draining = machine.joined = True
                effects.append(Release(name))

    def _overdue_s(self, node_type: str) -> float:
        known = self._types.get(node_type)
        return max(_OVERDUE_S, _OVERDUE_TIMES * known.kind.start_s) if known is not None else _OVERDUE_S

    @staticmethod
    def _came(known: _Type, capacity: Shape) -> None:
        known.failures = 0
        if known.kind.capacity != _assumed(known.kind.capacity):
            known.capacity = capacity  # now it is known

    def _failed(self, node_type: str, now: float, hopeless: bool = False) -> None:
        known = self._types.get(node_type)
        if known is not None:
            known.paused_until = now + min(_LONGEST_PAUSE_S, _PAUSE_S * 2**known.failures)
            known.failures = max(known.failures + 1, _HOPELESS if hopeless else 0)

    def _staying(self) -> dict[str, _Machine]:
        return {name: machine for name, machine in self._machines.items() if not machine.draining}

    # -- more ---------------------------------------------------------------------------------------------------

    def _grow(self, load: ClusterLoad, now: float, effects: list[Effect]) -> None:
        coming = [machine for machine in self._staying().values() if not machine.joined]
        plan = _Plan([_bin(self._types[one.node_type].capacity) for one in coming if one.node_type in self._types])
        idle = [_bin(node.capacity) for node in load.nodes if not node.workers and not node.draining]
        # What needs most is placed first, and what is small fills the gaps.
        for demand in sorted(load.demand, key=_size, reverse=True):
            if demand.waited_s >= self._patience_s:
                self._plan_for(demand, plan, idle, now)
        while len(self._staying()) + len(plan.new) < self._least:
            kind = self._cheapest(Shape(0.0), plan, now)
            if kind is None:
                break
            plan.new.append(kind)
        for kind in plan.new:
            self._last += 1
            name = f"{self._prefix}-{self._last}"
            self._machines[name] = _Machine(kind.name, now)
            effects.append(Start(name, kind.name))

    def _plan_for(self, demand: UnmetDemand, plan: _Plan, idle: list[Node], now: float) -> None:
        """Machines for a demand; for a gang all that it needs, or none."""
        shape = demand.shape
        size = max(1, shape.gang)
        for _ in range(demand.workers // size):
            bins, new = [*(idle if shape.gang else ()), *plan.bins], len(plan.new)
            placed: list[tuple[Node, tuple[str, ...]]] = []
            while len(placed) < size:
                node = next((node for node in bins if node.fits(shape)), None)
                if node is None:
                    kind = self._cheapest(shape, plan, now)
                    if kind is None:
                        break
                    plan.new.append(kind)
                    node = _bin(self._types[kind.name].capacity)
                    bins.append(node)
                    plan.bins.append(node)
                placed.append((node, node.reserve(shape)))
            if len(placed) < size:
                for node, gpus in reversed(placed):
                    node.unreserve(shape, gpus)
                del plan.bins[len(plan.bins) - (len(plan.new) - new) :]
                del plan.new[new:]
                return

    def _cheapest(self, shape: Shape, plan: _Plan, now: float) -> NodeType | None:
        """The kind of machine to start for ``shape``, if one may be started."""
        if len(self._machines) + len(plan.new) >= self._most:
            return None
        for name, known in self._types.items():
            there = sum(1 for machine in self._machines.values() if machine.node_type == name)
            if there + plan.new.count(known.kind) >= known.kind.most or known.paused_until > now:
                continue
            if how_many(known.capacity, shape) >= 1:
                return known.kind
        return None

    # -- fewer --------------------------------------------------------------------------------------------------

    def _shrink(self, load: ClusterLoad, effects: list[Effect]) -> None:
        staying = self._staying()
        left = len(staying)
        if load.demand:
            return  # what waits may need what is idle, if only as a part of a gang
        # The dearest first.
        order = {name: number for number, name in enumerate(self._types)}
        idle = [node for node in load.nodes if node.node in staying and not node.workers]
        for node in sorted(idle, key=lambda node: order.get(staying[node.node].node_type, -1), reverse=True):
            machine = staying[node.node]
            if left > self._least and node.idle_s >= self._idle_s.get(machine.node_type, 0.0):
                machine.draining = True
                left -= 1
                effects.append(Drain(node.node))


def _assumed(capacity: Shape) -> Shape:
    return Shape(
        _UNKNOWN_CPUS if capacity.num_cpus < 0 else capacity.num_cpus,
        max(0.0, capacity.num_gpus),
        _UNKNOWN_MEMORY_BYTES if capacity.memory_bytes < 0 else capacity.memory_bytes,
        capacity.custom,
    )


def _bin(capacity: Shape) -> Node:
    node = Node("", "", capacity, False, 0)
    node.free_gpus = gpu_names((), capacity.num_gpus)
    return node


def _size(demand: UnmetDemand) -> tuple[float, ...]:
    shape = demand.shape
    return float(shape.gang), shape.num_gpus, shape.num_cpus, float(shape.memory_bytes)
