"""What a node is told about the watching of memory; ``memory_core`` does it."""

from __future__ import annotations

import msgspec

#: Share of each kind of memory that is kept free unless told otherwise.
RESERVE_SHARE = 0.05


class MemoryPolicy(msgspec.Struct, frozen=True):
    """What can be said about the watching of memory.

    :param limit_bytes: what the workers of the node may use in all, beside what the machine has; 0: no such limit.
    :param reserve: share of each kind of memory that is kept free; 0: nothing is watched but tasks' own limits.
    """

    limit_bytes: int = 0
    reserve: float = RESERVE_SHARE
