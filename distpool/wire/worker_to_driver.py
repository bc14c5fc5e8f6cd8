"""Worker → driver: results in batches, questions about code, output."""

from __future__ import annotations

import msgspec

from distpool.wire.objects import Location
from distpool.wire.streams import OpenStream, StreamBytes, StreamEnded, StreamTaken


class _Message(msgspec.Struct, frozen=True, array_like=True, tag=True):
    pass


class SetupDone(_Message, frozen=True):
    """The worker is set up and its initializer returned."""


class SetupFailed(_Message, frozen=True):
    """Set-up or initializer raised; the worker runs no task.  ``error`` is a pickled exception (see ``Result``)."""

    error: bytes
    summary: str


#: ``Result.status``
OK = 0
#: the task raised; the payload is a pickled exception with its traceback text
RAISED = 1
#: the arguments could not be loaded, or the result could not be pickled; payload as for ``RAISED``
UNTRANSPORTABLE = 2


class Result(msgspec.Struct, array_like=True):
    """The outcome of one attempt.  ``objects`` are the buffers of the payload, made by the worker and from now on
    owned by the driver; ``pinned`` are ids of argument objects that the task still holds on to.  ``lost`` are objects
    among the arguments that could not be had: nothing of the task has run."""

    attempt: int
    status: int
    payload: bytes
    objects: tuple[Location, ...] = ()
    pinned: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()


class TasksDone(_Message, frozen=True):
    """Results, in the order in which the tasks ran.  ``busy_s`` is the time that running them took, in all."""

    results: list[Result]
    busy_s: float


class Retracted(_Message, frozen=True):
    """Answer to ``Retract``: these attempts have not run here and will not."""

    attempts: list[int]


class WorkerGrown(_Message, frozen=True):
    """The worker has come to keep more memory than ``Setup.growth_bytes``: replace it when its task has ended."""


class FetchDefinitions(_Message, frozen=True):
    """The worker needs these names of a module of the driver's program (``__main__``, or a module of the user's
    project: then ``known`` maps the names of its data to digests of the values that importing it here gave, and only
    what differs is sent)."""

    request: int
    module: str
    names: list[str]
    known: dict[str, bytes] = {}


class FetchModule(_Message, frozen=True):
    """The worker cannot import this module; does the driver have its source?"""

    request: int
    name: str


class Unpinned(_Message, frozen=True):
    """The worker no longer holds views of these objects."""

    objects: list[str]


class Output(_Message, frozen=True):
    """Whole lines that a task wrote to ``sys.stdout`` (1) or ``sys.stderr`` (2)."""

    stream: int
    text: str


class LogRecords(_Message, frozen=True):
    """Pickled ``logging.LogRecord`` dictionaries, for the parent's handlers."""

    records: list[bytes]


class Notice(_Message, frozen=True):
    """Something about the node that the user should know; shown once, whichever worker says it."""

    text: str


Message = (
    TasksDone
    | SetupDone
    | SetupFailed
    | Retracted
    | FetchDefinitions
    | FetchModule
    | Unpinned
    | WorkerGrown
    | Output
    | LogRecords
    | Notice
    | OpenStream
    | StreamBytes
    | StreamTaken
    | StreamEnded
)
