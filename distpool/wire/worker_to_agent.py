"""Worker → agent on the same node."""

from __future__ import annotations

import msgspec


class _Message(msgspec.Struct, frozen=True, array_like=True, tag=True):
    pass


class WorkerStarted(_Message, frozen=True):
    """First message of a worker: it listens at ``endpoint``."""

    lease: str
    endpoint: str
    pid: int


class WorkerBlocked(_Message, frozen=True):
    """The worker's task waits for nested work."""

    lease: str


class WorkerUnblocked(_Message, frozen=True):
    """The worker's task goes on."""

    lease: str


class ModulesImported(_Message, frozen=True):
    """Installed packages, and their parts, that tasks of this worker came to import: candidates for preloading."""

    names: tuple[str, ...]


class TaskRuns(_Message, frozen=True):
    """A task has been running for so many seconds.  ``retriable``: it may run again if its worker dies."""

    lease: str
    for_s: float
    retriable: bool


class TaskEnded(_Message, frozen=True):
    """The task of which ``TaskRuns`` told has ended."""

    lease: str


Message = WorkerStarted | WorkerBlocked | WorkerUnblocked | ModulesImported | TaskRuns | TaskEnded
