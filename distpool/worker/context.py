"""What code that runs inside a task may know of the worker it runs in, and how it lends the worker's slot while it
waits.

Called by the driver when it finds itself inside a worker (nested submits), and by the front doors.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from typing import NoReturn

import msgspec

from distpool.wire.resources import GangSeat


class WorkerContext(msgspec.Struct, frozen=True):
    """The worker that this process is.

    :param lease: the lease that its driver holds on it; a driver in here calls it its parent lease.
    :param pool: the pool that it belongs to.
    :param node: the node's id.
    :param store_folder: the folder of the node's object store.
    :param scheduler_endpoint: where a driver in here attaches.
    :param process_index: the 1-based number of the worker within its pool.
    :param secret: the cluster's; empty on a private node.
    :param seat: its place in its gang, if it is one of several that were granted together.
    """

    lease: str
    pool: str
    node: str
    store_folder: str
    scheduler_endpoint: str
    process_index: int
    secret: bytes = b""
    seat: GangSeat | None = None

    def __repr__(self) -> str:
        return f"<WorkerContext {self.lease} of pool {self.pool} on node {self.node}>"  # not the secret


class Gang(msgspec.Struct, frozen=True):
    """Where this process stands in a call that runs on several workers at once (option ``gang``).

    :ivar rank: its number, from 0.
    :ivar size: how many there are.
    :ivar hosts: the host names of all of them, by rank.
    """

    rank: int
    hosts: tuple[str, ...]

    @property
    def size(self) -> int:
        """How many workers run the call."""
        return len(self.hosts)

    @property
    def local_rank(self) -> int:
        """Its number among those on the same host, which have ranks that follow each other."""
        return self.hosts[: self.rank].count(self.hosts[self.rank])

    @property
    def local_size(self) -> int:
        """How many of them are on the same host."""
        return self.hosts.count(self.hosts[self.rank])


class _State:
    def __init__(self) -> None:
        self.context: WorkerContext | None = None
        self.tell_agent: Callable[[bool], None] | None = None
        self.running: Callable[[], int] = lambda: 0
        #: what is told of an attempt that was interrupted
        self.end_nested: Callable[[int], None] = lambda attempt: None
        self.pid = 0
        self.lock = threading.Lock()
        self.blocked = 0


_state = _State()


def current() -> WorkerContext | None:
    """The worker that this process is, or None in any other process (also in one that a task forked)."""
    return _state.context if _state.pid == os.getpid() else None


def gang() -> Gang:
    """Where this process stands in the call that it runs: alone, outside of any call with the option ``gang``."""
    context = current()
    if context is None or context.seat is None:
        return Gang(0, (socket.gethostname(),))
    return Gang(context.seat.rank, context.seat.hosts)


def install(context: WorkerContext, tell_agent: Callable[[bool], None], running: Callable[[], int]) -> None:
    """Say which worker this process is (called once, at its set-up).

    :param tell_agent: sends ``WorkerBlocked`` (True) or ``WorkerUnblocked`` (False).
    :param running: the attempt that runs, or a number that is none.
    """
    _state.context = context
    _state.tell_agent = tell_agent
    _state.running = running
    _state.pid = os.getpid()


def running_attempt() -> int:
    """The attempt whose task runs in this worker."""
    return _state.running() if _state.pid == os.getpid() else 0


def when_interrupted(end_nested: Callable[[int], None]) -> None:
    """Have ``end_nested(attempt)`` called when an attempt was interrupted: what it submitted is not wanted any more."""
    _state.end_nested = end_nested


def interrupted(attempt: int) -> None:
    """An attempt was interrupted, and its task has ended."""
    _state.end_nested(attempt)


def end_process(reason: str) -> NoReturn:
    """End this worker without an answer to its driver, to which it is lost already.

    What its task would make of the end of its nested work is nobody's result: the task runs elsewhere.
    """
    with contextlib.suppress(OSError):
        os.write(2, f"distpool: this worker ends: {reason}\n".encode())
    os._exit(1)


def enter_blocked() -> None:
    """The task waits for nested work: its slot may be lent until as many ``leave_blocked`` have been called.  Any
    thread may call; outside of a worker nothing happens."""
    _count(1)


def leave_blocked() -> None:
    """The counterpart of ``enter_blocked``."""
    _count(-1)


@contextlib.contextmanager
def blocked() -> Iterator[None]:
    """``enter_blocked`` and ``leave_blocked`` around a block."""
    enter_blocked()
    try:
        yield
    finally:
        leave_blocked()


def _count(step: int) -> None:
    if _state.tell_agent is None or _state.pid != os.getpid():
        return
    with _state.lock:
        before = _state.blocked
        _state.blocked = after = max(0, before + step)
        # Under the lock, so that the agent hears it in the order in which it was so.
        if bool(before) != bool(after):
            _state.tell_agent(bool(after))
