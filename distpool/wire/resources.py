"""What a worker needs and what a node offers, in the same units."""

from __future__ import annotations

import msgspec


class Shape(msgspec.Struct, frozen=True, array_like=True):
    """An amount of resources: what one lease asks for, or what one node has.

    ``custom`` holds user-named resources as sorted ``(name, amount)`` pairs, so that a shape is hashable.
    """

    num_cpus: float = 1.0
    num_gpus: float = 0.0
    memory_bytes: int = 0
    custom: tuple[tuple[str, float], ...] = ()
