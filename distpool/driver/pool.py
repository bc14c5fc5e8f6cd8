"""A pool of leased workers as the front doors see it.

Data flow of one call::

    submit ──pack──► inbox ──► PoolCore ──Effects.send──► channel ──► worker
    future ◄─settle── Effects.finished ◄── PoolCore ◄── loop.serve ◄──────┘

``submit`` packs in the caller's thread (so that a value counts as of the moment of the call, and an error is raised
there) and leaves the task in the inbox.  Only if a worker has nothing to do does the caller's thread send it itself;
otherwise tasks gather and leave in batches, when results come in or enough have gathered.  From the inbox on it is
``PoolShell`` that acts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures._base import CANCELLED_AND_NOTIFIED, PENDING
from typing import TYPE_CHECKING, Any

from distpool import errors
from distpool.driver.ending import stay_if_daemon
from distpool.driver.functions import in_payload
from distpool.driver.future import DistFuture
from distpool.driver.gangs import ranks_of
from distpool.driver.interrupts import shield
from distpool.driver.lending import wait_for_nested
from distpool.driver.losing import TERMINATE_GRACE_S
from distpool.driver.outcome import ENDED, PackedOutcome
from distpool.driver.processes import WorkerProcess
from distpool.driver.shell import PoolShell
from distpool.driver.spec import PoolSpec
from distpool.driver.state import Effects, Failure, FailureKind
from distpool.driver.task import Task, home_of, may_name_proxies
from distpool.store.serialization import serialize_plain_call
from distpool.task_options import DEFAULT, TaskOptions
from distpool.wire import driver_to_scheduler, driver_to_worker
from distpool.wire.driver_to_worker import CHUNK, MAP, ONCE, READONLY
from distpool.wire.resources import Shape
from distpool.worker import context as worker_context

if TYPE_CHECKING:
    from distpool.driver.session import Session
    from distpool.store.handles import Packed

__all__ = ["PoolSpec", "WorkerPool"]

_DEFAULT_SHAPE = Shape()
_NO_KEYWORDS: dict[str, Any] = {}
_NO_VALUE = driver_to_worker.Value(b"")
#: When so many tasks have gathered in the inbox, the submitting thread looks whether workers have room for them.
_GATHER = 32
_monotonic = time.monotonic


class WorkerPool:
    """See the module's description.  Made by ``Session.open_pool`` and ``Session.join_pool``; all methods are safe to
    call from any thread."""

    #: What ``submit`` says when the pool takes no more calls.
    _closed_because = ENDED

    def __init__(self, session: Session, spec: PoolSpec, pool_id: str, *, owned: bool) -> None:
        self.spec = spec
        self.max_workers = spec.max_workers
        self.pool_id = pool_id
        self.owned = owned
        self._session = session
        self._lock = session.lock
        self._store = session.store
        self.shell = PoolShell(self, session, spec)
        #: Whether tasks of one CPU have come to the core; looked up, that would cost every call too much.
        self._default_known = False

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
        shell = self.shell
        if shell.closing:
            stay_if_daemon()
            raise RuntimeError(self._closed_because)
        broken = shell.broken
        if broken is not None:
            raise type(broken)(*broken.args) from broken.__cause__
        session = self._session
        entry = session.functions.find(function)
        packed: Packed | None = None
        payload: bytes | None = None
        if entry is None:
            entry = in_payload(function)
            packed = self._store.pack((function, args, kwargs))
        elif kwargs or (payload := serialize_plain_call(args, self._store.inline_bytes)) is None:
            packed = self._store.pack((args, kwargs))
        value = _NO_VALUE if packed is None else packed.value
        message = driver_to_worker.Task(0, entry.number, payload or value.payload, value.objects, (), flags)
        future: DistFuture[Any] = DistFuture(self)
        if session.worker is not None:
            future._parent = worker_context.running_attempt()
        if options is DEFAULT:
            retries = self.spec.max_retries
            task = Task(future, message, entry, _DEFAULT_SHAPE, retries, None, retries == 0 and not self.spec.strict)
            known = self._default_known
        else:
            retries = self.spec.max_retries if options.max_retries is None else options.max_retries
            alone = options.timeout_s is not None or (retries == 0 and not self.spec.strict)
            task = Task(future, message, entry, options.shape, retries, options.timeout_s, alone)
            known = task.shape in shell.core.groups
            if options.readonly:
                message.flags |= READONLY
            if retries == 0 and self.spec.max_retries:
                message.flags |= ONCE
        if value.objects:
            task.keep = packed
            task.home = home_of(value.objects)
        if packed is not None and may_name_proxies(value.payload):
            task.proxies = (function, args, kwargs)
        future._task = task
        if options.gang is not None:
            ranks_of(task, options.gang)
        session.announce_changed_definitions()
        if packed is not None and packed.dependencies:
            shell.held.hold(task, packed.dependencies, shell.start)
            return future
        inbox = shell.inbox
        if task.call is None:
            inbox.append(task)
        else:
            inbox.extend(task.call.tasks)
        if shell.hungry or not known:
            shell.start()
            self._default_known = self._default_known or _DEFAULT_SHAPE in shell.core.groups
        elif not len(inbox) % _GATHER:
            shell.react(shell.core.top_up)
            session.assist()
        return future

    def submit_chunk(
        self,
        function: Callable[..., Any],
        chunk: Sequence[Any],
        options: TaskOptions = DEFAULT,
        *,
        starred: bool,
    ) -> DistFuture[Any]:
        """Call ``function`` with each element of ``chunk`` in one worker; the result is the list of results.

        :param starred: elements are tuples of arguments, not single arguments.
        :raises ValueError: with the option ``gang``, which is about single calls.
        """
        if options.gang is not None:
            raise ValueError("a call with the option gang runs by itself: submit it, or map with chunksize=1")
        return self.submit(function, (chunk,), _NO_KEYWORDS, options, CHUNK if starred else CHUNK | MAP)

    def withdraw(self, future: DistFuture[Any]) -> bool:
        """Cancel a task that has not been sent; False when it is too late."""
        with shield:
            with self._lock:
                task = future._task
                if future._state != PENDING or task is None or task.withdrawn:
                    return False
                self.shell.withdraw(task)
                # The task itself may stand in a queue for long.
                task.let_go()
                future._state = CANCELLED_AND_NOTIFIED
            callbacks = future.settle(CANCELLED_AND_NOTIFIED, due=self._session.due)
            self._session.attend_to_dependents()
        self._session.loop.wake_leader(own=True)
        if callbacks:
            future.run_callbacks()
        self.shell.react(None)
        return True

    def kill_task(self, future: DistFuture[Any]) -> bool:
        """End a task that may be running; False when it had ended before."""
        task = future._task
        if task is None or future.done():
            return False
        self.shell.react(lambda now, effects: self.shell.core.on_killed(task, now, effects))
        self._session.loop.wake_leader(own=True)
        return True

    def leave(self, end: Callable[[], object]) -> None:
        """Have ``end``, which ends calls of this pool, called by another thread; for finalizers, which run at any
        moment, perhaps under the session's lock.  A pool that has ended has none."""
        if not self.shell.ended.is_set():
            self._session.finalized.leave(end)

    def kill_nested(self, attempt: int) -> None:
        """End what was submitted by that attempt of the worker that this process is."""
        with self._lock:
            tasks = self.shell.unsettled()
        for task in tasks:
            if task.future._parent == attempt:
                task.future.kill()

    # -- endings ------------------------------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        """Whether it takes no more calls."""
        return self.shell.closing

    @property
    def broken(self) -> BaseException | None:
        """Why nothing can run any more, if that is so."""
        return self.shell.broken

    @property
    def outstanding(self) -> int:
        """How many tasks have been accepted and not yet settled."""
        return self.shell.outstanding

    def _settle_share(self, wait: bool, cancel_futures: bool) -> None:
        if cancel_futures:
            for task in self.shell.unsent():
                task.future.cancel()
        if wait:
            with self._lock:
                futures = [task.future for task in self.shell.unsettled()]
            for future in futures:
                self.wait_for(future, None)

    def shutdown(self, wait: bool = True, cancel_futures: bool = False) -> None:
        """Take no more calls; workers leave when the last task is done.  Waits for that if ``wait``.

        A share of somebody else's pool stays open, since later tasks in this process may use it, too: its idle workers
        go when the owner, or anybody else, wants them.
        """
        self._session.finalized.end_calls()
        if not self.owned:
            self._settle_share(wait, cancel_futures)
            return
        with self._lock:
            self.shell.closing = True
        if cancel_futures:
            for task in self.shell.unsent():
                task.future.cancel()
        self.shell.react(None)
        if wait:
            self._session.wait_for_event(self.shell.ended)

    def abandon(self) -> None:
        """Nobody holds the pool any more: as ``shutdown(wait=False)``, but may be called from a finalizer, which runs
        at any moment, perhaps under the session's lock."""
        if self.owned:
            self._session.finalized.abandon(self)

    def terminate(self) -> None:
        """End all workers now (SIGTERM, then SIGKILL); unfinished tasks fail."""
        self._end(True, TERMINATE_GRACE_S)

    def kill(self) -> None:
        """End all workers now (SIGKILL); unfinished tasks fail."""
        self._end(False, 0.0)

    def join(self, timeout_s: float | None = None) -> bool:
        """Wait until every worker has ended (after ``shutdown``, ``terminate`` or ``kill``)."""
        return self._session.wait_for_event(self.shell.ended, timeout_s)

    def _end(self, terminate: bool, grace_s: float) -> None:
        def end(now: float, effects: Effects) -> None:
            self.shell.core.on_broken(Failure(FailureKind.BROKEN), now, effects)
            self.shell.core.on_closed(now, effects)
            effects.give_back = [(worker, grace_s, terminate) for worker in self.shell.core.workers.values()]

        self.shell.closing = True
        self.shell.react(end)
        for task in list(self.shell.held.tasks):
            task.future.cancel()
        self.shell.react(None)
        self._session.loop.wake_leader(own=True)

    # -- workers ------------------------------------------------------------------------------------------------

    def processes(self) -> dict[int, WorkerProcess]:
        """The live workers by process id; those that have been asked for are waited for.

        One that leaves while the pool goes on (``max_tasks_per_child``) is none of them any more.
        """
        return self.shell.workforce.processes(
            lambda: self.shell.core.demanded if self.broken is None else 0,
            lambda: self.broken is None and not self.shell.core.closing,
        )

    def wait_for(self, future: DistFuture[Any], timeout: float | None) -> None:
        """Block until ``future`` is done.

        :raises TimeoutError: ``concurrent.futures``'s, when ``timeout`` seconds were not enough.
        """
        if self.shell.inbox:
            self.shell.react(None)  # nobody waits for what gathers there
        session = self._session
        deadline = None if timeout is None else _monotonic() + timeout
        if session.worker is not None:
            with self._lock:
                starving = self.shell.starving
            wait_for_nested(session, future, deadline, starving)
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
            for worker in self.shell.core.workers.values()
            if worker.exit is None
        ]

    # -- results that are computed again ------------------------------------------------------------------------

    def run_again(self, task: Task, inputs: Sequence[Any]) -> None:
        """Run a task once more because its result was lost.

        :param inputs: futures, and what is there already.
        """
        shell = self.shell
        with shield:
            with self._lock:
                refused = shell.ended.is_set() or shell.broken is not None
                if not refused and not inputs:
                    shell.inbox.append(task)
            if refused:
                error = errors.ObjectLostError("the pool in which it ran has ended")
                self._session.settle([(task.future, None, error)])
            elif inputs:
                shell.held.hold(task, inputs, shell.start)
        shell.react(None)

    def put_back(self, task: Task, verdict: BaseException | PackedOutcome | None) -> None:
        """A task whose input had been lost can run, or cannot.

        :param verdict: why it cannot.
        """
        with shield:
            known = self.shell.held.put_back(task, verdict)
        if known:
            self.shell.react(None)
