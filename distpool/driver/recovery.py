"""Results that were lost are computed again: the shell around ``lineage``.

Who finds out that a stored result is gone is whoever needs it: the program, when it opens the result
(``StoredOutcome.open``), or a worker that was sent a task with it among the arguments (``on_input_lost``).  The task
that made it then runs again under a future of its own, which nobody sees; the outcome that the program holds gets the
new value, and so do tasks that were waiting for it.
"""

from __future__ import annotations

import functools
import time
import weakref
from collections import deque
from collections.abc import Sequence
from concurrent.futures import TimeoutError
from typing import TYPE_CHECKING, Any

import msgspec

from distpool import crashpoints
from distpool.driver.dependencies import when_all_done
from distpool.driver.future import DistFuture
from distpool.driver.interrupts import shield
from distpool.driver.lineage import Argument, Irrecoverable, Lineage, Made
from distpool.driver.outcome import PackedOutcome
from distpool.driver.task import Task
from distpool.errors import ObjectLostError
from distpool.wire.driver_to_worker import Value
from distpool.wire.worker_to_driver import OK, Result

if TYPE_CHECKING:
    from distpool.driver.pool import WorkerPool
    from distpool.driver.session import Session

#: What an entry takes beside the call's pickle, about.
_ENTRY_BYTES = 1000


