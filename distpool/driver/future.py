"""The future that every front door hands out: a ``concurrent.futures.Future`` whose result stays packed until read.

Life of the state (``concurrent.futures._base``'s names): ``PENDING`` until the task is sent, ``RUNNING`` from then
(and ``PENDING`` again if a worker gives it back), ``FINISHED`` or ``CANCELLED_AND_NOTIFIED`` at the end.  Transitions
happen under the session's lock; waiters are woken through the standard condition.

A condition, a lock and two lists per future would be half the cost of a short task, in time and in memory, so they are
made when somebody first asks for them.  No wake-up is lost: the resolver sets the state *before* it looks for a
condition, a waiter makes the condition *before* it looks at the state.  Tasks that depend on a future
wait in a queue and need no condition: who takes one out of it, the resolver or who put it there, calls it.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import CancelledError, Future
from concurrent.futures._base import (
    CANCELLED,
    CANCELLED_AND_NOTIFIED,
    FINISHED,
    LOGGER,
    PENDING,
    RUNNING,
    InvalidStateError,
)
from typing import TYPE_CHECKING, Any, TypeVar

from distpool.driver.ending import stay_if_daemon

if TYPE_CHECKING:
    from distpool.driver.pool import WorkerPool
    from distpool.driver.task import Task

T = TypeVar("T")

_LAZY: dict[str, Callable[[], Any]] = {
    "_condition": threading.Condition,
    "_waiters": list,
    "_done_callbacks": list,
    "_dependents": deque,
}


class DistFuture(Future[T]):
    """The result to be of one task.

    Beside the standard interface it can be awaited, ``kill()``ed, and passed to other tasks as an argument (also
    inside containers): those run when it is done, and its value goes to them without passing through this process.
    """

    _state: str = PENDING
    _result: Any = None
    _exception: BaseException | None = None
    _packed: Any = None
    _task: Task | None = None
    #: in a worker: the attempt that submitted it
    _parent: int = 0

    def __init__(self, pool: WorkerPool) -> None:
        # Deliberately not the base's: see the module's description.
        self._pool = pool

    def __getattr__(self, name: str) -> Any:
        make = _LAZY.get(name)
        if make is None:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return self.__dict__.setdefault(name, make())

    def __repr__(self) -> str:
        if self._packed is not None and self._exception is None and "_result" not in self.__dict__:
            # What it is shows when it is unpickled.
            return f"<{type(self).__name__} at {id(self):#x} state=finished>"
        return super().__repr__()

    # -- standard interface -------------------------------------------------------------------------------------

    def done(self) -> bool:
        """Whether the task ended or was cancelled."""
        return self._state in (FINISHED, CANCELLED, CANCELLED_AND_NOTIFIED)

    def running(self) -> bool:
        """Whether the task is at a worker (and can no longer be cancelled)."""
        return self._state == RUNNING

    def cancelled(self) -> bool:
        """Whether the task was cancelled before it ran."""
        return self._state in (CANCELLED, CANCELLED_AND_NOTIFIED)

    def cancel(self) -> bool:
        """Cancel the task if it has not been sent to a worker; see ``kill`` for one that has."""
        if self._state in (CANCELLED, CANCELLED_AND_NOTIFIED):
            return True
        if self._state != PENDING or not self._pool.withdraw(self):
            return self.cancelled()
        return True

    def cancel_later(self) -> None:
        """As ``cancel``, a moment later in another thread; for finalizers."""
        if self._state == PENDING:
            self._pool.leave(self.cancel)

    def kill(self) -> bool:
        """End the task, also while it runs; its future gets ``TaskKilledError``.  No other task is harmed.

        The task is interrupted first (``TaskInterrupted`` is raised in it), and its worker replaced when that does not
        help within a second.

        :returns: False when it had ended before.
        """
        return self.cancel() or self._pool.kill_task(self)

    def result(self, timeout: float | None = None) -> T:
        """The task's value, waiting for it up to ``timeout`` seconds (errors as in ``concurrent.futures``)."""
        if self._state != FINISHED:
            self._wait(timeout)
        if self._packed is not None:
            self._load(timeout)
        if self._exception is not None:
            stay_if_daemon()
            try:
                raise self._exception
            finally:
                # The traceback of the raised exception refers to this frame, and it to the exception.
                self = None  # type: ignore[assignment]  # noqa: PLW0642
        value: T = self._result
        return value

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """The exception that the task raised, or None (waiting and errors as for ``result``)."""
        if self._state != FINISHED:
            self._wait(timeout)
        if self._packed is not None:
            self._load(timeout)
        return self._exception

    def __await__(self) -> Generator[Any, None, T]:
        """``await future`` in asyncio code.  As with ``asyncio.wrap_future``, an ``await`` that is cancelled cancels
        the task if it has not started."""
        import asyncio

        if not self.done():
            # Not ``wrap_future``: before Python 3.12, a task that raises ``StopIteration`` is awaited there for ever.
            loop = asyncio.get_running_loop()
            waiter: asyncio.Future[None] = loop.create_future()

            def wake(_: Future[T]) -> None:
                try:
                    loop.call_soon_threadsafe(_release, waiter)
                except RuntimeError:
                    pass  # the loop was closed: nobody awaits any more

            self.add_done_callback(wake)
            try:
                yield from waiter
            except asyncio.CancelledError:
                self.cancel()
                raise
        if self.cancelled():
            raise asyncio.CancelledError
        return self.result()

    def __reduce__(self) -> Any:
        from distpool.store.serialization import reduce_dependency

        return reduce_dependency(self)

    # -- the pool's side ----------------------------------------------------------------------------------------

    def settle(
        self,
        state: str,
        packed: Any = None,
        exception: BaseException | None = None,
        *,
        due: deque[Callable[[], None]],
    ) -> bool:
        """Resolve, without running callbacks.

        :param due: gets what was given to ``add_dependent``.
        :param packed: the ``PackedOutcome`` of the task, opened when first asked for, or None.
        :returns: whether there are callbacks to run (``run_callbacks``), which must not happen in a user's thread.
        """
        self._packed = packed
        self._exception = exception
        self._task = None
        self._state = state
        own = self.__dict__
        dependents = own.pop("_dependents", None)
        while dependents:
            try:
                due.append(dependents.popleft())
            except IndexError:  # who put it there has seen the state, and was faster
                break
        if "_condition" not in own:
            return False
        with self._condition:
            self._condition.notify_all()
            for waiter in self._waiters:
                if state != FINISHED:
                    waiter.add_cancelled(self)
                elif exception is None and (packed is None or not packed.raised):
                    waiter.add_result(self)
                else:
                    waiter.add_exception(self)
            return bool(self._done_callbacks)

    def add_dependent(self, dependent: Callable[[], None]) -> None:
        """Like ``add_done_callback``, for our own code: called by whichever thread settles the future, or at once."""
        dependents = self._dependents
        dependents.append(dependent)
        if self.done():
            try:
                dependents.remove(dependent)
            except ValueError:  # whoever settled the future took it
                return
            dependent()

    def failure(self) -> BaseException | None:
        """Of a settled future: why it has no value.  The value itself is not opened."""
        if self.cancelled():
            return CancelledError()
        if self._packed is not None and not self._packed.raised:
            return None
        self._load()
        return self._exception

    def run_callbacks(self) -> None:
        """Call the done-callbacks (of a settled future).

        Whatever they raise is logged, ``SystemExit`` too: it would end the thread that all other futures depend on.
        """
        for callback in self._done_callbacks:
            try:
                callback(self)
            except BaseException:
                LOGGER.exception("exception calling callback for %r", self)

    def _wait(self, timeout: float | None) -> None:
        if not self.done():
            self._pool.wait_for(self, timeout)
        if self._state in (CANCELLED, CANCELLED_AND_NOTIFIED):
            raise CancelledError
        if self._state != FINISHED:
            raise InvalidStateError(f"future in unexpected state {self._state}")

    def _load(self, timeout: float | None = None) -> None:
        """Open the outcome, in the thread that asks first; of two that ask at once, both get the same object.

        A value that has been lost is computed again, for which this waits up to ``timeout`` seconds.
        """
        packed = self._packed
        if packed is None or "_result" in self.__dict__ or self._exception is not None:
            return
        value, error = packed.open(timeout)
        if error is None:
            self.__dict__.setdefault("_result", value)
        else:
            self._exception = error
            self._packed = None

    def _get_snapshot(self) -> tuple[bool, bool, Any, BaseException | None]:
        # Python 3.14's asyncio reads futures through this.
        if self._state == FINISHED:
            self._load()
        return self.done(), self.cancelled(), self._result, self._exception


def _release(waiter: Any) -> None:
    if not waiter.done():
        waiter.set_result(None)
