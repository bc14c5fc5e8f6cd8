"""What the driver's core knows and says: workers, groups, effects and failures."""

from __future__ import annotations

import enum
import math
from collections import deque
from collections.abc import Iterator

import msgspec

from distpool.driver.task import Task
from distpool.wire.resources import Shape
from distpool.wire.worker_to_driver import Result


class FailureKind(enum.Enum):
    """Why a task failed without having returned or raised."""

    WORKER_DIED = "worker died"
    TIMED_OUT = "timed out"
    KILLED = "killed"
    OUT_OF_MEMORY = "out of memory"
    INFEASIBLE = "infeasible"
    BROKEN = "pool broken"
    ENDED = "pool ended"


class WorkerExit(msgspec.Struct, frozen=True):
    """How a worker ended; ``exit_code`` as in ``multiprocessing`` (negative: signal).  ``lost``: nobody saw it end.

    ``shortage``: see ``scheduler_to_driver.LeaseEnded``.  ``presumed``: it is out of reach; should it have died, its
    node is about to tell of what.
    """

    pid: int
    exit_code: int
    reason: str = ""
    stderr_tail: str = ""
    peak_rss_bytes: int = 0
    node: str = ""
    lost: bool = False
    shortage: str = ""
    presumed: bool = False


class Failure(msgspec.Struct, frozen=True):
    """Why, and the circumstances as far as they are known."""

    kind: FailureKind
    exit: WorkerExit | None = None
    reason: str = ""
    error: BaseException | None = None


class Worker(msgspec.Struct, eq=False):
    """A leased worker, and what it holds.

    ``in_flight`` are its unanswered attempts in the order of sending; ``stopping`` the attempts whose tasks are
    settled already but which it has not yet let go of (interrupted or withdrawn): it may still look at their arguments.
    """

    lease: str
    peer: bytes
    shape: Shape
    node: str
    pid: int
    ordinal: int
    in_flight: dict[int, Task] = msgspec.field(default_factory=dict)
    stopping: dict[int, Task] = msgspec.field(default_factory=dict)
    tasks_given: int = 0
    answered: bool = False
    leaving: bool = False
    #: it is given back when the task that it runs has ended
    wanted: bool = False
    exclusive: bool = False
    retracting: bool = False
    last_progress: float = 0.0
    exit: WorkerExit | None = None
    #: when that was heard first
    ended_at: float = 0.0
    #: nothing will come from it any more
    silent: bool = False
    #: what its tasks wrote to ``sys.stderr`` last
    words: str = ""
    #: the name of its machine, for people
    host: str = ""
    gang: str = ""
    rank: int = 0


class Effects(msgspec.Struct, eq=False):
    """Everything that the shell must now do, in this order of fields."""

    demand: list[tuple[Shape, int]] = msgspec.field(default_factory=list)
    send: list[tuple[Worker, list[Task]]] = msgspec.field(default_factory=list)
    retract: list[tuple[Worker, list[int]]] = msgspec.field(default_factory=list)
    interrupt: list[tuple[Worker, int]] = msgspec.field(default_factory=list)
    leave: list[Worker] = msgspec.field(default_factory=list)
    give_back: list[tuple[Worker, float, bool]] = msgspec.field(default_factory=list)
    """Worker, seconds of grace, whether to send SIGTERM first."""
    requeued: list[Task] = msgspec.field(default_factory=list)
    finished: list[tuple[Task, Result]] = msgspec.field(default_factory=list)
    failed: list[tuple[Task, Failure]] = msgspec.field(default_factory=list)
    let_go: list[Task] = msgspec.field(default_factory=list)
    """Tasks that are settled, now or earlier, and that no worker has any more: their arguments may go."""
    late: list[Result] = msgspec.field(default_factory=list)
    """Answers that nobody waits for any more."""
    input_lost: list[tuple[Task, Result]] = msgspec.field(default_factory=list)
    """Tasks that could not run because a stored argument is gone; the core has let go of them."""
    broken: Failure | None = None


class Group(msgspec.Struct, eq=False):
    """The tasks and workers of one shape."""

    shape: Shape
    ready: deque[Task] = msgspec.field(default_factory=deque)
    workers: dict[str, Worker] = msgspec.field(default_factory=dict)
    idle: dict[str, Worker] = msgspec.field(default_factory=dict)
    demand: int = 0
    flowing: bool = False
    """Whether tasks are so short, and come back so fast, that they are best sent many at a time."""
    task_s: float = 0.0
    """Moving average of a task's duration; 0 while unknown."""
    answered_at: float = -math.inf
    """When the last answer came."""

    def note_duration(self, busy_s: float, count: int, now: float) -> None:
        """An answer came: so many tasks took so long together."""
        self.answered_at = now
        each = busy_s / count
        # What many tasks say counts for more: one of them that was held up tells little of those to come.
        weight = count / (count + 0.5) if self.task_s else 1.0
        self.task_s += (each - self.task_s) * weight

    def unsettled(self) -> Iterator[Task]:
        """Tasks that have been accepted and not yet settled."""
        for worker in self.workers.values():
            yield from worker.in_flight.values()
        for task in self.ready:
            if not task.withdrawn:
                yield task

    def check_invariants(self) -> None:
        """Raise ``AssertionError`` when the state contradicts itself."""
        for worker in self.workers.values():
            assert (worker.lease in self.idle) <= (not worker.in_flight), "an idle worker holds tasks"
            assert not worker.exclusive or len(worker.in_flight) <= 1, "a task that must be alone is not"
            for attempt, task in worker.in_flight.items():
                assert task.message.attempt == attempt


class PoolState(msgspec.Struct, eq=False):
    """What the parts of a pool's core share.

    ``outstanding`` are tasks accepted and not yet settled; ``deadlines`` says what must happen when, by
    ``(kind, lease)``.
    """

    awaits_set_up: bool
    """The initializer has not run anywhere yet, and is to.  Where one worker is to be had, all that have been granted
    by then run it; a cluster may not have them all, so their number is not waited for."""
    workers: dict[str, Worker] = msgspec.field(default_factory=dict)
    deadlines: dict[tuple[str, str], float] = msgspec.field(default_factory=dict)
    outstanding: int = 0
    closing: bool = False
    broken: Failure | None = None

    def fail(self, task: Task, failure: Failure, effects: Effects) -> None:
        """A task that no worker has will not run."""
        # Its future is settled later, and whoever would cancel it until then is too late.
        task.withdrawn = True
        self.outstanding -= 1
        effects.failed.append((task, failure))
        effects.let_go.append(task)
