"""The shell around ``PoolCore``: what has gathered and what happened goes in, what the core says is done.

Called under the session's lock by whoever has news for the pool; ``react`` and ``start`` take the lock themselves.
"""

from __future__ import annotations

import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures._base import PENDING
from typing import TYPE_CHECKING, Any

from distpool import crashpoints
from distpool.driver.core import PoolCore
from distpool.driver.future import DistFuture
from distpool.driver.gangs import GangCall, parts
from distpool.driver.held import HeldTasks
from distpool.driver.interrupts import shield
from distpool.driver.lease_events import LeaseEvents
from distpool.driver.outcome import GangOutcome, PackedOutcome, broken_error, exception_of
from distpool.driver.spec import PoolSpec
from distpool.driver.state import Effects, Failure, FailureKind
from distpool.driver.task import Task
from distpool.driver.workforce import Workforce
from distpool.wire import driver_to_scheduler, driver_to_worker, worker_to_driver

if TYPE_CHECKING:
    from distpool.driver.pool import WorkerPool
    from distpool.driver.session import Session
    from distpool.sharing.reducers import Shared
    from distpool.store.handles import Packed

#: So much of what a worker wrote is kept for the report of its death.
_WORDS_CHARACTERS = 4096
_monotonic = time.monotonic

#: Futures with what they are to be resolved with: an outcome, or an error.
Settled = list[tuple[DistFuture[Any], Any, "BaseException | None"]]


