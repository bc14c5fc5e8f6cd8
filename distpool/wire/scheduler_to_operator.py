"""Scheduler → operator: how much is needed, what is idle, what became of a drain."""

from __future__ import annotations

import msgspec

from distpool.wire.resources import Shape


class _Message(msgspec.Struct, frozen=True, array_like=True, tag=True):
    pass


class NodeLoad(msgspec.Struct, frozen=True, array_like=True):
    """A node.  ``idle_s``: for how long it has had no worker; 0 when it has some."""

    node: str
    host: str
    capacity: Shape
    workers: int
    idle_s: float
    draining: bool


class UnmetDemand(msgspec.Struct, frozen=True, array_like=True):
    """So many workers of one shape are wanted for which no node has room; the longest wait is ``waited_s``.

    What waits for something else, for its own pool's budget say, is not counted: more nodes would not help it.
    """

    shape: Shape
    workers: int
    waited_s: float


class ClusterLoad(_Message, frozen=True):
    """Answer to ``LoadWanted``."""

    cluster: str
    nodes: tuple[NodeLoad, ...]
    demand: tuple[UnmetDemand, ...]


class DrainAnswer(_Message, frozen=True):
    """Answer to ``DrainNode``: how many workers the node still has, or why it cannot be drained."""

    node: str
    workers: int
    problem: str = ""


class OperatorRefused(_Message, frozen=True):
    """Another version speaks here; ``reason`` is for people."""

    reason: str


Message = ClusterLoad | DrainAnswer | OperatorRefused
