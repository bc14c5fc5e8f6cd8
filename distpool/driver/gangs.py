"""Calls that run on several workers at once; a part of ``core``, and as free of I/O as that.

A *gang* is a set of workers that the scheduler granted together.  A call for a gang of ``n`` is ``n`` tasks, one per
rank, which stand in their group's queue one after the other, are sent all at once to a gang that is idle, and fail
together: when one of them raises, the others are stopped, and when a worker dies, its gang ends and the whole call
runs again.
"""

from __future__ import annotations

from typing import Any

import msgspec

from distpool.driver.state import Group, Worker
from distpool.driver.task import Task


class GangCall(msgspec.Struct, eq=False):
    """One call on all workers of a gang.

    ``tasks`` are by rank; ``finished`` the ranks that have answered in this attempt; ``outcomes`` what they answered,
    and ``settled`` whether the call's future has been (the shell's concern).
    """

    tasks: list[Task]
    finished: set[int] = msgspec.field(default_factory=set)
    outcomes: dict[int, Any] = msgspec.field(default_factory=dict)
    settled: bool = False

    @property
    def unfinished(self) -> list[Task]:
        """Those that have not answered."""
        return [task for task in self.tasks if task.rank not in self.finished]

    def let_go(self) -> None:
        """The call is settled: what has answered needs its arguments no more, what is being stopped still may."""
        for rank in self.finished:
            self.tasks[rank].let_go()


def ranks_of(task: Task, size: int) -> list[Task]:
    """A call that runs on ``size`` workers, made of the task of its first."""
    copies = [
        msgspec.structs.replace(task, message=msgspec.structs.replace(task.message), rank=rank)
        for rank in range(1, size)
    ]
    call = GangCall([task, *copies])
    for each in call.tasks:
        each.call = call
        each.alone = True
    return call.tasks


def parts(task: Task) -> list[Task]:
    """All that is left to be done of the call that ``task`` belongs to."""
    return [task] if task.call is None else task.call.unfinished


def idle_gang(group: Group) -> list[Worker] | None:
    """The workers of a gang, by rank, that are all free to work."""
    gangs: dict[str, list[Worker]] = {}
    for worker in group.idle.values():
        if not (worker.leaving or worker.wanted or worker.stopping or worker.exit is not None):
            gangs.setdefault(worker.gang, []).append(worker)
    for gang in gangs.values():
        if len(gang) == group.shape.gang:
            return sorted(gang, key=lambda worker: worker.rank)
    return None


def others_of(group: Group, worker: Worker) -> list[Worker]:
    """The rest of a worker's gang."""
    return [other for other in group.workers.values() if other.gang == worker.gang and other is not worker]


def next_call(group: Group) -> list[Task] | None:
    """Take the next call from the queue: its tasks, by rank."""
    ready = group.ready
    while ready and ready[0].withdrawn:
        ready.popleft()
    return [ready.popleft() for _ in range(group.shape.gang)] if ready else None


def break_up(group: Group, worker: Worker, tasks: list[Task]) -> tuple[list[Task], list[Worker]]:
    """A worker of a gang is gone, which held ``tasks``: what must run again of its call, which is all of it, and the
    rest of the gang, which must go as well."""
    others = others_of(group, worker)
    held = [*tasks, *(task for other in others for task in other.in_flight.values())]
    for other in others:
        other.in_flight.clear()
    call = next((task.call for task in held if task.call is not None), None)
    return held if call is None else list(call.tasks), others