class PoolShell:
    """One per pool.

    :ivar inbox: tasks that have been submitted and that the core has not seen.
    :ivar hungry: whether what is submitted now is wanted at once.
    :ivar closing: no more calls are taken.
    :ivar broken: why nothing can run any more.
    :ivar ended: set when nothing of the pool is left.
    """

    def __init__(self, pool: WorkerPool, session: Session, spec: PoolSpec) -> None:
        # The pool holds this, and what programs lend to it must be free as soon as they let go of it.
        self._pool = weakref.ref(pool)
        self._pool_id = pool.pool_id
        self._session = session
        self._lock = session.lock
        self._store = session.store
        self._spec = spec
        self.inbox: deque[Task] = deque()
        self.held = HeldTasks(session, self.inbox)
        self.hungry = True
        self.closing = False
        self.broken: BaseException | None = None
        self.ended = threading.Event()
        self.core = PoolCore(
            spec.max_workers,
            eager=spec.eager,
            initialized=spec.initializer is not None,
            strict=spec.strict,
            max_tasks_per_child=spec.max_tasks_per_child or 0,
            idle_timeout_s=spec.idle_timeout_s,
        )
        #: What of ``multiprocessing`` in ``initargs`` workers reach through this process, while they may be started.
        self._shared: Shared | None = None
        setup = session.capture_setup(spec, self._pack_initializer() if spec.initializer else None)
        self.workforce = Workforce(spec, session)
        self.leases = LeaseEvents(session, self.core, self.workforce, setup)

    def _pack_initializer(self) -> Packed:
        initializer = (self._spec.initializer, self._spec.initargs)
        if "multiprocessing.reduction" not in sys.modules:
            return self._store.pack(initializer)
        from distpool.sharing.reducers import sharing

        with sharing() as self._shared:
            return self._store.pack(initializer)

    # -- what is there ------------------------------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        """Whether a task has been accepted and not yet settled."""
        return bool(self.core.state.outstanding or self.inbox or self.held.tasks)

    @property
    def outstanding(self) -> int:
        """How many tasks have been accepted and not yet settled."""
        return self.core.state.outstanding + len(self.inbox) + len(self.held.tasks)

    def unsettled(self) -> list[Task]:
        """The tasks that have been accepted and not yet settled (caller holds the lock)."""
        return [*self.inbox, *self.held.tasks, *self.core.unsettled()]

    def unsent(self) -> list[Task]:
        """Those of them that no worker has."""
        self.react(None)
        with self._lock:
            return [*self.core.unsent(), *self.held.tasks]

    @property
    def starving(self) -> bool:
        """Whether tasks are ready and no worker has any."""
        return self.core.starving

    # -- what happened ------------------------------------------------------------------------------------------

    def on_message(self, lease: str, message: worker_to_driver.Message, now: float, effects: Effects) -> None:
        """A worker of this pool said something that concerns its tasks."""
        core = self.core
        if isinstance(message, worker_to_driver.TasksDone):
            worker = core.workers.get(lease)
            for result in message.results:
                if result.pinned and worker is not None:
                    # Before the tasks, and with them the handles of their arguments, are let go of.
                    self._store.pin(worker.peer.decode(), result.pinned)
            core.on_results(lease, message.results, message.busy_s, now, effects)
        elif isinstance(message, worker_to_driver.Retracted):
            core.on_retracted(lease, message.attempts, now, effects)
        elif isinstance(message, worker_to_driver.WorkerGrown):
            core.on_lease_wanted(lease, now, effects)
        elif isinstance(message, worker_to_driver.SetupDone):
            core.on_set_up(lease, now, effects)
        elif isinstance(message, worker_to_driver.SetupFailed):
            from distpool.worker.failure import decode_exception

            failure = Failure(FailureKind.BROKEN, reason=message.summary, error=decode_exception(message.error))
            core.on_set_up_failed(lease, failure, now, effects)

    def on_words(self, lease: str, text: str) -> None:
        """A task wrote to ``sys.stderr``: kept in case these are its worker's last words."""
        worker = self.core.workers.get(lease)
        if worker is not None:
            worker.words = (worker.words + text)[-_WORDS_CHARACTERS:]

    def on_broken(self, failure: Failure, now: float, effects: Effects) -> None:
        """Nothing can run any more."""
        self.core.on_broken(failure, now, effects)

    def on_time(self, now: float, effects: Effects) -> None:
        """A deadline has come."""
        self.core.on_time(now, effects)

    def on_opened(self, now: float, effects: Effects) -> None:
        """The scheduler knows the pool."""
        self.core.on_opened(now, effects)

    def withdraw(self, task: Task) -> None:
        """Its future, which is still pending, is cancelled."""
        if task in self.held.tasks:
            self.held.tasks.discard(task)
            task.withdrawn = True
        elif task in self.inbox:
            # The core passes it over.  Shown to the core first, it might be on its way to a worker at once.
            for part in parts(task):
                part.withdrawn = True
        else:
            effects = Effects()
            self.core.on_withdrawn(task, effects)
            self._perform(effects)

    # -- into the core, and out of it ---------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """When ``on_time`` must be called."""
        return self.core.next_deadline()

    def handle(self, event: Callable[[float, Effects], None] | None, now: float) -> Settled:
        """Let the core see what has gathered, then ``event``; do what it says.  Caller holds the lock and passes what
        this returns to ``Session.settle`` after releasing it."""
        settled: Settled = []
        while True:
            effects = Effects()
            self._take_in(effects, now)
            if event is not None:
                event(now, effects)
                event = None
            settled += self._perform(effects)
            # ``submit`` first leaves its task in the inbox and then looks at the flag; here it is the other way round,
            # so one of the two sees the other and no task is forgotten beside an idle worker.
            self.hungry = self.core.hungry
            if not (self.inbox and self.hungry):
                break
        if self.closing:
            if not self.core.closing and not self.held.tasks:
                effects = Effects()
                self.core.on_closed(now, effects)
                settled += self._perform(effects)
            self._finish_if_ended()
        loop = self._session.loop
        loop.note_deadline(self.core.next_deadline())
        if self._session.worker is not None and self.core.starving:
            loop.note_deadline(now)
        return settled

    def start(self) -> None:
        """See to what has gathered in the inbox: the short way if that is one task and a worker has nothing to do."""
        settled: Settled = []
        inbox = self.inbox
        with shield:
            with self._lock:
                now = _monotonic()
                worker = self.core.on_single(inbox[0], now) if len(inbox) == 1 else None
                if worker is not None:
                    self.workforce.send_single(worker, inbox.popleft())
                    self.hungry = self.core.hungry
                    if not self.hungry:
                        self._session.loop.note_deadline(self.core.next_deadline())
                if worker is None or (inbox and self.hungry):
                    settled = self.handle(None, now)
            if settled:
                self._session.settle(settled)

    def on_single(self, lease: str, message: worker_to_driver.TasksDone, now: float) -> Settled | None:
        """One task ended: the short way of ``on_message``, if there is nothing else to see to; None otherwise."""
        (result,) = message.results
        if result.objects or result.pinned or result.lost or self.inbox or self.closing:
            return None
        task = self.core.on_single_result(lease, result.attempt, message.busy_s, now)
        if task is None:
            return None
        task.let_go()
        settled: Settled = [(task.future, PackedOutcome(result, None, self._store), None)]
        self.hungry = True
        if self.inbox:  # it came before it could see that
            settled += self.handle(None, now)
        self._session.loop.note_deadline(self.core.next_deadline())
        return settled

    def react(self, event: Callable[[float, Effects], None] | None) -> None:
        """As ``handle``, with the lock and all that follows."""
        with shield:
            with self._lock:
                settled = self.handle(event, _monotonic())
            if settled:
                self._session.settle(settled)

    def _finish_if_ended(self) -> None:
        if self.core.over and not self.ended.is_set():
            pool = self._pool()
            if pool is not None:
                self._session.forget_pool(pool)
            self._shared = self.leases.setup = None
            self.ended.set()

    def _take_in(self, effects: Effects, now: float) -> None:
        inbox = self.inbox
        if not inbox:
            return
        tasks = []
        while True:
            try:
                tasks.append(inbox.popleft())
            except IndexError:
                break
        crashpoints.reach("task.submitted")
        self.core.on_submitted(tasks, now, effects)

    def _perform(self, effects: Effects) -> Settled:
        """Do what the core decided; what concerns futures is returned, to be done without the lock."""
        session = self._session
        for shape, workers in effects.demand:
            near = self.core.near(shape) if workers else ()
            session.tell_scheduler(driver_to_scheduler.Demand(self._pool_id, shape, workers, near))
        for task in effects.requeued:
            task.future._state = PENDING
            if task.call is not None:
                task.call.outcomes.clear()
        for worker, tasks in effects.send:
            self.workforce.send(worker, tasks)
        for worker, attempts in effects.retract:
            session.send(worker.peer, driver_to_worker.Retract(attempts))
        for worker, attempt in effects.interrupt:
            session.send(worker.peer, driver_to_worker.Interrupt(attempt))
        for worker in effects.leave:
            session.send(worker.peer, driver_to_worker.Leave())
        for worker, grace_s, terminate in effects.give_back:
            session.tell_scheduler(driver_to_scheduler.ReturnLease(worker.lease, grace_s, terminate))
        if effects.broken is not None:
            self.broken = broken_error(effects.broken, self._spec.label, self._spec.strict)
            self.workforce.changed.notify_all()
        for result in effects.late:
            if result.objects:
                self._store.adopt(_value_of(result))  # and let go of it at once: that frees it
        settled: Settled = []
        for task, result in effects.finished:
            if result.objects or task.made is not None:
                stored = self._store.adopt(_value_of(result)) if result.objects else None
                outcome = session.recovery.outcome(self._owner(), task, result, stored)
            else:
                outcome = PackedOutcome(result, None, self._store)
            if task.call is None:
                settled.append((task.future, outcome, None))
            else:
                settled += self._gather(task, task.call, outcome)
        for task, failure in effects.failed:
            if task.call is not None:
                if task.call.settled:
                    continue
                task.call.settled = True
                task.call.let_go()
            settled.append((task.future, None, exception_of(task, failure, self._spec.label, self._spec.strict)))
        for task in effects.let_go:
            task.let_go()
        for task, result in effects.input_lost:
            task.future._state = PENDING
            self.held.tasks.add(task)
            session.recovery.on_input_lost(self._owner(), task, result)
        return settled

    def _owner(self) -> WorkerPool:
        pool = self._pool()
        assert pool is not None, "a pool that has tasks is held by its session"
        return pool

    def _gather(self, task: Task, call: GangCall, outcome: PackedOutcome) -> Settled:
        """One of several workers answered: the call's future has the first exception, or all results."""
        call.outcomes[task.rank] = outcome
        if call.settled or not (outcome.raised or len(call.outcomes) == len(call.tasks)):
            return []
        call.settled = True
        call.let_go()
        if outcome.raised:
            return [(task.future, outcome, None)]
        return [(task.future, GangOutcome([call.outcomes[part.rank] for part in call.tasks], self._store), None)]


def _value_of(result: worker_to_driver.Result) -> driver_to_worker.Value:
    return driver_to_worker.Value(result.payload, result.objects)
