"""When memory runs short: how often to look, which worker has to go, and why; a part of the agent core, without I/O.

The kernel's own way is to kill whichever process looks worst, and whoever was in its control group with it.  So this
acts before: when less than the *reserve* is left of the machine's memory, of a control group's or of what the node was
given, the newest of the large tasks that may run again is stopped.  One at a time, since memory comes back only when
the process is gone.  A task with a limit of its own (``memory_bytes``) is stopped when it is above that.

Looks cost little and are taken as rarely as is safe: so that between two of them all CPUs could not have filled half of
what is left.
"""

from __future__ import annotations

import math

import msgspec

from distpool.node.memory_policy import MemoryPolicy

#: Of each kind of memory so much is kept free at most.
_MOST_RESERVED_BYTES = 4 << 30
#: How fast one CPU can fill memory that the kernel must first clear.
_FILL_BYTES_PER_S = 2 << 30
_SHORTEST_S, _LONGEST_S = 0.02, 5.0
#: Until whoever is stopped is gone, others go on: what they can fill meanwhile is kept free, up to this share of all.
_REACTION_S, _REACTION_SHARE = 0.05, 1 / 8
#: Where little is left and nothing happens, looks become as rare as this.
_QUIET_S = 0.5
#: Changes below this are none.
_NOISE_BYTES = 1 << 20
#: A worker that uses less than this is not the reason.
_LEAST_BYTES = 64 << 20
#: While all tasks stand still for memory for this share of the time, three times the reserve is called short.
_STALLED = 0.2
#: ``Verdict.shortage``: the node has too little, or the task used more than it was allowed.
NODE, TASK = "node", "task"


class Kind(msgspec.Struct, frozen=True):
    """Memory of one kind: what it is (``the machine``, ``control group /x``), its size, and what of it is left."""

    name: str
    size_bytes: int
    left_bytes: int


class Sample(msgspec.Struct, frozen=True):
    """One look.  ``workers``: private memory of each by name; ``stalled``: share of the time in which nothing could run
    for want of memory; ``consumers``: the largest processes of the machine, in words, if they were asked for;
    ``kernel_kills``: how many processes the kernel's out-of-memory killer has ended since the node began."""

    kinds: tuple[Kind, ...]
    workers: dict[str, int]
    stalled: float = 0.0
    consumers: tuple[str, ...] = ()
    kernel_kills: int = 0


class Verdict(msgspec.Struct, frozen=True):
    """This worker has to go, and why."""

    worker: str
    shortage: str
    finding: str


class _Use(msgspec.Struct):
    limit_bytes: int
    bytes: int = 0
    #: of the worker as it was before any task
    at_start_bytes: int = -1
    #: when the task began that has been running for a while; None: unknown, so it is new
    since: float | None = None
    retriable: bool = True
    blocked: bool = False


