"""The errors that users of distpool see beside those of the standard library.

Each derives from the standard error that a program written for ``concurrent.futures`` or ``multiprocessing`` would
catch, so that existing ``except`` clauses go on working.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable
from concurrent.futures import BrokenExecutor, CancelledError


class DistpoolError(Exception):
    """Base of distpool's own errors."""


class WorkerDiedError(DistpoolError, BrokenExecutor):
    """The worker process that ran the task ended before the task did, ``max_retries`` + 1 times in all.

    The message names the task, function, node, process id, exit code or signal and the likely cause.
    """


class TaskTimeoutError(DistpoolError, TimeoutError):
    """The task ran longer than its ``timeout_s`` and was stopped."""


class TaskKilledError(DistpoolError, CancelledError):
    """``future.kill()`` ended the task while it was running."""


class InitializerError(DistpoolError, BrokenExecutor):
    """The pool's initializer raised in a worker; its exception is the cause."""


class DependencyError(DistpoolError):
    """A future that was an argument of the task failed; its exception is the cause."""


class SerializationError(DistpoolError, pickle.PicklingError, TypeError, AttributeError):
    """A value cannot be carried to or from a worker; the message names the path to the culprit.

    The standard library raises any of ``PicklingError``, ``TypeError`` and ``AttributeError`` here, depending on the
    value; this one is all three.

    :ivar of_outcome: whether the value is what a task returned or raised.
    """

    of_outcome = False


class ConnectError(DistpoolError, ConnectionError):
    """A scheduler could not be reached or refused this program."""


class InfeasibleError(DistpoolError, ValueError):
    """The task asks for resources that no worker of its pool, and no node of the cluster, can ever have."""


class ObjectLostError(DistpoolError):
    """A stored value is gone and cannot be computed again.

    :ivar object_ids: the stored objects that are gone, as far as they are known.
    """

    def __init__(self, message: str = "", object_ids: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.object_ids = tuple(object_ids)


class ObjectStoreFullError(DistpoolError, MemoryError):
    """Neither shared memory nor the spill folder has room for a value."""


class OutOfMemoryError(WorkerDiedError, MemoryError):
    """The task was stopped, ``max_retries`` + 1 times in all, before it exhausted its node's memory; or at once, as it
    used more than its ``memory_bytes``.

    The message names what was left of which memory, what the task used, and the largest processes of the node.
    """


class TaskInterrupted(BaseException):
    """Raised inside a running task that is to end (time-out or ``future.kill()``); not an ``Exception``, so that a
    task's own ``except Exception`` does not swallow it."""
