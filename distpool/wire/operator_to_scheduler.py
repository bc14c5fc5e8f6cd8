"""Operator → scheduler: which nodes shall leave, which could come.

An operator is a person's command, or a program that starts and stops nodes as they are needed.
"""

from __future__ import annotations

import msgspec

from distpool.wire.resources import NodeOffer


class _Message(msgspec.Struct, frozen=True, array_like=True, tag=True):
    pass


class LoadWanted(_Message, frozen=True):
    """What is needed, and what is idle?  Answered by ``ClusterLoad``.

    ``offers`` are the nodes that the operator could start: while it goes on asking, requests that fit one of them
    wait instead of failing.
    """

    protocol: int
    offers: tuple[NodeOffer, ...] = ()


class DrainNode(_Message, frozen=True):
    """Grant nothing more on this node; when its last worker has ended, it leaves.  Answered by ``DrainAnswer`` when
    the node knows."""

    protocol: int
    node: str


class OperatorGoodbye(_Message, frozen=True):
    """The operator ends, and with it what it offered."""


Message = LoadWanted | DrainNode | OperatorGoodbye
