"""Workers that are forked ahead of time; a part of ``core``, and as free of I/O as that."""

from __future__ import annotations

from collections.abc import Iterable

from distpool.node.state import Worker, WorkerState

#: Spares are replaced so long after a lease was asked for: not in competition with the first tasks of a pool that is
#: starting, and in time for the next one.
_PAUSE_S = 0.02
#: The same while a worker waits for what its task has submitted: the lease is for that, the cores are busy with it, and
#: what is wanted next is its result.
_PAUSE_WHILE_LENT_S = 0.1
#: By then the first zygote has loaded what only some tasks need.  A spare that was forked sooner would load all that by
#: itself, when its task submits tasks or needs the state of a module.
_LOADED_S = 0.08
#: One that died is replaced later: what killed it may go on.
_PAUSE_AFTER_DEATH_S = 0.1
#: So many spares in a row may die before spares are given up.
_FAILURES = 3


class Spares:
    """When there are to be how many, and what they are called.

    :param wanted: how many to keep.
    :param prefix: what their names begin with; a number follows.
    :ivar fill_at: when it is to be seen to that there are so many.
    """

    def __init__(self, wanted: int, prefix: str) -> None:
        self._wanted = wanted
        self._prefix = prefix
        self._last = 0
        self._failures = 0
        self._loaded_at: float | None = None
        self.fill_at: float | None = None

    def fill_soon(self, now: float) -> None:
        """The node has begun, or has a newer generation to fork from."""
        if self._loaded_at is None:
            self._loaded_at = now + _LOADED_S
        if self._wanted:
            self.fill_at = now

    def on_lease_asked(self, workers: Iterable[Worker], now: float) -> None:
        """A lease may take one."""
        # Not later because of a further lease: where pools, or deaths, follow each other, none would find a spare.
        if self._wanted and self.fill_at is None:
            lent = any(worker.state is WorkerState.BLOCKED for worker in workers)
            pause_s = _PAUSE_WHILE_LENT_S if lent else _PAUSE_S
            self.fill_at = max(now + pause_s, self._loaded_at or now)

    def on_started(self) -> None:
        """One is up."""
        self._failures = 0

    def on_died(self, now: float) -> None:
        """One ended that had not been told to."""
        self._failures += 1
        if self._wanted and self._failures < _FAILURES:
            self.fill_at = now + _PAUSE_AFTER_DEATH_S

    def take(self, workers: Iterable[Worker], generation: int) -> Worker | None:
        """The one that is to serve a lease: one that is up if there is such, or else one that is starting."""
        best = None
        for worker in workers:
            if worker.lease is None and worker.generation == generation:
                if worker.state is WorkerState.LISTENING:
                    return worker
                if worker.state is not WorkerState.STOPPING:
                    best = best or worker
        return best

    def fill(self, workers: Iterable[Worker], generation: int) -> tuple[list[Worker], list[str]]:
        """Those that must end, since they have not loaded what the newer ones have; and the names of new ones."""
        self.fill_at = None
        waiting = 0
        outdated = []
        for worker in workers:
            if worker.lease is None and worker.state is not WorkerState.STOPPING:
                if worker.generation == generation:
                    waiting += 1
                else:
                    outdated.append(worker)
        names = []
        for _ in range(waiting, self._wanted):
            self._last += 1
            names.append(f"{self._prefix}{self._last}")
        return outdated, names
