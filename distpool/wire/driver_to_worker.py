"""Driver → worker: its set-up, tasks in batches, definitions it asked for, and what to take back or interrupt.

Payloads are pickles made by ``distpool.store.serialization``; the worker alone opens them.
"""

from __future__ import annotations

import msgspec

from distpool.wire.objects import Location
from distpool.wire.resources import GangSeat
from distpool.wire.streams import StreamBytes, StreamEnded, StreamOpened, StreamTaken


class _Message(msgspec.Struct, frozen=True, array_like=True, tag=True):
    pass


class Setup(_Message, frozen=True):
    """First message to a leased worker: make the process look like the parent program, then run the initializer.

    ``environment`` is the whole of the parent's ``os.environ``; like paths and arguments, it is bytes, see
    ``system_text``.  ``initializer`` is a pickle of ``(function, args)`` or empty.  ``state`` is a pickle of what must
    be told in Python's own terms (warnings filters, logging levels, ...), see ``distpool.driver.environment``.

    A worker that sees other files than the driver (``file_space`` differs, see ``distpool.node.machine``) has an import
    path and packages of its own, and takes of the environment only the names in ``carried``; ``versions`` are those of
    the packages that the driver has loaded.

    ``retriable``: tasks run again when the worker dies.  ``growth_bytes``: the worker says so when it has grown by more
    than this from task to task; 0: it does not look.
    """

    driver: str
    lease: str
    pool: str
    environment: dict[bytes, bytes]
    working_directory: bytes
    sys_path: list[bytes]
    argv: list[bytes]
    main_name: str
    main_file: bytes
    user_modules: list[str]
    process_name: str
    identity: tuple[int, ...]
    daemon: bool
    num_threads: int
    initializer: bytes
    initializer_objects: tuple[Location, ...]
    state: bytes
    max_tasks: int = 0
    file_space: str = ""
    carried: tuple[bytes, ...] = ()
    versions: dict[str, str] = {}
    output_bytes_per_s: int = 0
    seat: GangSeat | None = None
    retriable: bool = True
    growth_bytes: int = 0


class Function(msgspec.Struct, frozen=True, array_like=True):
    """A callable that the tasks after it name by ``number``; sent to a worker once."""

    number: int
    payload: bytes
    objects: tuple[Location, ...] = ()


class Task(msgspec.Struct, array_like=True):
    """One attempt at a task.

    ``attempt`` is unique within the driver's life and fences late answers; a worker runs only what has a higher number
    than all that it was sent before.  ``function`` names a ``Function``, or is 0
    when the payload holds ``(function, args, kwargs)`` instead of ``(args, kwargs)``.  ``objects`` are the buffers of
    the payload, in the order of its out-of-band buffers; ``dependencies`` the results of other tasks that the payload
    refers to by position: inline pickles or locations.
    """

    attempt: int
    function: int
    payload: bytes
    objects: tuple[Location, ...] = ()
    dependencies: tuple[Value, ...] = ()
    flags: int = 0


class Value(msgspec.Struct, frozen=True, array_like=True):
    """A serialized value: a pickle and the locations of its out-of-band buffers."""

    payload: bytes
    objects: tuple[Location, ...] = ()


#: ``Task.flags``: views of stored buffers are handed out read-only.
READONLY = 1
#: ``Task.flags``: the payload is a chunk: ``(args_tuples,)`` of which the function is called once each
#: (``function(*args)``), the result being the list of results.
CHUNK = 2
#: ``Task.flags``, together with ``CHUNK``: the chunk's elements are single arguments (``function(element)``).
MAP = 4
#: ``Task.flags``: it may not run again, though tasks of its pool may.
ONCE = 8


class RunTasks(_Message, frozen=True):
    """A batch, run in order.  Functions that this worker does not know yet come first."""

    tasks: list[Task]
    functions: list[Function] = []


class Retract(_Message, frozen=True):
    """Give back those of these attempts that have not been started; answered by ``Retracted``."""

    attempts: list[int]


class Interrupt(_Message, frozen=True):
    """Raise ``TaskInterrupted`` in the main thread if this attempt is running.  Not answered: the attempt's result (or
    the death of the worker) is the answer."""

    attempt: int


class Definitions(_Message, frozen=True):
    """Answer to ``FetchDefinitions`` and, unasked, news about names sent before.

    ``entries`` maps a name to its pickle; ``absent`` are names that the driver's module does not have; ``unavailable``
    maps a name to the reason why it cannot be carried.
    """

    request: int
    module: str
    entries: list[tuple[str, Value]]
    absent: list[str]
    unavailable: list[tuple[str, str]]


class ModuleSource(_Message, frozen=True):
    """Answer to ``FetchModule``: how to make a module that the worker cannot import, or ``found=False``; then
    ``installed`` says what the driver has of it, if that is an installed package."""

    request: int
    name: str
    found: bool
    is_package: bool = False
    filename: bytes = b""
    source: bytes = b""
    installed: str = ""


class ReleaseObjects(_Message, frozen=True):
    """The driver no longer counts references to these objects that the worker made."""

    objects: list[str]


class Leave(_Message, frozen=True):
    """End after what has been sent: run no more tasks, run ``atexit`` functions, exit with 0."""


Message = (
    RunTasks
    | Setup
    | Retract
    | Interrupt
    | Definitions
    | ModuleSource
    | ReleaseObjects
    | Leave
    | StreamOpened
    | StreamBytes
    | StreamTaken
    | StreamEnded
)
