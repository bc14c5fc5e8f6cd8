"""What the agent core is told (past tense) and what it wants done (imperative)."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from distpool.node.memory_core import Sample
from distpool.wire import agent_to_scheduler, scheduler_to_agent, worker_to_agent


class NodeStarted(msgspec.Struct, frozen=True):
    """The first event of all: the first zygote can fork, the scheduler can be told."""


class SchedulerSaid(msgspec.Struct, frozen=True):
    """A message of the scheduler arrived."""

    message: scheduler_to_agent.Message


class WorkerSaid(msgspec.Struct, frozen=True):
    """A message of a worker arrived; ``worker`` is its name, taken from its routing id."""

    worker: str
    message: worker_to_agent.Message


class WorkerForked(msgspec.Struct, frozen=True):
    """The process of a worker exists."""

    worker: str
    pid: int


class ForkFailed(msgspec.Struct, frozen=True):
    """There will be no process for this worker."""

    worker: str
    reason: str


class WorkerProcessExited(msgspec.Struct, frozen=True):
    """The kernel's word on a worker.  ``kernel_kills``: see ``memory_core.Sample``."""

    pid: int
    exit_code: int
    peak_rss_bytes: int = 0
    stderr_tail: str = ""
    kernel_kills: int = 0


class MemorySampled(msgspec.Struct, frozen=True):
    """The answer to ``SampleMemory``."""

    sample: Sample


class IdleTimeSeen(msgspec.Struct, frozen=True):
    """The answer to ``LookAtIdleTime``: the seconds for which the machine's CPUs have had nothing to do since it
    started, all together; None: the system does not say."""

    idle_s: float | None


class GenerationReady(msgspec.Struct, frozen=True):
    """A generation can fork workers.  ``unloadable``: modules that were asked for and could not be imported."""

    generation: int
    modules: tuple[str, ...]
    unloadable: tuple[str, ...] = ()


class GenerationEnded(msgspec.Struct, frozen=True):
    """A generation is gone.  ``unloadable``: modules that made it unfit (they start threads)."""

    generation: int
    unloadable: tuple[str, ...] = ()


class Evacuated(msgspec.Struct, frozen=True):
    """What the node's store had and is still needed is with another node, or nothing was needed; not ``ok``: it is all
    here still."""

    successor: str
    ok: bool = True


class StandsFor(msgspec.Struct, frozen=True):
    """What these nodes had, which leave, is here."""

    nodes: tuple[str, ...]


class TimePassed(msgspec.Struct, frozen=True):
    """The deadline named by ``next_deadline`` has come."""


class ToScheduler(msgspec.Struct, frozen=True):
    """Send this."""

    message: agent_to_scheduler.Message


class ForkWorker(msgspec.Struct, frozen=True):
    """Fork a worker from a generation."""

    worker: str
    generation: int


class SignalWorker(msgspec.Struct, frozen=True):
    """Send a signal to a worker's process."""

    worker: str
    pid: int
    signal: int


class SampleMemory(msgspec.Struct, frozen=True):
    """See how much memory is left, and how much these workers (process ids by name) use; ``consumers``: and who uses
    most of it."""

    workers: dict[str, int]
    consumers: bool


class LookAtIdleTime(msgspec.Struct, frozen=True):
    """See how much time the machine's CPUs have had to spare."""


class MakeGeneration(msgspec.Struct, frozen=True):
    """Fork a generation from the first one and load modules in it."""

    generation: int
    modules: tuple[str, ...]


class EndGeneration(msgspec.Struct, frozen=True):
    """End a generation; it has no workers."""

    generation: int


class Evacuate(msgspec.Struct, frozen=True):
    """Have another node take over what the store has, then report ``Evacuated``.  May be said again."""

    successor: str
    site_endpoint: str


Event: TypeAlias = (
    "NodeStarted | SchedulerSaid | WorkerSaid | WorkerForked | ForkFailed | WorkerProcessExited"
    " | GenerationReady | GenerationEnded | IdleTimeSeen | MemorySampled | Evacuated | StandsFor"
    " | TimePassed"
)
Effect: TypeAlias = (
    "ToScheduler | ForkWorker | SignalWorker | SampleMemory | LookAtIdleTime"
    " | MakeGeneration | EndGeneration | Evacuate"
)
