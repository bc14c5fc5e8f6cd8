"""What the agent core is told (past tense) and what it wants done (imperative)."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

from distpool.node.memory_core import Sample
from distpool.wire import agent_to_scheduler, scheduler_to_agent, worker_to_agent


class NodeStarted(NamedTuple):
    """The first event of all: the first zygote can fork, the scheduler can be told."""


class SchedulerSaid(NamedTuple):
    """A message of the scheduler arrived."""

    message: scheduler_to_agent.Message


class WorkerSaid(NamedTuple):
    """A message of a worker arrived; ``worker`` is its name, taken from its routing id."""

    worker: str
    message: worker_to_agent.Message


class WorkerForked(NamedTuple):
    """The process of a worker exists."""

    worker: str
    pid: int


class ForkFailed(NamedTuple):
    """There will be no process for this worker."""

    worker: str
    reason: str


class WorkerProcessExited(NamedTuple):
    """The kernel's word on a worker."""

    pid: int
    exit_code: int
    peak_rss_bytes: int = 0
    stderr_tail: str = ""
    kernel_short_of_memory: bool = False


class MemorySampled(NamedTuple):
    """The answer to ``SampleMemory``."""

    sample: Sample


class GenerationReady(NamedTuple):
    """A generation can fork workers.  ``unloadable``: modules that were asked for and could not be imported."""

    generation: int
    modules: tuple[str, ...]
    unloadable: tuple[str, ...] = ()


class GenerationEnded(NamedTuple):
    """A generation is gone.  ``unloadable``: modules that made it unfit (they start threads)."""

    generation: int
    unloadable: tuple[str, ...] = ()


class Evacuated(NamedTuple):
    """What the node's store had and is still needed is with another node, or nothing was needed; not ``ok``: it is all
    here still."""

    successor: str
    ok: bool = True


class StandsFor(NamedTuple):
    """What these nodes had, which leave, is here."""

    nodes: tuple[str, ...]


class TimePassed(NamedTuple):
    """The deadline named by ``next_deadline`` has come."""


class ToScheduler(NamedTuple):
    """Send this."""

    message: agent_to_scheduler.Message


class ForkWorker(NamedTuple):
    """Fork a worker from a generation."""

    worker: str
    generation: int


class SignalWorker(NamedTuple):
    """Send a signal to a worker's process."""

    worker: str
    pid: int
    signal: int


class SampleMemory(NamedTuple):
    """See how much memory is left, and how much these workers (process ids by name) use; ``consumers``: and who uses
    most of it."""

    workers: dict[str, int]
    consumers: bool


class MakeGeneration(NamedTuple):
    """Fork a generation from the first one and load modules in it."""

    generation: int
    modules: tuple[str, ...]


class EndGeneration(NamedTuple):
    """End a generation; it has no workers."""

    generation: int


class Evacuate(NamedTuple):
    """Have another node take over what the store has, then report ``Evacuated``.  May be said again."""

    successor: str
    site_endpoint: str


Event: TypeAlias = (
    "NodeStarted | SchedulerSaid | WorkerSaid | WorkerForked | ForkFailed | WorkerProcessExited"
    " | GenerationReady | GenerationEnded | MemorySampled | Evacuated | StandsFor"
    " | TimePassed"
)
Effect: TypeAlias = "ToScheduler | ForkWorker | SignalWorker | SampleMemory | MakeGeneration | EndGeneration | Evacuate"
