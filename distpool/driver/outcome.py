"""What became of a task, still packed, and the exceptions made of failures that have no exception of their own."""

from __future__ import annotations

from typing import Any

from distpool import errors
from distpool.driver import post_mortem
from distpool.driver.state import Failure, FailureKind
from distpool.driver.task import Task
from distpool.wire.driver_to_worker import Value
from distpool.wire.worker_to_driver import OK, Result

#: What is said of a call that comes too late.
ENDED = "cannot schedule new futures after shutdown"


class PackedOutcome:
    """A result or a raised exception as the worker sent it.

    :param result: the worker's answer.
    :param stored: owner of the stored buffers of the value (None when it has none).
    :param store: opens it.
    """

    __slots__ = ("_result", "_store", "stored")

    def __init__(self, result: Result, stored: Any, store: Any) -> None:
        self._result = result
        self.stored = stored
        self._store = store

    @property
    def raised(self) -> bool:
        """Whether it is an exception."""
        return self._result.status != OK

    @property
    def value(self) -> Value:
        """The value in the form in which a task that depends on it gets it."""
        return Value(self._result.payload, self._result.objects)

    def open(self, timeout_s: float | None = None) -> tuple[Any, BaseException | None]:
        """The value, or the exception that is the task's outcome (also when the value does not unpickle)."""
        result = self._result
        if result.status != OK:
            from distpool.worker.failure import decode_exception

            return None, decode_exception(result.payload)
        try:
            if not result.objects:
                return self._store.unpack_inline(result.payload), None
            return self._store.unpack(Value(result.payload, result.objects), owner=self), None
        except errors.ObjectLostError as error:
            return None, error
        except (KeyboardInterrupt, errors.TaskInterrupted):
            raise  # from outside
        except BaseException as error:  # a class of the result may even exit; that is no wish of the program
            from distpool.sharing.elsewhere import hint

            failure = errors.SerializationError(
                f"the result of the task arrived but cannot be unpickled here: {type(error).__name__}: {error}"
                f"{hint(error)}"
            )
            failure.__cause__ = error
            return None, failure


class GangOutcome:
    """The results of all workers of a gang, as one outcome: a list by rank.

    :param outcomes: those of the workers.
    :param store: opens and packs values.
    """

    __slots__ = ("__weakref__", "_outcomes", "_packed", "_store")

    raised = False

    def __init__(self, outcomes: list[PackedOutcome], store: Any) -> None:
        self._outcomes = outcomes
        self._store = store
        self._packed: Any = None

    @property
    def value(self) -> Value:
        """The list in the form in which a task that depends on it gets it."""
        if self._packed is None:
            values, error = self.open()
            if error is not None:
                raise error
            self._packed = self._store.pack(values)
        value: Value = self._packed.value
        return value

    def open(self, timeout_s: float | None = None) -> tuple[Any, BaseException | None]:
        """The list, or why one of its elements cannot be had."""
        values = []
        for outcome in self._outcomes:
            value, error = outcome.open()
            if error is not None:
                return None, error
            values.append(value)
        return values, None


def exception_of(task: Task, failure: Failure, pool_label: str, strict: bool) -> BaseException:
    """The exception for a task that the driver itself declared failed."""
    name = task.function.name
    if failure.kind is FailureKind.TIMED_OUT:
        return errors.TaskTimeoutError(
            f"task {name} was stopped after timeout_s={task.timeout_s:g} seconds in {pool_label}; "
            "give it more time with distpool.options(timeout_s=...)"
        )
    if failure.kind is FailureKind.KILLED:
        return errors.TaskKilledError(f"task {name} was ended by future.kill()")
    if failure.kind is FailureKind.INFEASIBLE:
        return errors.InfeasibleError(f"task {name} can never run: {failure.reason}")
    if failure.kind is FailureKind.ENDED:
        return RuntimeError(ENDED)
    if failure.kind is FailureKind.WORKER_DIED:
        assert failure.exit is not None
        again = "" if task.deaths == 1 else f" in each of {task.deaths} attempts; the last time"
        text = f"task {name} in {pool_label} failed: its worker died{again}: "
        return errors.WorkerDiedError(text + post_mortem.describe(failure.exit))
    if failure.kind is FailureKind.OUT_OF_MEMORY:
        assert failure.exit is not None
        again = "" if task.deaths == 1 else f" in each of {task.deaths} attempts; the last time"
        text = f"task {name} in {pool_label} ran out of memory{again}: "
        return errors.OutOfMemoryError(text + post_mortem.describe(failure.exit))
    return broken_error(failure, pool_label, strict)


def broken_error(failure: Failure, pool_label: str, strict: bool) -> BaseException:
    """The exception of every task of a pool that is broken."""
    if isinstance(failure.error, errors.ConnectError):
        return _broken_standard(str(failure.error)) if strict else errors.ConnectError(str(failure.error))
    if failure.error is not None:
        text = f"the initializer of {pool_label} failed: {type(failure.error).__name__}: {failure.error}"
        error: BaseException = _broken_standard(text) if strict else errors.InitializerError(text)
        error.__cause__ = failure.error
        return error
    if failure.exit is not None:
        text = f"a worker of {pool_label} ended abruptly: {post_mortem.describe(failure.exit)}"
    else:
        text = failure.reason or f"{pool_label} was ended while the task was running or pending"
    return _broken_standard(text) if strict else errors.WorkerDiedError(text)


def _broken_standard(text: str) -> BaseException:
    from concurrent.futures.process import BrokenProcessPool

    return BrokenProcessPool(text)
