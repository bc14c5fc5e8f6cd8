"""A pool of leased workers as the front doors see it: the shell around ``PoolCore``.

Data flow of one call::

    submit ──pack──► inbox ──► PoolCore ──Effects.send──► channel ──► worker
    future ◄─settle── Effects.finished ◄── PoolCore ◄── session.dispatch ◄──┘

``submit`` packs in the caller's thread (so that a value counts as of the moment of the call, and an error is raised
there) and leaves the task in the inbox.  Only if a worker has nothing to do does the caller's thread send it itself;
otherwise tasks gather and leave in batches, when results come in or enough have gathered.
"""

from __future__ import annotations

import itertools
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures._base import CANCELLED_AND_NOTIFIED, PENDING
from typing import TYPE_CHECKING, Any

from distpool import crashpoints, errors
from distpool.driver import core as pool_core
from distpool.driver.core import PoolCore
from distpool.driver.dependencies import values_of, when_all_done
from distpool.driver.functions import in_payload
from distpool.driver.future import DistFuture
from distpool.driver.gangs import GangCall, ranks_of
from distpool.driver.interrupts import shield
from distpool.driver.outcome import GangOutcome, PackedOutcome, broken_error, exception_of
from distpool.driver.processes import WorkerProcess
from distpool.driver.spec import PoolSpec
from distpool.driver.state import Effects, Failure, FailureKind, WorkerExit
from distpool.driver.task import Task, home_of
from distpool.driver.workforce import Workforce
from distpool.options import DEFAULT, TaskOptions
from distpool.wire import codec, driver_to_scheduler, driver_to_worker, scheduler_to_driver, worker_to_driver
from distpool.wire.driver_to_worker import CHUNK, ONCE, READONLY
from distpool.wire.objects import Location
from distpool.wire.resources import Shape
from distpool.worker import context as worker_context

if TYPE_CHECKING:
    from distpool.driver.session import Session
    from distpool.sharing.reducers import Shared
    from distpool.store.handles import Packed

__all__ = ["PoolSpec", "WorkerPool"]

_DEFAULT_SHAPE = Shape()
_NO_KEYWORDS: dict[str, Any] = {}
#: When so many tasks have gathered in the inbox, the submitting thread looks whether workers have room for them.
_GATHER = 32
#: So much of what a worker wrote is kept for the report of its death.
_WORDS_CHARACTERS = 4096
_monotonic = time.monotonic
_encode = codec.encode


