"""Ending tasks that run; a part of ``core``, and as free of I/O as that.

A task that is to end is settled at once.  Its worker is told to give it back or to interrupt it, and until it has
answered it may still look at the arguments.
"""

from __future__ import annotations

from distpool.driver.dealing import Dealer
from distpool.driver.state import Effects, Failure, FailureKind, PoolState, Worker
from distpool.driver.task import Task
from distpool.wire.worker_to_driver import OK, Result

#: How long an interrupted task may take to end before its worker is terminated, and then before it is killed.
INTERRUPT_GRACE_S = 1.0


class Stopper:
    """See the module's description."""

    def __init__(self, state: PoolState, dealer: Dealer) -> None:
        self._state = state
        self._dealer = dealer

    def stop(self, task: Task, failure: Failure, now: float, effects: Effects) -> None:
        """Have a task end that may be running."""
        group = self._dealer.groups.get(task.shape)
        attempt = task.message.attempt
        for worker in group.workers.values() if group else ():
            if worker.in_flight.get(attempt) is not task:
                continue
            del worker.in_flight[attempt]
            worker.stopping[attempt] = task
            if worker.exit is None:  # or else it hears nothing any more
                effects.retract.append((worker, [attempt]))
                effects.interrupt.append((worker, attempt))
                self._state.deadlines[("stopping", worker.lease)] = now + INTERRUPT_GRACE_S
            self._state.outstanding -= 1
            effects.failed.append((task, failure))
            return
        # Or else it has just ended, and its future is about to be settled.
        if group is not None and task in group.ready and not task.withdrawn:
            self._state.fail(task, failure, effects)

    def let_go(self, worker: Worker, attempt: int, effects: Effects) -> None:
        """A worker is done with an attempt that was none of its tasks any more."""
        task = worker.stopping.pop(attempt, None)
        if task is not None:
            effects.let_go.append(task)
            if not worker.stopping:
                self._state.deadlines.pop(("stopping", worker.lease), None)

    def on_part_finished(self, task: Task, result: Result, now: float, effects: Effects) -> None:
        """A worker of a gang answered.  When it raised, the others could wait for it forever."""
        assert task.call is not None
        task.call.finished.add(task.rank)
        if result.status != OK:
            for part in task.call.unfinished:
                self.stop(part, Failure(FailureKind.KILLED), now, effects)
