"""What became of a task, still packed, and the exceptions made of failures that have no exception of their own."""

from __future__ import annotations

import signal
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from distpool import errors
from distpool.driver.state import Failure, FailureKind, WorkerExit
from distpool.driver.task import Task
from distpool.wire.driver_to_worker import Value
from distpool.wire.worker_to_driver import OK, Result


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

    def open(self) -> tuple[Any, BaseException | None]:
        """The value, or the exception that is the task's outcome (also when the value does not unpickle)."""
        result = self._result
        if result.status != OK:
            from distpool.worker.failure import decode_exception

            return None, decode_exception(result.payload)
        try:
            return self._store.unpack(Value(result.payload, result.objects), owner=self), None
        except errors.ObjectLostError as error:
            return None, error
        except (Exception, SystemExit) as error:  # a class of the result may even exit; that is no wish of the program
            failure = errors.SerializationError(
                f"the result of the task arrived but cannot be unpickled here: {type(error).__name__}: {error}"
            )
            failure.__cause__ = error
            return None, failure


class GangOutcome:
    """The results of all workers of a gang, as one outcome: a list by rank.

    :param outcomes: those of the workers.
    :param store: opens and packs values.
    """

    __slots__ = ("_outcomes", "_packed", "_store")

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

    def open(self) -> tuple[Any, BaseException | None]:
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
    if failure.kind is FailureKind.WORKER_DIED:
        assert failure.exit is not None
        attempts = "once" if task.deaths == 1 else f"{task.deaths} times"
        how = describe_exit(failure.exit)
        return errors.WorkerDiedError(
            f"task {name} was tried {attempts} and its worker died each time; the last one, {how}"
        )
    return broken_error(failure, pool_label, strict)


def broken_error(failure: Failure, pool_label: str, strict: bool) -> BaseException:
    """The exception of every task of a pool that is broken."""
    if isinstance(failure.error, errors.ConnectError):
        return BrokenProcessPool(str(failure.error)) if strict else errors.ConnectError(str(failure.error))
    if failure.error is not None:
        text = f"the initializer of {pool_label} failed: {type(failure.error).__name__}: {failure.error}"
        error: BaseException = BrokenProcessPool(text) if strict else errors.InitializerError(text)
        error.__cause__ = failure.error
        return error
    if failure.exit is not None:
        text = f"a worker of {pool_label} ended abruptly: {describe_exit(failure.exit)}"
    else:
        text = failure.reason or f"{pool_label} was ended while the task was running or pending"
    return BrokenProcessPool(text) if strict else errors.WorkerDiedError(text)


def describe_exit(exit: WorkerExit) -> str:
    """How a worker ended, why probably, and what it said last."""
    if exit.exit_code < 0:
        try:
            how = f"was killed by {signal.Signals(-exit.exit_code).name}"
        except ValueError:
            how = f"was killed by signal {-exit.exit_code}"
    else:
        how = f"ended with exit code {exit.exit_code}"
    where = f" on node {exit.node}" if exit.node else ""
    parts = [f"process {exit.pid}{where}, {how}"]
    cause = exit.reason or _LIKELY_CAUSES.get(exit.exit_code, "")
    if cause:
        parts.append(cause)
    if exit.peak_rss_bytes:
        parts.append(f"peak memory {exit.peak_rss_bytes / 2**20:.0f} MiB")
    if exit.stderr_tail:
        parts.append(f"last lines of its standard error:\n{exit.stderr_tail.rstrip()}")
    return "; ".join(parts)


_LIKELY_CAUSES = {
    -signal.SIGKILL: "likely the system's out-of-memory killer, or somebody's kill -9",
    -signal.SIGSEGV: "a crash in native code",
    -signal.SIGABRT: "native code called abort()",
    -signal.SIGBUS: "a memory-mapped file shrank, or the shared-memory file system is full",
    -signal.SIGTERM: "somebody terminated it",
    0: "the task ended the process (os._exit, or a native exit)",
}