class MemoryCore:
    """See the module's description.  Knows workers that have a lease."""

    def __init__(self, policy: MemoryPolicy, cpus: float) -> None:
        self._policy = policy
        self._cpus = max(1.0, cpus)
        self._workers: dict[str, _Use] = {}
        self._look_at: float | None = None
        self._pause_s = _SHORTEST_S
        self._victim = ""
        self._last_total = 0
        #: Whether the next sample should name the largest processes.
        self.wants_consumers = False

    def next_deadline(self) -> float | None:
        """When to look."""
        return self._look_at

    def due(self, now: float) -> bool:
        """Whether to look now; the answer comes with ``on_sample``."""
        if self._look_at is None or now < self._look_at:
            return False
        self._look_at = None
        return True

    def on_lease_began(self, worker: str, limit_bytes: int, now: float) -> None:
        """A worker is about to get tasks."""
        if self._policy.reserve or limit_bytes:
            self._workers[worker] = _Use(limit_bytes)
            # At once where it matters what it used before its first task.
            self._look_by(now if limit_bytes else now + self._pause_s)

    def on_task_runs(self, worker: str, since: float, retriable: bool) -> None:
        """A task has been running for a while."""
        use = self._workers.get(worker)
        if use is not None:
            use.since, use.retriable = since, retriable

    def on_task_ended(self, worker: str) -> None:
        """The task that had been running for a while."""
        use = self._workers.get(worker)
        if use is not None:
            use.since, use.retriable = None, True

    def on_blocked(self, worker: str, blocked: bool) -> None:
        """A task waits for tasks of its own, or goes on."""
        use = self._workers.get(worker)
        if use is not None:
            use.blocked = blocked

    def on_gone(self, worker: str, now: float) -> None:
        """The worker's process is gone."""
        self._workers.pop(worker, None)
        if worker == self._victim:
            self._victim = ""
            self._look_by(now + _SHORTEST_S)
        if not self._workers:
            self._look_at = None

    def on_sample(self, sample: Sample, now: float) -> Verdict | None:
        """What was seen; the worker that has to go because of it."""
        for name, size_bytes in sample.workers.items():
            use = self._workers.get(name)
            if use is not None:
                use.bytes = size_bytes
                if use.at_start_bytes < 0:
                    use.at_start_bytes = size_bytes
        verdict = self._judge(sample)
        if verdict is not None:
            self._victim = verdict.worker
        if self._workers:
            self._look_by(now + self._pause(sample))
        return verdict

    # -- within -------------------------------------------------------------------------------------------------

    def _look_by(self, at: float) -> None:
        self._look_at = at if self._look_at is None else min(at, self._look_at)

    def _judge(self, sample: Sample) -> Verdict | None:
        if self._victim:
            return None
        for name, use in self._workers.items():
            if use.limit_bytes and _grown(use) > use.limit_bytes:
                used, allowed = in_words(_grown(use)), in_words(use.limit_bytes)
                return Verdict(name, TASK, f"it was stopped because its task used {used} of the {allowed} that "
                               "memory_bytes allows it")  # fmt: skip
        short = next((kind for kind in sample.kinds if self._is_short(kind, sample.stalled)), None)
        self.wants_consumers = any(kind.left_bytes < 3 * self._reserved(kind) for kind in sample.kinds)
        victim = self._choose() if short is not None else None
        if short is None or victim is None:
            return None
        left, size = in_words(max(0, short.left_bytes)), in_words(short.size_bytes)
        used = in_words(self._workers[victim].bytes)
        finding = (
            f"it was stopped because memory ran short: of the {size} of {short.name} {left} were left; it used {used}"
        )
        if sample.consumers:
            finding += f"; the largest processes: {', '.join(sample.consumers)}"
        return Verdict(victim, NODE, finding)

    def _is_short(self, kind: Kind, stalled: float) -> bool:
        factor = 3 if stalled >= _STALLED else 1
        return kind.left_bytes < factor * self._reserved(kind)

    def _reserved(self, kind: Kind) -> float:
        if not self._policy.reserve:
            return 0.0
        share = min(_MOST_RESERVED_BYTES, self._policy.reserve * kind.size_bytes)
        return max(share, min(_FILL_BYTES_PER_S * self._cpus * _REACTION_S, _REACTION_SHARE * kind.size_bytes))

    def _choose(self) -> str | None:
        """Of the large ones that may run again the newest; one that may not only if there is no other."""
        largest = max((use.bytes for use in self._workers.values()), default=0)
        if largest < _LEAST_BYTES:
            return None

        def unfit(name: str) -> tuple[bool, bool, bool, float, int]:
            use = self._workers[name]
            # Those of which nothing is known yet are the newest; of several such the largest goes.
            newness = -math.inf if use.since is None else -use.since
            return not use.retriable, use.blocked, use.bytes < largest / 2, newness, -use.bytes

        return min((name for name, use in self._workers.items() if use.bytes >= largest / 4), key=unfit)

    def _pause(self, sample: Sample) -> float:
        """How long nothing can happen."""
        rate = _FILL_BYTES_PER_S * min(self._cpus, len(self._workers))
        pauses = [(kind.left_bytes - self._reserved(kind)) / rate for kind in sample.kinds]
        pauses += [
            (use.limit_bytes - _grown(use)) / _FILL_BYTES_PER_S for use in self._workers.values() if use.limit_bytes
        ]
        safe_s = max(_SHORTEST_S, min(_LONGEST_S, min(pauses, default=_LONGEST_S) / 2))
        total = sum(sample.workers.values())
        quiet = abs(total - self._last_total) < _NOISE_BYTES
        self._last_total = total
        self._pause_s = max(safe_s, min(_QUIET_S, self._pause_s * 2)) if quiet else safe_s
        return self._pause_s


def in_words(size_bytes: float) -> str:
    """A size for people."""
    return f"{size_bytes / 2**30:.1f} GiB" if size_bytes >= 2**30 else f"{size_bytes / 2**20:.0f} MiB"


def _grown(use: _Use) -> int:
    return use.bytes - max(0, use.at_start_bytes)
