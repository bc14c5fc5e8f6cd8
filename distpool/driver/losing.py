"""What follows when a worker, or the whole pool, is lost; a part of ``core``, and as free of I/O as that.

Results return in batches, so after a death it is unknown which of the tasks in flight had run.  Each of them is
charged an attempt, and goes back to the queue marked ``alone``: from then on it meets workers by itself, so a task
that kills every worker is found out without taking its neighbours with it.  Tasks that may not run twice are
``alone`` from the start.
"""

from __future__ import annotations

import msgspec

from distpool.driver import gangs
from distpool.driver.dealing import Dealer
from distpool.driver.state import Effects, Failure, FailureKind, Group, PoolState, Worker, WorkerExit
from distpool.driver.task import Task

#: Answers of a worker may still be under way when word of its death comes by another route.  (Not of one whose shortcut
#: says that there are none.)
LAST_WORDS_S = 0.005
#: How long the cause of a worker's death may take to come from its node, by way of the scheduler.
CAUSE_S = 2.0
#: A worker that is stopped for what its task uses was seen to use it a little earlier.  If it began with this task, or
#: answered another one, since then, nobody knows which of them that was.
_BLAMED_AFTER_S = 0.1
#: How long a worker that was told to end may take before it is killed.
TERMINATE_GRACE_S = 1.0
_UNHEEDED = "it was ended because a task on it did not stop when told to"
#: So many workers in a row that end before they could run anything break the pool.
FAILED_STARTS = 3
#: How long one worker fewer works after memory ran short.
MEMORY_CAUTION_S = 30.0


