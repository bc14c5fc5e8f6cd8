"""What a node has, what of it is in use, and which of its GPUs a lease gets."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import msgspec

from distpool.wire.resources import Shape

if TYPE_CHECKING:
    from distpool.scheduler.state import Lease

#: Sums of fractions are compared with this much slack.
EPSILON = 1e-9
#: As many as one could ever want.
_PLENTY = 1 << 30


class Node(msgspec.Struct, eq=False):
    """A machine with an agent."""

    name: str
    host: str
    capacity: Shape
    #: its CPU count limits nothing: the private node of one program
    elastic_cpus: bool
    sequence: int
    heard_at: float = 0.0
    #: since when it has no lease
    idle_since: float = 0.0
    #: it gets no more leases, and leaves when the last one has ended
    draining: bool = False
    #: it has said that it knows; a scheduler that comes later will hear it, too
    knows_of_drain: bool = False
    #: operators who wait for that
    drained_by: set[str] = msgspec.field(default_factory=set)
    #: who could not take over what it has
    refused_by: set[str] = msgspec.field(default_factory=set)
    #: the scheduler is in its process
    head: bool = False
    #: where it serves other sites with objects
    site_endpoint: str = ""
    #: nothing of another shape is granted there for now
    reserved_for: Shape | None = None
    #: since memory ran short: no more CPUs than these are used, until ``cautious_until``; it had ``busy_cpus`` in use
    most_cpus: float | None = None
    busy_cpus: float = 0.0
    cautious_until: float = 0.0
    used_cpus: float = 0.0
    used_memory_bytes: int = 0
    used_custom: dict[str, float] = msgspec.field(default_factory=dict)
    #: GPU, as CUDA calls it -> what share of it is free
    free_gpus: dict[str, float] = msgspec.field(default_factory=dict)
    leases: dict[str, Lease] = msgspec.field(default_factory=dict)

    @property
    def free_cpus(self) -> float:
        """How many CPUs are free; of a node whose CPUs are not counted: fewer, the more leases it has."""
        return float(-len(self.leases)) if self.elastic_cpus else self.capacity.num_cpus - self.used_cpus

    @property
    def used_gpus(self) -> float:
        """The sum of what leases have of its GPUs."""
        return len(self.free_gpus) - sum(self.free_gpus.values())

    def fits(self, shape: Shape) -> bool:
        """Whether there is room for one more lease now."""
        if self.draining or (self.reserved_for is not None and self.reserved_for != shape):
            return False
        capacity = self.capacity
        if not self.elastic_cpus and self.used_cpus + shape.num_cpus > capacity.num_cpus + EPSILON:
            return False
        # One task can always run.
        careful = self.most_cpus is not None and self.used_cpus > EPSILON and not shape.gang
        if careful and self.used_cpus + shape.num_cpus > (self.most_cpus or 0.0) + EPSILON:
            return False
        if shape.memory_bytes and self.used_memory_bytes + shape.memory_bytes > capacity.memory_bytes:
            return False
        if shape.num_gpus and self.choose_gpus(shape.num_gpus) is None:
            return False
        if not shape.custom:
            return True
        custom = dict(capacity.custom)
        used = self.used_custom
        return all(used.get(name, 0.0) + amount <= custom.get(name, 0.0) + EPSILON for name, amount in shape.custom)

    def choose_gpus(self, wanted: float) -> tuple[str, ...] | None:
        """The GPUs that the next lease gets; None when there is no room.

        A fraction goes to the fullest GPU that has room for it, so that whole ones stay whole.
        """
        if wanted < 1 - EPSILON:
            with_room = [name for name, free in self.free_gpus.items() if free + EPSILON >= wanted]
            return (min(with_room, key=self.free_gpus.__getitem__),) if with_room else None
        whole = [name for name, free in self.free_gpus.items() if free > 1 - EPSILON]
        count = round(wanted)
        return tuple(whole[:count]) if len(whole) >= count else None

    def take(self, lease: Lease) -> None:
        """Count a new lease, and give it its GPUs unless it has them (it was granted by an earlier scheduler)."""
        self.leases[lease.name] = lease
        if lease.shape.num_gpus and not lease.gpus:
            lease.gpus = self.choose_gpus(lease.shape.num_gpus) or ()
        self._count(lease.shape, lease.gpus, 1 if lease.on_cpu else 0, 1)

    def give_back(self, lease: Lease, now: float) -> None:
        """Forget a lease that ended."""
        del self.leases[lease.name]
        self._count(lease.shape, lease.gpus, -1 if lease.on_cpu else 0, -1)
        if not self.leases:
            self.idle_since = now

    def reserve(self, shape: Shape) -> tuple[str, ...]:
        """Count one lease of ``shape`` without having one: while it is found out whether a whole gang fits."""
        gpus = self.choose_gpus(shape.num_gpus) or () if shape.num_gpus else ()
        self._count(shape, gpus, 1, 1)
        return gpus

    def unreserve(self, shape: Shape, gpus: tuple[str, ...]) -> None:
        """Undo ``reserve``."""
        self._count(shape, gpus, -1, -1)

    def _count(self, shape: Shape, gpus: tuple[str, ...], on_cpu: int, sign: int) -> None:
        self.used_cpus += on_cpu * shape.num_cpus
        self.used_memory_bytes += sign * shape.memory_bytes
        share = sign * min(1.0, shape.num_gpus)
        for name in gpus:
            if name in self.free_gpus:
                self.free_gpus[name] -= share
        for name, amount in shape.custom:
            self.used_custom[name] = self.used_custom.get(name, 0.0) + sign * amount


def gpu_names(names: Iterable[str], count: float) -> dict[str, float]:
    """All GPUs of a node, free; those without a name are called by their numbers, as CUDA does."""
    known = tuple(names) or tuple(str(number) for number in range(int(count)))
    return dict.fromkeys(known, 1.0)


def how_many(capacity: Shape, shape: Shape, *, elastic_cpus: bool = False) -> int:
    """How many leases of ``shape`` an empty node of this capacity has room for."""
    counts = [_PLENTY]
    if not elastic_cpus:
        counts.append(_ratio(capacity.num_cpus, shape.num_cpus))
    counts.append(_ratio(capacity.memory_bytes, shape.memory_bytes))
    if 0 < shape.num_gpus < 1 - EPSILON:
        counts.append(int(capacity.num_gpus) * _ratio(1.0, shape.num_gpus))
    elif shape.num_gpus:
        counts.append(int(capacity.num_gpus) // round(shape.num_gpus))
    if shape.custom:
        custom = dict(capacity.custom)
        counts += [_ratio(custom.get(name, 0.0), amount) for name, amount in shape.custom]
    return min(counts)


def _ratio(available: float, each: float) -> int:
    return _PLENTY if each <= 0 else int(available / each + EPSILON)
