"""Agent → store client: memory to use, and what to do when it runs short."""

from __future__ import annotations

import msgspec

from distpool.wire.objects import Place
from distpool.wire.store_client_to_agent import StoreContents


class _Message(msgspec.Struct, frozen=True, array_like=True, tag=True):
    pass


class MemoryGranted(_Message, frozen=True):
    """Answer to ``MemoryWanted``: the process is allowed ``size_bytes`` more (at least what it wanted; the rest is
    credit for what comes next)."""

    request: int
    size_bytes: int


class UseDisk(_Message, frozen=True):
    """Answer to ``MemoryWanted``: memory will not come free soon; the value goes to the spill folder."""

    request: int


class Reclaim(_Message, frozen=True):
    """Memory runs short: give back what is allowed and not used, also freed slots and idle mappings, then answer with
    ``StoreReport``."""

    round: int


class Spill(_Message, frozen=True):
    """Move these segments of the process' own to the spill folder; each is answered by ``SegmentSpilled``."""

    segments: list[str]


class DescribeContents(_Message, frozen=True):
    """Somebody wants to know what is in the node's store; answered by ``StoreContents``."""

    request: int


class NodeContents(_Message, frozen=True):
    """Answer to ``ContentsWanted``: the node's budget, what is allowed to clients and left by dead ones in all, and
    what each live client, by name, told."""

    request: int
    budget_bytes: int
    allowed_bytes: int
    orphaned_bytes: int
    clients: dict[str, StoreContents]


class ObjectsHere(_Message, frozen=True):
    """Answer to ``ObjectsWanted``: where each object is on this node now; ``lost`` are those that cannot be had, and
    why."""

    request: int
    places: list[Place]
    lost: dict[str, str]


Message = MemoryGranted | UseDisk | Reclaim | Spill | DescribeContents | NodeContents | ObjectsHere
"""Everything that the agent may send to a store client."""
