"""The state of the driver's program that a worker adopts: what of ``Setup`` is best said in Python's own terms.

Made by ``distpool.driver.environment``, adopted by ``distpool.worker.setup``.
"""

from __future__ import annotations

import msgspec


class LoggerState(msgspec.Struct, frozen=True):
    """A logger of the driver's program that is not as loggers are by default."""

    level: int
    propagate: bool
    disabled: bool
    has_handlers: bool
    #: The lowest level that any of its handlers takes.
    handler_level: int


class LoggingState(msgspec.Struct, frozen=True):
    """How logging is configured in the driver's program; the root logger's name is ``""``."""

    disable: int
    loggers: dict[str, LoggerState]
    level_names: dict[int, str]


class ProgramState(msgspec.Struct, frozen=True):
    """What ``Setup.state`` holds: whatever of the driver's program is best said in Python's own terms.

    :param pid: the driver's process id, on ``machine`` (see ``distpool.node.machine.process_space``).
    :param name: the driver's name in ``multiprocessing``.
    :param parentage: a pickled ``distpool.sharing.Parentage``, or empty.
    :param start_method: the default of ``multiprocessing`` in the driver, if it was set.
    :param warning_filters: pickled entries of ``warnings.filters``, each by itself.
    :param logging: None when the driver has not loaded ``logging``.
    :param tty: whether the driver's ``sys.stdout`` and ``sys.stderr`` are terminals.
    """

    pid: int
    machine: str
    name: str
    parentage: bytes = b""
    start_method: str | None = None
    warning_filters: list[bytes] = []
    logging: LoggingState | None = None
    recursion_limit: int = 1000
    tty: tuple[bool, bool] = (False, False)
