"""The end of the driver's process: interpreter exit, Ctrl-C, and ``fork`` by the user."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distpool.driver.session import Session

_installed_in: int | None = None
_ended = False


def interpreter_ends() -> bool:
    """Whether it is too late to start anything."""
    return _ended


@contextlib.contextmanager
def noticing_interrupt(session: Session) -> Iterator[None]:
    """Remember that the user pressed Ctrl-C while waiting here: the exit that follows must not wait for tasks."""
    try:
        yield
    except KeyboardInterrupt:
        session.interrupted = True
        raise


def install(close: Callable[[], None]) -> None:
    """Have ``close`` called when the interpreter ends (once per process)."""
    global _installed_in
    if _installed_in == os.getpid():
        return

    def at_exit() -> None:
        global _ended
        finish_or_abort()
        _ended = True
        close()

    try:
        # Like ``concurrent.futures`` itself: before non-daemon threads are joined, and before ``atexit`` functions.
        threading._register_atexit(at_exit)  # type: ignore[attr-defined]
    except RuntimeError:  # the main thread has ended
        raise RuntimeError("cannot schedule new futures after interpreter shutdown") from None
    _installed_in = os.getpid()

    from distpool.driver.current import forget_in_child

    os.register_at_fork(after_in_child=forget_in_child)


def finish_or_abort() -> None:
    """What executors promise at interpreter exit: submitted tasks are finished - unless the user interrupted."""
    from distpool.driver.current import existing_session

    session = existing_session()
    if session is None:
        return
    interrupted = session.interrupted or issubclass(getattr(sys, "last_type", None) or Exception, KeyboardInterrupt)
    # Shares of pools that belong to others end with the session.
    pools = [pool for pool in session.pools.values() if pool.owned]
    for pool in pools:
        if interrupted or not pool.spec.finish_at_exit:
            pool.kill()
        else:
            pool.shutdown(wait=False)
    try:
        for pool in pools:
            pool.join()
    except KeyboardInterrupt:
        for pool in pools:
            pool.kill()