class StoredOutcome(PackedOutcome):
    """A result that lies in the store of a node; opening it computes it again if it is lost."""

    __slots__ = ("__weakref__", "_recovery", "made")

    def __init__(self, result: Result, stored: Any, store: Any, made: Made, recovery: Recovery) -> None:
        super().__init__(result, stored, store)
        self.made = made
        self._recovery = recovery

    def renew(self, result: Result, stored: Any) -> None:
        """It was computed again."""
        self._result, self.stored = result, stored

    def open(self, timeout_s: float | None = None) -> tuple[Any, BaseException | None]:
        """As for every outcome.  May block, in all for ``timeout_s`` seconds (``TimeoutError``)."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            before = self._result
            value, error = super().open()
            if not isinstance(error, ObjectLostError) or not set(error.object_ids) & _names(before.objects):
                return value, error
            try:
                self._recovery.regain(self, before, error, deadline)
            except ObjectLostError as final:
                return None, final.with_traceback(None)

    def __del__(self) -> None:
        self._recovery.let_go_later(self.made)


class _There:
    """An input that need not be computed again."""

    def __init__(self, packed: Any) -> None:
        self._packed = packed


_OF_A_GANG = (
    "it was made by a call on several workers at once (the option gang), which does not run again for one of its "
    "results: submit the call again"
)


class Recovery:
    """One per session.

    :param keeps_arguments: whether large arguments of a call are kept as long as its result.  Not where all is on one
        machine and is lost together: there it would only fill the store.
    """

    def __init__(self, session: Session, keeps_arguments: bool) -> None:
        self.lineage = Lineage()
        self._session = session
        self._keeps_arguments = keeps_arguments
        self._ended: deque[Made] = deque()

    # -- what is known of results -------------------------------------------------------------------------------

    def outcome(self, pool: WorkerPool, task: Task, result: Result, stored: Any) -> PackedOutcome:
        """A task's result as the program will have it (caller holds the session's lock)."""
        self._note_ended()
        store = self._session.store
        made = task.made
        if result.status != OK or (made is None and stored is None):
            return PackedOutcome(result, stored, store)
        if made is None:
            made = self._describe(pool, task)
        else:
            known: StoredOutcome | None = made.outcome()
            if known is not None:
                known.renew(result, stored)
                return known
            made.held += 1
        outcome = StoredOutcome(result, stored, store, made, self)
        made.outcome = weakref.ref(outcome)
        return outcome

    def _describe(self, pool: WorkerPool, task: Task) -> Made:
        retries, message = task.retries_left, task.message
        most = retries + task.deaths
        if not retries:  # it never runs again
            return Made(task.function.name, None, (), most, 0, 0)
        if task.call is not None:
            return Made(task.function.name, None, (), most, retries, 0, forgotten=_OF_A_GANG)
        size_bytes = len(message.payload) + _ENTRY_BYTES
        inputs: list[Made | Argument] = []
        for packed in task.inputs:
            made = getattr(packed, "made", None)
            if made is not None:
                inputs.append(made)
                continue
            argument, more_bytes = self._argument(packed)
            inputs.append(argument)
            size_bytes += more_bytes
        copy = msgspec.structs.replace(task, future=None, keep=None, proxies=None, inputs=())
        if message.objects:
            packed = task.keep[0] if isinstance(task.keep, tuple) else task.keep
            argument, more_bytes = self._argument(packed)
            inputs.append(argument)
            size_bytes += more_bytes
        made = Made(task.function.name, copy, tuple(inputs), most, retries, size_bytes, pool)
        self.lineage.remember(made)
        return made

    def _argument(self, packed: Any) -> tuple[Argument, int]:
        """How to find a value again, and what it costs to keep it."""
        value: Value = packed.value
        stored_bytes = sum(location.size_bytes for location in value.objects)
        if stored_bytes and not self._keeps_arguments:
            return weakref.ref(packed), 0
        return lambda: packed, stored_bytes + len(value.payload)

    def let_go_later(self, made: Made) -> None:
        """A handle of a result ended (called from finalizers: take a note only)."""
        self._ended.append(made)
        if self._session.pools:
            self._session.loop.wake()

    @property
    def has_notes(self) -> bool:
        """Whether ``attend`` has something to do."""
        return bool(self._ended)

    def attend(self) -> None:
        """Let go of what belonged to results that ended."""
        with self._session.lock:
            self._note_ended()

    def forget_pool(self, pool: WorkerPool) -> None:
        """A pool has ended (caller holds the session's lock)."""
        self.lineage.forget(pool)

    def _note_ended(self) -> None:
        while self._ended:
            self.lineage.let_go(self._ended.popleft())

    # -- the program needs a result -----------------------------------------------------------------------------

    def regain(self, outcome: StoredOutcome, seen: Result, error: ObjectLostError, deadline: float | None) -> None:
        """Have a lost result computed again, and wait for it.

        :param seen: what of it was lost.
        :raises ObjectLostError: when that is not possible.
        :raises TimeoutError: ``concurrent.futures``'s, when ``deadline`` has come.
        """
        made = outcome.made
        lost = _describe_loss(made, seen.objects, error)
        with shield:
            with self._session.lock:
                if outcome._result is not seen:
                    return
                try:
                    begun = self._recompute(made, lost)
                except Irrecoverable as reason:
                    raise ObjectLostError(str(reason), error.object_ids) from None
                again = made.again
            self._submit(begun)
        remaining_s = None if deadline is None else deadline - time.monotonic()
        if remaining_s is not None and remaining_s <= 0 and not again.done():
            raise TimeoutError
        made.pool.wait_for(again, remaining_s)
        failure = again.failure()
        if failure is not None:
            raise _failed_again(lost, failure, error.object_ids)

    # -- a task needs a result ----------------------------------------------------------------------------------

    def on_input_lost(self, pool: WorkerPool, task: Task, result: Result) -> None:
        """A worker could not open what a task needs (caller holds the session's lock, and keeps the task back)."""
        self._session.loop.do_later(functools.partial(self._regain_inputs, pool, task, result))

    def _regain_inputs(self, pool: WorkerPool, task: Task, result: Result) -> None:
        lost_ids = set(result.lost)
        begun: list[Made] = []
        awaited: list[Any] = []
        error: BaseException | None = None
        known = False
        with self._session.lock:
            for packed, sent in zip(task.inputs, task.message.dependencies, strict=False):
                if not lost_ids & _names(sent.objects):
                    continue
                known = True
                if not lost_ids & _names(packed.value.objects):
                    continue  # it has been computed again since the task was sent
                made = getattr(packed, "made", None)
                if made is None:
                    known = False
                    break
                text = f"{_describe_loss(made, sent.objects)}, and is an input of task {task.function.name}"
                try:
                    begun += self._recompute(made, text)
                except Irrecoverable as reason:
                    error = ObjectLostError(str(reason), result.lost)
                    break
                awaited.append(made.again)
        self._submit(begun)
        if not known and error is None:
            pool.put_back(task, PackedOutcome(result, None, self._session.store))
        elif error is not None or not awaited:
            pool.put_back(task, error)
        else:
            when_all_done(awaited, lambda: self._resume(pool, task, awaited, result.lost))

    def _resume(self, pool: WorkerPool, task: Task, awaited: Sequence[Any], lost: tuple[str, ...]) -> None:
        failure = next((failure for again in awaited if (failure := again.failure()) is not None), None)
        text = f"an input of task {task.function.name} is lost (object {', '.join(lost)})"
        pool.put_back(task, None if failure is None else _failed_again(text, failure, lost))

    # -- running again ------------------------------------------------------------------------------------------

    def _recompute(self, made: Made, lost: str) -> list[Made]:
        """The entries that are to run again, with their futures made (caller holds the session's lock)."""
        self._note_ended()
        begun = self.lineage.recompute(made, lost)
        for each in begun:
            each.again = DistFuture(each.pool)
        crashpoints.reach("lineage.chosen")
        return begun

    def _submit(self, begun: list[Made]) -> None:
        for made in begun:
            assert made.task is not None
            message = msgspec.structs.replace(made.task.message, attempt=0, dependencies=())
            inputs: list[Any] = []
            arguments: list[Any] = []
            for found in made.inputs:
                if isinstance(found, Made):
                    outcome = found.outcome() if found.again is None else None
                    inputs.append(found.again if outcome is None else _There(outcome))
                else:
                    arguments.append(found())
                    inputs.append(_There(arguments[-1]))
            if message.objects:
                inputs.pop()
            task = msgspec.structs.replace(
                made.task, message=message, future=made.again, made=made, retries_left=made.runs_left - 1, deaths=0,
                keep=arguments, alone=made.task.alone or made.runs_left == 1,
            )  # fmt: skip
            made.again.add_dependent(functools.partial(self._on_ran, made, task))
            made.again._task = task
            crashpoints.reach("lineage.submitting")
            made.pool.run_again(task, inputs)

    def _on_ran(self, made: Made, task: Task) -> None:
        crashpoints.reach("lineage.ran")
        with self._session.lock:
            self.lineage.on_ran(made, task.retries_left)


def _names(locations: Sequence[Any]) -> set[str]:
    return {location.object_id for location in locations}


def _describe_loss(made: Made, locations: Sequence[Any], error: BaseException | None = None) -> str:
    what = ", ".join(sorted({f"object {found.object_id} on node {found.node}" for found in locations}))
    why = f": {error}" if error is not None else ""
    return f"the result of task {made.name} is lost ({what}{why})"


def _failed_again(lost: str, failure: BaseException, object_ids: Sequence[str]) -> ObjectLostError:
    error = ObjectLostError(f"{lost}; computing it again failed: {type(failure).__name__}: {failure}", object_ids)
    error.__cause__ = failure
    return error
