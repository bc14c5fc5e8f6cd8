"""Scheduler → agent: start and stop workers."""

from __future__ import annotations

import msgspec

from distpool.wire.resources import Shape


class _Message(msgspec.Struct, frozen=True, array_like=True, tag=True):
    pass


class AgentWelcome(_Message, frozen=True):
    """Answer to ``AgentHello``."""

    cluster: str


class AgentRefused(_Message, frozen=True):
    """The node cannot take part; ``reason`` is for people."""

    reason: str


class StartWorker(_Message, frozen=True):
    """Start a worker for this lease: fork it from the zygote and report ``WorkerReady``, or ``WorkerExited``.

    ``gpus`` are those that it was given; the agent keeps them in mind for a scheduler that was restarted.
    """

    lease: str
    pool: str
    driver: str
    shape: Shape
    ordinal: int
    gpus: tuple[str, ...] = ()


class StopWorker(_Message, frozen=True):
    """End the worker of this lease: SIGTERM at once when ``terminate``, SIGKILL after ``grace_s``."""

    lease: str
    grace_s: float
    terminate: bool = False


class HelloWanted(_Message, frozen=True):
    """Answer to the heartbeat of an agent that the scheduler does not know (it was restarted, or gave the node up):
    say hello anew.  Other messages of such an agent are ignored."""


class Drain(_Message, frozen=True):
    """The node is to leave when its last worker has ended.  The agent keeps this in mind for a scheduler that was
    restarted, and answers ``Draining``."""


class Retire(_Message, frozen=True):
    """A drained node has no worker left and gets none: hand over what its store has to ``successor``, which serves
    other sites at ``site_endpoint``, say goodbye and end.

    When both are empty no other node can: stay until what the store has is not needed any more.  Said again when a
    node has joined, and in answer to ``SuccessorFailed``."""

    successor: str = ""
    site_endpoint: str = ""


class SiteAt(_Message, frozen=True):
    """Answer to ``SiteWanted``: the node ``at`` (the site itself, or the one that stands in for it since it left)
    serves other sites at ``endpoint``; empty: the site is gone.  Said unasked of a node that was lost, to those that
    leave: it may be the one to which they hand over what they have."""

    site: str
    at: str
    endpoint: str


class CopiesWanted(_Message, frozen=True):
    """The site is gone: if you have copies of its objects, tell ``seeker``, a site, by ``CopiesHere``."""

    site: str
    seeker: str


class ClusterEnds(_Message, frozen=True):
    """The scheduler was told to stop: the node ends, with all its workers."""


Message = (
    AgentWelcome
    | AgentRefused
    | StartWorker
    | StopWorker
    | HelloWanted
    | Drain
    | Retire
    | SiteAt
    | CopiesWanted
    | ClusterEnds
)
