"""What a worker needs and what a node offers, in the same units."""

from __future__ import annotations

import msgspec


class Shape(msgspec.Struct, frozen=True, array_like=True):
    """An amount of resources: what one lease asks for, or what one node has.

    ``custom`` holds user-named resources as sorted ``(name, amount)`` pairs, so that a shape is hashable.  Of GPUs a
    lease asks for a fraction of one, or for whole ones.

    What follows is for requests alone.  ``pack``: on the fullest node that has room, rather than on the emptiest.
    ``gang``: so many workers of this shape are granted at once or not at all (0: each by itself).
    """

    num_cpus: float = 1.0
    num_gpus: float = 0.0
    memory_bytes: int = 0
    custom: tuple[tuple[str, float], ...] = ()
    pack: bool = False
    gang: int = 0


class NodeOffer(msgspec.Struct, frozen=True, array_like=True):
    """A kind of node that could be started if it were needed, and how many of them."""

    capacity: Shape
    count: int


class GangSeat(msgspec.Struct, frozen=True, array_like=True):
    """A worker's place in a gang: its rank, and the hosts of all workers by rank."""

    gang: str
    rank: int
    hosts: tuple[str, ...]


def words(shape: Shape) -> str:
    """An amount of resources in words."""
    parts = [_counted(shape.num_cpus, "CPU")]
    if shape.num_gpus:
        parts.append(_counted(shape.num_gpus, "GPU"))
    if shape.memory_bytes:
        parts.append(f"{shape.memory_bytes / 2**30:.1f} GiB of memory")
    parts += [f"{amount:g} {name}" for name, amount in shape.custom]
    return ", ".join(parts)


def _counted(amount: float, unit: str) -> str:
    return f"{amount:g} {unit}" if amount == 1 else f"{amount:g} {unit}s"
