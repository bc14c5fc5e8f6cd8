"""Making a worker process look like the program that it works for.

Called once by the runner, with the driver's ``Setup`` message; ``distpool.driver.environment`` makes the other half.
"""

from __future__ import annotations

import importlib
import os
import pickle
import signal
import sys
import time
from typing import TYPE_CHECKING, Any

from distpool.node.machine import file_space, process_space
from distpool.wire.driver_to_worker import Setup
from distpool.worker import warning_filters
from distpool.worker.imports import forget_shadowed
from distpool.worker.output import ForwardedStream, Forwarder, make_log_handler
from distpool.worker.program import LoggerState, LoggingState, ProgramState
from distpool.worker.thread_budget import limit_threads

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess


def is_elsewhere(setup: Setup) -> bool:
    """Whether the driver is on another machine, or in a container with other files."""
    return bool(setup.file_space) and setup.file_space != file_space()


def enter_program(setup: Setup, learned: frozenset[str] = frozenset()) -> None:
    """What must be so before any code of the user's can be loaded.

    :param learned: see ``WorkerStart``.
    """
    folder = os.fsdecode(setup.working_directory)
    environment = {os.fsdecode(name): os.fsdecode(value) for name, value in setup.environment.items()}
    if is_elsewhere(setup):
        # Folders, packages and the shell's settings are this machine's; the user's modules come from the driver.
        carried = map(os.fsdecode, setup.carried)
        os.environ.update({name: environment[name] for name in carried if name in environment})
        folder = environment.get("DISTPOOL_WORKING_DIRECTORY") or folder
    else:
        _replace_environment(environment)
        sys.path[:] = map(os.fsdecode, setup.sys_path)
    limit_threads(setup.num_threads)
    if folder:
        try:
            os.chdir(folder)
        except OSError:
            pass  # removed meanwhile, or not there on this node: then tasks start where the node does
    # The zygote may have looked into these folders before the user put modules there.
    importlib.invalidate_caches()
    forget_shadowed(learned)
    sys.argv = [os.fsdecode(argument) for argument in setup.argv]


def adopt_state(setup: Setup, forwarder: Forwarder) -> None:
    """The rest; may load modules of the user's (classes of warnings)."""
    state: ProgramState = pickle.loads(setup.state)
    sys.stdout = ForwardedStream(forwarder, 1, state.tty[0])
    sys.stderr = ForwardedStream(forwarder, 2, state.tty[1])
    sys.setrecursionlimit(state.recursion_limit)
    _adopt_process(setup, state)
    warning_filters.adopt(state.warning_filters)
    if state.logging is not None:
        _adopt_logging(state.logging, forwarder)
    _fresh_entropy()


def _replace_environment(wanted: dict[str, str]) -> None:
    current = os.environ
    for name in [name for name in current if name not in wanted]:
        del current[name]
    for name, value in wanted.items():
        if current.get(name) != value:
            current[name] = value
    time.tzset()  # the C library read TZ when the zygote began


def _fresh_entropy() -> None:
    """Modules that a worker imports later seed themselves; those that the zygote loaded are seeded anew."""
    if "random" in sys.modules:
        sys.modules["random"].seed()
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()


def _adopt_process(setup: Setup, state: ProgramState) -> None:
    import itertools
    from multiprocessing import context, process

    current: BaseProcess = process.BaseProcess.__new__(context.Process)
    inherited = process.current_process()._config  # type: ignore[attr-defined]
    current.__dict__.update(
        _identity=tuple(setup.identity),
        _config={**inherited, "daemon": setup.daemon},
        _parent_pid=state.pid,
        _parent_name=state.name,
        _popen=None,
        _closed=False,
        _target=None,
        _args=(),
        _kwargs={},
        _name=setup.process_name,
    )
    module: Any = process
    module._current_process = current
    module._process_counter = itertools.count(1)
    module._children = set()
    module._parent_process = module._ParentProcess(state.name, state.pid, _sentinel(state))
    # Finalizers that the zygote registered are the zygote's.
    util: Any = sys.modules.get("multiprocessing.util")
    if util is not None:
        util._finalizer_registry.clear()
        util._run_after_forkers()
    if state.start_method is not None:
        try:
            context._default_context.set_start_method(state.start_method, force=True)
        except ValueError:
            pass  # a method of the user's that is not registered here
    if state.parentage:
        pickle.loads(state.parentage).adopt()


def _sentinel(state: ProgramState) -> int:
    """A descriptor that becomes readable when the driver ends; never, if that cannot be watched from here."""
    if state.machine == process_space() and hasattr(os, "pidfd_open"):
        try:
            return os.pidfd_open(state.pid)
        except OSError:
            pass
    read, _write = os.pipe()  # the writing end stays open for good
    return read


def _adopt_logging(state: LoggingState, forwarder: Forwarder) -> None:
    import logging

    logging.disable(state.disable)
    for level, name in state.level_names.items():
        logging.addLevelName(level, name)
    for name, wanted in state.loggers.items():
        logger = logging.getLogger(name or None)
        logger.setLevel(wanted.level)
        logger.propagate = wanted.propagate
        logger.disabled = wanted.disabled
        # Records travel once: from the root, or from where they stop propagating.  Where no handler exists, Python's
        # last resort writes to ``sys.stderr``, which is forwarded, and a task may still call ``basicConfig``.
        for handler in list(logger.handlers):
            logger.removeHandler(handler)
        outermost = not name or not wanted.propagate
        if outermost and wanted.has_handlers:
            logger.addHandler(make_log_handler(forwarder, wanted.handler_level))
    if not state.loggers.get("", LoggerState(0, True, False, False, 0)).has_handlers:
        # Below a root without handlers, records that some logger on the way handles must come from that logger.
        for name, wanted in state.loggers.items():
            if name and wanted.propagate and wanted.has_handlers and not _handled_above(name, state):
                logging.getLogger(name).addHandler(make_log_handler(forwarder, wanted.handler_level))


def _handled_above(name: str, state: LoggingState) -> bool:
    """Whether some logger above this one, in reach of its records, has handlers in the driver."""
    while "." in name:
        name = name.rpartition(".")[0]
        above = state.loggers.get(name)
        if above is not None:
            if above.has_handlers:
                return True
            if not above.propagate:
                return False
    return False


def reset_signals() -> None:
    """Signals as a fresh process has them, whatever the zygote did with them."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGINT})
