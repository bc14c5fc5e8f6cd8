"""What the driver's program looks like, for workers to look the same, and what comes back from their logging.

Called when a pool is opened (``capture``) and by the driver's loop (``replay_log_records``).  The other half is
``distpool.worker.setup``.
"""

from __future__ import annotations

import os
import pickle
import sys
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from distpool.driver.elsewhere import GPU_VARIABLE, elsewhere
from distpool.node.machine import process_space
from distpool.on_import import loaded
from distpool.wire.driver_to_worker import Setup
from distpool.wire.scheduler_to_driver import LeaseGranted
from distpool.wire.system_text import to_bytes
from distpool.worker.program import LoggerState, LoggingState, ProgramState

if TYPE_CHECKING:
    import logging

    from distpool.driver.pool import PoolSpec
    from distpool.sharing.reducers import Shared
    from distpool.store.handles import Packed


class CapturedSetup:
    """This program as it was when a pool was opened; keeps the initializer's stored objects alive.

    :param driver: the driver's routing id.
    :param initializer: the packed ``(initializer, initargs)``, or None.
    :param remote: whether workers may be on other machines.
    """

    def __init__(self, driver: str, spec: PoolSpec, initializer: Packed | None, remote: bool = False) -> None:
        main = sys.modules.get("__main__")
        spec_of_main = getattr(main, "__spec__", None)
        file: str = getattr(main, "__file__", None) or ""
        self._driver = driver
        self._spec = spec
        self._initializer = initializer
        environment = {**os.environ, **(spec.environment or {})}
        self._environment = {to_bytes(name): to_bytes(value) for name, value in environment.items()}
        self._working_directory = to_bytes(_working_directory())
        self._elsewhere: dict[str, Any] = elsewhere(environment, spec) if remote else {}
        self._growth_bytes = _growth_bytes(os.environ.get("DISTPOOL_WORKER_GROWTH_BYTES", ""))
        self._sys_path = [to_bytes(path) for path in sys.path if isinstance(path, str)]
        self._argv = [to_bytes(argument) for argument in getattr(sys, "argv", []) if isinstance(argument, str)]
        self._main_name = str(getattr(spec_of_main, "name", None) or "")
        self._main_file = to_bytes(os.path.abspath(file) if file and self._working_directory else file)
        self._user_modules = _user_modules()
        self._num_threads = _num_threads(spec)
        self._parent_identity = _parent_identity()
        #: What of ``multiprocessing`` workers reach through this process, for as long as they may be set up.
        self._shared = _shared()
        self._state = pickle.dumps(_program_state(self._shared), 5)

    def for_worker(self, grant: LeaseGranted) -> Setup:
        """The message to one worker."""
        spec = self._spec
        value = self._initializer.value if self._initializer is not None else None
        return Setup(
            driver=self._driver,
            lease=grant.lease,
            pool=grant.pool,
            environment=self._environment_for(grant),
            working_directory=self._working_directory,
            sys_path=self._sys_path,
            argv=self._argv,
            main_name=self._main_name,
            main_file=self._main_file,
            user_modules=self._user_modules,
            process_name=f"{spec.process_name}-{grant.ordinal}",
            identity=(*self._parent_identity, grant.ordinal),
            daemon=spec.daemon,
            num_threads=self._num_threads,
            initializer=value.payload if value is not None else b"",
            initializer_objects=value.objects if value is not None else (),
            state=self._state,
            max_tasks=spec.max_tasks_per_child or 0,
            **self._elsewhere,
            seat=grant.seat,
            growth_bytes=self._growth_bytes,
            retriable=spec.max_retries > 0 and not spec.strict,
        )

    def _environment_for(self, grant: LeaseGranted) -> dict[bytes, bytes]:
        if grant.gpus is None:
            return self._environment
        return {**self._environment, GPU_VARIABLE.encode(): grant.gpus.encode()}


def capture(session: Any, spec: PoolSpec, initializer: Packed | None) -> CapturedSetup:
    """This program as it is now.

    :param session: the driver's session.
    :param initializer: the packed ``(initializer, initargs)``, or None.
    """
    return CapturedSetup(session.routing_id.decode(), spec, initializer, session.remote)