class Losses:
    """See the module's description.

    :param strict: a worker that dies breaks the pool.
    """

    def __init__(self, state: PoolState, dealer: Dealer, strict: bool) -> None:
        self._state = state
        self._dealer = dealer
        self._strict = strict
        self._failed_starts = 0

    def on_started(self) -> None:
        """A worker came so far that it could run tasks."""
        self._failed_starts = 0

    def on_ended(self, worker: Worker, exit: WorkerExit, now: float, effects: Effects) -> None:
        """Word came that a worker is gone, or after its connection had broken, why that was."""
        presumed = worker.exit
        if presumed is None:
            worker.ended_at = now
        if presumed is None or exit.reason:
            worker.exit = exit
        self._dealer.groups[worker.shape].idle.pop(worker.lease, None)
        if presumed is None and worker.in_flight and not worker.leaving and (exit.presumed or not worker.silent):
            self._state.deadlines["ended", worker.lease] = now + (CAUSE_S if exit.presumed else LAST_WORDS_S)
        else:
            self.bury(worker, now, effects)

    def on_silent(self, worker: Worker, now: float, effects: Effects) -> None:
        """All that it said has been heard."""
        worker.silent = True
        if worker.exit is not None and not worker.exit.presumed:
            self.bury(worker, now, effects)

    def bury(self, worker: Worker, now: float, effects: Effects) -> None:
        """A worker is gone for good: charge its tasks, or break the pool."""
        assert worker.exit is not None
        # What Python code wrote comes this way, what native code wrote comes with the report of the end.
        exit = msgspec.structs.replace(worker.exit, stderr_tail=worker.words + worker.exit.stderr_tail)
        group = self._dealer.groups[worker.shape]
        del self._state.workers[worker.lease]
        del group.workers[worker.lease]
        group.idle.pop(worker.lease, None)
        for kind in ("ended", "task", "stopping", "idle"):
            self._state.deadlines.pop((kind, worker.lease), None)
        tasks = list(worker.in_flight.values())
        worker.in_flight.clear()
        effects.let_go += worker.stopping.values()
        if worker.gang:
            tasks = self._break_up(group, worker, tasks, effects)
        if worker.leaving:
            # Its end was wanted; what it still held goes elsewhere, uncharged.
            self._dealer.requeue(group, tasks, effects)
        elif self._strict and exit.shortage != "task":
            self._dealer.requeue(group, tasks, effects)
            self.break_pool(Failure(FailureKind.BROKEN, exit=exit), effects)
            return
        else:
            certain = exit.shortage == "task" and worker.ended_at >= worker.last_progress + _BLAMED_AFTER_S
            self._charge(group, tasks, exit, effects, certain)
            # With a node that is lost go workers that had no chance to answer.
            if not worker.answered and not worker.stopping and not exit.lost:
                self.on_failed_start(exit, effects)
        if self._state.broken is None:
            if exit.shortage == "node":
                self._grow_careful(now)
            self._dealer.ask(group, effects)
            self._dealer.shed(group, effects)
            self._dealer.deal(group, now, effects)

    def _charge(
        self, group: Group, tasks: list[Task], exit: WorkerExit, effects: Effects, certain: bool = False
    ) -> None:
        """These tasks may have run at a worker that did not answer: they run again if they may.

        :param certain: whether the worker ended because of what it was running, and would do so again; of several tasks
            it is unknown which one that was.
        """
        again = []
        kind = FailureKind.OUT_OF_MEMORY if exit.shortage else FailureKind.WORKER_DIED
        for task in tasks:
            task.deaths += 1
            if (certain and len(tasks) == 1) or task.retries_left <= 0:
                self._state.fail(task, Failure(kind, exit=exit), effects)
            else:
                task.retries_left -= 1
                task.alone = True
                again.append(task)
        self._dealer.requeue(group, again, effects)

    def on_unheeded(self, worker: Worker, effects: Effects) -> None:
        """A worker did not heed an interrupt: it goes.  What else it holds should not have started; but the way there
        may be interrupted as well, and then nobody knows."""
        group = self._dealer.groups[worker.shape]
        exit = WorkerExit(worker.pid, 0, _UNHEEDED, node=worker.node)
        self._charge(group, list(worker.in_flight.values()), exit, effects)
        worker.in_flight.clear()
        worker.leaving = True
        effects.give_back.append((worker, TERMINATE_GRACE_S, True))

    def _grow_careful(self, now: float) -> None:
        """Memory ran short on a node: fewer tasks at once."""
        self._dealer.withheld += 1
        self._state.deadlines[("memory", "")] = now + MEMORY_CAUTION_S

    def grow_bolder(self, now: float, effects: Effects) -> None:
        """Memory has not run short for a while: one worker more."""
        self._dealer.withheld -= 1
        if self._dealer.withheld:
            self._state.deadlines[("memory", "")] = now + MEMORY_CAUTION_S
        for group in self._dealer.groups.values():
            self._dealer.ask(group, effects)

    def _break_up(self, group: Group, worker: Worker, tasks: list[Task], effects: Effects) -> list[Task]:
        tasks, others = gangs.break_up(group, worker, tasks)
        for other in others:
            if not other.leaving:
                other.leaving = True
                group.idle.pop(other.lease, None)
                for kind in ("task", "idle"):
                    self._state.deadlines.pop((kind, other.lease), None)
                if other.exit is None:
                    effects.give_back.append((other, TERMINATE_GRACE_S, True))
        call = tasks[0].call if tasks else None
        if call is not None:
            # What has been answered is to be done again.
            self._state.outstanding += len(call.finished)
            call.finished.clear()
        return tasks

    def on_failed_start(self, exit: WorkerExit, effects: Effects) -> None:
        """A worker ended before it could run anything."""
        self._failed_starts += 1
        if self._failed_starts >= FAILED_STARTS:
            self.break_pool(Failure(FailureKind.BROKEN, exit=exit), effects)

    def break_pool(self, failure: Failure, effects: Effects) -> None:
        """Every task fails, every worker ends."""
        if self._state.broken is not None:
            return
        self._state.broken = effects.broken = failure
        self.await_no_set_up()
        for group in self._dealer.groups.values():
            for task in group.unsettled():
                self._state.fail(task, failure, effects)
            group.ready.clear()
            group.idle.clear()
            for worker in group.workers.values():
                worker.in_flight.clear()
                if not worker.leaving and worker.exit is None:
                    worker.leaving = True
                    effects.give_back.append((worker, TERMINATE_GRACE_S, True))
            if group.demand:
                group.demand = 0
                effects.demand.append((group.shape, 0))
        # Not merely counted down: an interrupt in the middle of a handler may have lost count, and this is the way out.
        self._state.outstanding = 0

    def await_no_set_up(self) -> None:
        """The initializer has run, or never will."""
        self._state.awaits_set_up = False
        if self._state.closing:
            self._dealer.eager = False