class WorkerPool:
    """See the module's description.  Made by ``Session.open_pool`` and ``Session.join_pool``; all methods are safe to
    call from any thread."""

    #: What ``submit`` says when the pool takes no more calls.
    _closed_because = "cannot schedule new futures after shutdown"

    def __init__(self, session: Session, spec: PoolSpec, pool_id: str, *, owned: bool) -> None:
        self.spec = spec
        self.max_workers = spec.max_workers
        self.pool_id = pool_id
        self.owned = owned
        self._session = session
        self._lock = session.lock
        self._store = session.store
        self._inbox: deque[Task] = deque()
        self._waiting: set[Task] = set()
        self._workforce = Workforce(spec, session)
        self._ended = threading.Event()
        self._hungry = True
        self._closing = False
        self._ordinals = 0
        self.broken: BaseException | None = None
        self._core = PoolCore(
            spec.max_workers,
            eager=spec.eager,
            initialized=spec.initializer is not None,
            strict=spec.strict,
            max_tasks_per_child=spec.max_tasks_per_child or 0,
            idle_timeout_s=spec.idle_timeout_s,
        )
        #: What of ``multiprocessing`` in ``initargs`` workers reach through this process, while they may be started.
        self._shared: Shared | None = None
        self._initializer = self._pack_initializer() if spec.initializer else None
        self._setup: Any = session.capture_setup(spec, self._initializer)

    def _pack_initializer(self) -> Packed:
        initializer = (self.spec.initializer, self.spec.initargs)
        if "multiprocessing.reduction" not in sys.modules:
            return self._store.pack(initializer)
        from distpool.sharing.reducers import sharing

        with sharing() as self._shared:
            return self._store.pack(initializer)

    # -- calls --------------------------------------------------------------------------------------------------

    def submit(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] = _NO_KEYWORDS,
        options: TaskOptions = DEFAULT,
        flags: int = 0,
    ) -> DistFuture[Any]:
        """Run ``function(*args, **kwargs)`` in a worker.

        :raises SerializationError: when something in the call cannot be pickled; the pool is unharmed.
        :raises RuntimeError: when the pool is closed.
        """
        if self._closing:
            raise RuntimeError(self._closed_because)
        if self.broken is not None:
            raise type(self.broken)(*self.broken.args) from self.broken.__cause__
        session = self._session
        entry = session.functions.find(function)
        if entry is None:
            entry = in_payload(function)
            packed = self._store.pack((function, args, kwargs))
        else:
            packed = self._store.pack((args, kwargs))
        value = packed.value
        message = driver_to_worker.Task(0, entry.number, value.payload, value.objects, (), flags)
        future: DistFuture[Any] = DistFuture(self)
        if session.worker is not None:
            future._parent = worker_context.running_attempt()
        if options is DEFAULT:
            retries = self.spec.max_retries
            task = Task(future, message, entry, _DEFAULT_SHAPE, retries, None, retries == 0 and not self.spec.strict)
        else:
            retries = self.spec.max_retries if options.max_retries is None else options.max_retries
            alone = options.timeout_s is not None or (retries == 0 and not self.spec.strict)
            task = Task(future, message, entry, options.shape, retries, options.timeout_s, alone)
            if options.readonly:
                message.flags |= READONLY
            if retries == 0 and self.spec.max_retries:
                message.flags |= ONCE
        if value.objects:
            task.keep = packed
            task.home = home_of(value.objects)
        future._task = task
        if options.gang is not None:
            ranks_of(task, options.gang)
        session.announce_changed_definitions()
        if packed.dependencies:
            self._hold(task, packed.dependencies)
            return future
        inbox = self._inbox
        if task.call is None:
            inbox.append(task)
        else:
            inbox.extend(task.call.tasks)
        if self._hungry:
            self._start()
        elif not len(inbox) % _GATHER:
            self._react(self._core.top_up)
            session.assist()
        return future

    def submit_chunk(
        self,
        function: Callable[..., Any],
        chunk: Sequence[Any],
        options: TaskOptions = DEFAULT,
        flags: int = CHUNK,
    ) -> DistFuture[Any]:
        """Run ``function(*arguments)`` for each tuple in ``chunk`` in one worker; the result is the list of results.

        :raises ValueError: with the option ``gang``, which is about single calls.
        """
        if options.gang is not None:
            raise ValueError("a call with the option gang runs by itself: submit it, or map with chunksize=1")
        return self.submit(function, (chunk,), _NO_KEYWORDS, options, flags)

    def withdraw(self, future: DistFuture[Any]) -> bool:
        """Cancel a task that has not been sent; False when it is too late."""
        with shield:
            with self._lock:
                task = future._task
                if future._state != PENDING or task is None:
                    return False
                if task in self._waiting:
                    self._waiting.discard(task)
                    task.withdrawn = True
                else:
                    effects = Effects()
                    self._take_in(effects)
                    self._core.on_withdrawn(task)
                    self._perform(effects)
                # The task itself may stand in a queue for long.
                task.let_go()
                future._state = CANCELLED_AND_NOTIFIED
            callbacks = future.settle(CANCELLED_AND_NOTIFIED, due=self._session.due)
            self._session.attend_to_dependents()
        if callbacks:
            future.run_callbacks()
        self._react(None)
        return True

    def kill_task(self, future: DistFuture[Any]) -> bool:
        """End a task that may be running; False when it had ended before."""
        task = future._task
        if task is None or future.done():
            return False
        self._react(lambda now, effects: self._core.on_killed(task, now, effects))
        return True

    def kill_nested(self, attempt: int) -> None:
        """End what was submitted by that attempt of the worker that this process is."""
        with self._lock:
            tasks = [*self._inbox, *self._waiting, *self._core.unsettled()]
        for task in tasks:
            if task.future._parent == attempt:
                task.future.kill()

    # -- endings ------------------------------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        """Whether it takes no more calls."""
        return self._closing

    @property
    def busy(self) -> bool:
        """Whether a task has been accepted and not yet settled."""
        return bool(self._core.outstanding or self._inbox or self._waiting)

    @property
    def outstanding(self) -> int:
        """How many tasks have been accepted and not yet settled."""
        return self._core.outstanding + len(self._inbox) + len(self._waiting)

    def _settle_share(self, wait: bool, cancel_futures: bool) -> None:
        if cancel_futures:
            for task in self._unsent():
                task.future.cancel()
        if wait:
            with self._lock:
                futures = [task.future for task in (*self._inbox, *self._waiting, *self._core.unsettled())]
            for future in futures:
                self.wait_for(future, None)

    @property
    def starving(self) -> bool:
        """Whether tasks are ready and no worker has any."""
        return self._core.starving

    def shutdown(self, wait: bool = True, cancel_futures: bool = False) -> None:
        """Take no more calls; workers leave when the last task is done.  Waits for that if ``wait``.

        A share of somebody else's pool stays open, since later tasks in this process may use it, too: its idle workers
        go when the owner, or anybody else, wants them.
        """
        if not self.owned:
            self._settle_share(wait, cancel_futures)
            return
        with self._lock:
            self._closing = True
        if cancel_futures:
            for task in self._unsent():
                task.future.cancel()
        self._react(None)
        if wait:
            self._session.wait_for_event(self._ended)

    def abandon(self) -> None:
        """Nobody holds the pool any more: as ``shutdown(wait=False)``, but may be called from a finalizer, which runs
        at any moment, perhaps under the session's lock."""
        if self.owned:
            self._session.finalized.abandon(self)

    def terminate(self) -> None:
        """End all workers now (SIGTERM, then SIGKILL); unfinished tasks fail."""
        self._end(True, pool_core.TERMINATE_GRACE_S)

    def kill(self) -> None:
        """End all workers now (SIGKILL); unfinished tasks fail."""
        self._end(False, 0.0)

    def join(self, timeout_s: float | None = None) -> bool:
        """Wait until every worker has ended (after ``shutdown``, ``terminate`` or ``kill``)."""
        return self._session.wait_for_event(self._ended, timeout_s)

    def _end(self, terminate: bool, grace_s: float) -> None:
        def end(now: float, effects: Effects) -> None:
            self._core.on_broken(Failure(FailureKind.BROKEN), now, effects)
            self._core.on_closed(now, effects)
            effects.give_back = [(worker, grace_s, terminate) for worker in self._core.workers.values()]

        self._closing = True
        self._react(end)
        for task in list(self._waiting):
            task.future.cancel()
        self._react(None)

    def _unsent(self) -> list[Task]:
        self._react(None)
        with self._lock:
            return [*self._core.unsent(), *self._waiting]

    def _finish_if_ended(self) -> None:
        if self._core.over and not self._ended.is_set():
            self._session.forget_pool(self)
            self._shared = self._setup = None
            self._ended.set()

    # -- workers ------------------------------------------------------------------------------------------------

    def processes(self) -> dict[int, WorkerProcess]:
        """The live workers by process id; those that have been asked for are waited for.

        One that leaves while the pool goes on (``max_tasks_per_child``) is none of them any more.
        """
        return self._workforce.processes(
            lambda: self._core.demanded if self.broken is None else 0,
            lambda: self.broken is None and not self._core.closing,
        )

    def wait_for(self, future: DistFuture[Any], timeout: float | None) -> None:
        """Block until ``future`` is done.

        :raises TimeoutError: ``concurrent.futures``'s, when ``timeout`` seconds were not enough.
        """
        if self._inbox:
            self._react(None)  # nobody waits for what gathers there
        session = self._session
        deadline = None if timeout is None else _monotonic() + timeout
        if session.worker is not None:
            session.wait_for_nested(future, deadline)
            return
        try:
            if not session.loop.lead(future.done, deadline):
                session.wait_for_future(future, deadline)
        except KeyboardInterrupt:
            session.interrupted = True
            raise

    def __reduce__(self) -> Any:
        from distpool.driver.current import rejoin

        return rejoin, (self.pool_id, self.spec)

    def announcement(self) -> driver_to_scheduler.OpenPool | driver_to_scheduler.JoinPool:
        """What the scheduler must know of the pool."""
        if self.owned:
            return driver_to_scheduler.OpenPool(self.pool_id, self.spec.max_workers, self.spec.label)
        return driver_to_scheduler.JoinPool(self.pool_id)

    def held_leases(self) -> list[driver_to_scheduler.HeldLease]:
        """The leases that this process believes to hold."""
        return [
            driver_to_scheduler.HeldLease(worker.lease, self.pool_id, worker.shape)
            for worker in self._core.workers.values()
            if worker.exit is None
        ]

    # -- events, under the session's lock -----------------------------------------------------------------------

    def on_message(self, lease: str, message: worker_to_driver.Message, now: float, effects: Effects) -> None:
        """A worker of this pool said something that concerns its tasks."""
        core = self._core
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
        worker = self._core.workers.get(lease)
        if worker is not None:
            worker.words = (worker.words + text)[-_WORDS_CHARACTERS:]

    def on_granted(self, grant: scheduler_to_driver.LeaseGranted, now: float, effects: Effects) -> None:
        """A lease was granted: dial the worker and make it look like this program."""
        if self._workforce.has_given_up(grant.lease):
            # The scheduler confirmed it before it heard that; whether it has heard by now, nobody knows.
            self._session.decline(grant)
            return
        worker = self._workforce.admit(grant, self._setup)
        if worker is not None:
            self._core.on_granted(worker, now, effects)

    def on_ended(self, ended: scheduler_to_driver.LeaseEnded, now: float, effects: Effects) -> None:
        """A lease ended, or never began."""
        if self._workforce.was_given_up(ended.lease):
            return
        worker = self._core.workers.get(ended.lease)
        exit = WorkerExit(
            ended.pid,
            ended.exit_code,
            ended.reason,
            ended.stderr_tail,
            ended.peak_rss_bytes,
            worker.host if worker is not None else "",
            ended.lost,
            ended.shortage,
        )
        if self._workforce.dismiss(ended.lease, ended.exit_code):
            self._core.on_ended(ended.lease, exit, now, effects)
        else:
            self._core.on_start_failed(ended.shape, exit, now, effects)

    def on_link_lost(self, lease: str, reason: str, now: float, effects: Effects) -> None:
        """A worker is out of reach for this process, wherever it is: what it does must not be heard any more."""
        worker = self._core.workers.get(lease)
        if worker is None or worker.exit is not None:
            return
        reason = f"the worker on {worker.host} was given up: {reason}"
        ended = scheduler_to_driver.LeaseEnded(lease, self.pool_id, worker.shape, worker.pid, -signal.SIGKILL, reason)
        self.on_ended(ended, now, effects)
        self._workforce.give_up(lease)

    def on_infeasible(self, message: scheduler_to_driver.DemandInfeasible, now: float, effects: Effects) -> None:
        """No node can run a worker of this shape."""
        self._core.on_infeasible(message.shape, message.reason, now, effects)

    def on_broken(self, failure: Failure, now: float, effects: Effects) -> None:
        """Nothing can run any more."""
        self._core.on_broken(failure, now, effects)

    def on_node_lost(self, failure: Failure, now: float, effects: Effects) -> None:
        """The node ended, and with it every worker."""
        self._core.on_broken(failure, now, effects)
        for lease, pid in self._workforce.leases():
            exit = WorkerExit(pid, -signal.SIGKILL, "its node ended")
            self._workforce.dismiss(lease, exit.exit_code)
            self._core.on_ended(lease, exit, now, effects)

    def on_time(self, now: float, effects: Effects) -> None:
        """A deadline has come."""
        self._core.on_time(now, effects)

    def on_opened(self, now: float, effects: Effects) -> None:
        """The scheduler knows the pool."""
        self._core.on_opened(now, effects)

    def on_reclaim(self, message: scheduler_to_driver.ReclaimIdle, now: float, effects: Effects) -> None:
        """Somebody else needs workers."""
        self._core.on_reclaim(now, effects, message.excess)

    def on_lease_wanted(self, message: scheduler_to_driver.LeaseWanted, now: float, effects: Effects) -> None:
        """A worker's node is to leave."""
        self._core.on_lease_wanted(message.lease, now, effects)

    def next_deadline(self) -> float | None:
        """When ``on_time`` must be called."""
        return self._core.next_deadline()

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
            self._hungry = self._core.hungry
            if not (self._inbox and self._hungry):
                break
        if self._closing:
            if not self._core.closing and not self._waiting:
                effects = Effects()
                self._core.on_closed(now, effects)
                settled += self._perform(effects)
            self._finish_if_ended()
        loop = self._session.loop
        loop.note_deadline(self._core.next_deadline())
        if self._session.worker is not None and self._core.starving:
            loop.note_deadline(now)
        return settled

    def _start(self) -> None:
        """See to what has gathered in the inbox: the short way if that is one task and a worker has nothing to do."""
        settled: Settled = []
        inbox = self._inbox
        with shield:
            with self._lock:
                now = _monotonic()
                worker = self._core.on_single(inbox[0], now) if len(inbox) == 1 else None
                if worker is not None:
                    self._workforce.send_single(worker, inbox.popleft())
                    self._hungry = self._core.hungry
                if worker is None or (inbox and self._hungry):
                    settled = self.handle(None, now)
            if settled:
                self._session.settle(settled)

    def on_single(self, lease: str, message: worker_to_driver.TasksDone, now: float) -> Settled | None:
        """One task ended: the short way of ``on_message``, if there is nothing else to see to; None otherwise."""
        (result,) = message.results
        if result.objects or result.pinned or result.lost or self._inbox or self._closing:
            return None
        task = self._core.on_single_result(lease, result.attempt, message.busy_s, now)
        if task is None:
            return None
        task.let_go()
        settled: Settled = [(task.future, PackedOutcome(result, None, self._store), None)]
        self._hungry = True
        if self._inbox:  # it came before it could see that
            settled += self.handle(None, now)
        self._session.loop.note_deadline(self._core.next_deadline())
        return settled

    def _react(self, event: Callable[[float, Effects], None] | None) -> None:
        with shield:
            with self._lock:
                settled = self.handle(event, _monotonic())
            if settled:
                self._session.settle(settled)

    def _take_in(self, effects: Effects, now: float | None = None) -> None:
        inbox = self._inbox
        if not inbox:
            return
        tasks = []
        while True:
            try:
                tasks.append(inbox.popleft())
            except IndexError:
                break
        crashpoints.reach("task.submitted")
        self._core.on_submitted(tasks, _monotonic() if now is None else now, effects)

    def _perform(self, effects: Effects) -> Settled:
        """Do what the core decided; what concerns futures is returned, to be done without the lock."""
        session = self._session
        for shape, workers in effects.demand:
            near = self._core.near(shape) if workers else ()
            session.tell_scheduler(driver_to_scheduler.Demand(self.pool_id, shape, workers, near))
        for task in effects.requeued:
            task.future._state = PENDING
            if task.call is not None:
                task.call.outcomes.clear()
        for worker, tasks in effects.send:
            self._workforce.send(worker, tasks)
        for worker, attempts in effects.retract:
            session.send(worker.peer, driver_to_worker.Retract(attempts))
        for worker, attempt in effects.interrupt:
            session.send(worker.peer, driver_to_worker.Interrupt(attempt))
        for worker in effects.leave:
            session.send(worker.peer, driver_to_worker.Leave())
        for worker, grace_s, terminate in effects.give_back:
            session.tell_scheduler(driver_to_scheduler.ReturnLease(worker.lease, grace_s, terminate))
        if effects.broken is not None:
            self.broken = broken_error(effects.broken, self.spec.label, self.spec.strict)
            self._workforce.changed.notify_all()
        for result in effects.late:
            if result.objects:
                self._store.adopt(_value_of(result))  # and let go of it at once: that frees it
        settled: Settled = []
        for task, result in effects.finished:
            if result.objects or task.made is not None:
                stored = self._store.adopt(_value_of(result)) if result.objects else None
                outcome = session.recovery.outcome(self, task, result, stored)
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
            settled.append((task.future, None, exception_of(task, failure, self.spec.label, self.spec.strict)))
        for task in effects.let_go:
            task.let_go()
        for task, result in effects.input_lost:
            task.future._state = PENDING
            self._waiting.add(task)
            session.recovery.on_input_lost(self, task, result)
        return settled

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

    # -- tasks that wait for other tasks ------------------------------------------------------------------------

    def _hold(self, task: Task, dependencies: Sequence[Any]) -> None:
        """Keep a task back until the futures among its arguments are done."""
        self._waiting.add(task)
        when_all_done(dependencies, lambda: self._release(task, dependencies))

    def _release(self, task: Task, dependencies: Sequence[Any]) -> None:
        try:
            values, kept = values_of(task.function.name, dependencies)
        except errors.DependencyError as error:
            with self._lock:
                held = task in self._waiting
                self._waiting.discard(task)
            if held:
                # Without its traceback, whose frames refer to the values of the others.
                self._session.settle([(task.future, None, error.with_traceback(None))])
        else:
            with self._lock:
                if task not in self._waiting:
                    return  # cancelled
                self._waiting.discard(task)
                tasks = [task] if task.call is None else task.call.tasks
                for part in tasks:
                    part.message.dependencies = values
                task.keep = (task.keep, kept)
                task.inputs = kept
                arguments = (task.message.objects, *(value.objects for value in values))
                task.home = home_of(itertools.chain.from_iterable(arguments))
                self._inbox.extend(tasks)
        self._start()

    # -- results that are computed again ------------------------------------------------------------------------

    def run_again(self, task: Task, inputs: Sequence[Any]) -> None:
        """Run a task once more because its result was lost.

        :param inputs: futures, and what is there already.
        """
        with shield:
            with self._lock:
                refused = self._ended.is_set() or self.broken is not None
                if not refused and not inputs:
                    self._inbox.append(task)
            if refused:
                error = errors.ObjectLostError("the pool in which it ran has ended")
                self._session.settle([(task.future, None, error)])
            elif inputs:
                self._hold(task, inputs)
        self._react(None)

    def put_back(self, task: Task, verdict: BaseException | PackedOutcome | None) -> None:
        """A task whose input had been lost can run, or cannot.

        :param verdict: why it cannot.
        """
        with shield:
            with self._lock:
                if task not in self._waiting:
                    return  # cancelled
                self._waiting.discard(task)
                if verdict is None:
                    task.message.dependencies = tuple(packed.value for packed in task.inputs)
                    task.home = home_of(itertools.chain(task.message.objects, *_objects_of(task)))
                    self._inbox.append(task)
                else:
                    task.let_go()
            if isinstance(verdict, PackedOutcome):
                self._session.settle([(task.future, verdict, None)])
            elif verdict is not None:
                self._session.settle([(task.future, None, verdict)])
        self._react(None)


def _objects_of(task: Task) -> Iterator[Iterable[Location]]:
    return (value.objects for value in task.message.dependencies)


def _value_of(result: worker_to_driver.Result) -> driver_to_worker.Value:
    return driver_to_worker.Value(result.payload, result.objects)


Settled = list[tuple[DistFuture[Any], Any, "BaseException | None"]]