def replay_log_records(records: Sequence[bytes], label: str = "") -> None:
    """Give records of workers to this program's handlers, as if they had been logged here.

    :param label: node and process of the worker, which records then have as their attribute ``worker``.
    """
    import logging

    for data in records:
        try:
            record = logging.makeLogRecord(pickle.loads(data))
        except Exception:
            continue  # an extra attribute of a class that cannot be loaded here
        if label:
            record.worker = label
        logger = logging.getLogger(record.name)
        # Levels were applied where the record was made.
        logger.handle(record)


def _growth_bytes(text: str) -> int:
    """By how much a worker may grow from task to task; 0: without limit.

    :raises ValueError: when it is no number of bytes.
    """
    try:
        size = float(text or 0)
        if 0 <= size < 1 << 62:
            return int(size)
    except ValueError:
        pass
    raise ValueError(f"DISTPOOL_WORKER_GROWTH_BYTES must be a number of bytes, not {text!r}")


def _working_directory() -> str:
    try:
        return os.getcwd()
    except OSError:
        return ""  # removed under our feet


def _user_modules() -> list[str]:
    from distpool.code.origins import user_modules

    return user_modules()


def _num_threads(spec: PoolSpec) -> int:
    if spec.num_threads is not None:
        return spec.num_threads
    from distpool.node import machine

    if machine.affinity() // spec.max_workers <= 1 and not machine.wished_cpus():
        return 1  # whatever the control group's quota is, which takes several files of the kernel's to find out
    return max(1, machine.cpu_count() // spec.max_workers)


def _parent_identity() -> tuple[int, ...]:
    """``multiprocessing`` numbers a child's children below it."""
    process = loaded("multiprocessing.process")
    return tuple(process.current_process()._identity) if process is not None else ()


def _program_state(shared: Shared | None) -> ProgramState:
    process = loaded("multiprocessing.process")
    context = loaded("multiprocessing.context")
    return ProgramState(
        pid=os.getpid(),
        machine=process_space(),
        name=process.current_process().name if process is not None else "MainProcess",
        parentage=_parentage(shared),
        start_method=context._default_context.get_start_method(allow_none=True) if context is not None else None,
        warning_filters=_warning_filters(),
        logging=_logging_state(),
        recursion_limit=sys.getrecursionlimit(),
        tty=(_is_tty(sys.stdout), _is_tty(sys.stderr)),
    )


def _shared() -> Shared | None:
    if loaded("multiprocessing.process") is None:
        return None  # a program that has not loaded it has nothing of it that workers could need
    from distpool.sharing.reducers import Shared

    return Shared()


def _parentage(shared: Shared | None) -> bytes:
    if shared is None:
        return b""
    from distpool.sharing.parentage import Parentage

    return pickle.dumps(Parentage.capture(shared), 5)


def _warning_filters() -> list[bytes]:
    pickles = []
    for entry in warnings.filters:
        try:
            pickles.append(pickle.dumps(entry, 5))
        except Exception:
            continue  # a local class as category
    return pickles


def _is_tty(stream: Any) -> bool:
    try:
        return bool(stream.isatty())
    except Exception:
        return False


def _logging_state() -> LoggingState | None:
    if "logging" not in sys.modules:
        return None
    import logging

    found: dict[str, logging.Logger] = {"": logging.root}
    found |= {
        name: logger
        for name, logger in list(logging.root.manager.loggerDict.items())
        if isinstance(logger, logging.Logger)
        and (logger.level or logger.handlers or not logger.propagate or logger.disabled)
    }
    # A record travels once and is then judged by each handler here; workers only drop what none of them takes.
    lowest = min((handler.level for logger in found.values() for handler in logger.handlers), default=0)
    loggers = {name: _logger_state(logger, lowest) for name, logger in found.items()}
    custom_names = {level: name for level, name in logging._levelToName.items() if name != _STANDARD_LEVELS.get(level)}
    return LoggingState(logging.root.manager.disable, loggers, custom_names)


def _logger_state(logger: logging.Logger, lowest: int) -> LoggerState:
    return LoggerState(logger.level, logger.propagate, bool(logger.disabled), bool(logger.handlers), lowest)


_STANDARD_LEVELS = {0: "NOTSET", 10: "DEBUG", 20: "INFO", 30: "WARNING", 40: "ERROR", 50: "CRITICAL"}
