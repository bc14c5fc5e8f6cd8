"""The end of the driver's process: interpreter exit, Ctrl-C, and ``fork`` by the user."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from distpool.interpreter import call_after_fork, call_before_joining, let_go
from distpool.on_import import wait_no_more

if TYPE_CHECKING:
    from distpool.driver.session import Session

_installed_in: int | None = None
_ended = False
_executors_ended = False


def interpreter_ends() -> bool:
    """Whether it is too late to start anything."""
    return _ended


def executors_end() -> bool:
    """Whether it is too late for calls to executors.  Pools of ``multiprocessing`` go on until ``interpreter_ends``."""
    return _executors_ended or bool(getattr(threading, "_SHUTTING_DOWN", False))


def stay_if_daemon() -> None:
    """In a daemon thread of the program's, when the interpreter ends: nothing more happens, as when it waits for
    anything else.

    What such a thread waits for is ended below it; to let it go on with an error would print that, or not, depending on
    which of the two is faster.  To be called without locks.  Threads of ours, which the end waits for, go on.
    """
    if _ended:
        thread = threading.current_thread()
        if thread.daemon and not thread.name.startswith("distpool-"):
            threading.Event().wait()


@contextlib.contextmanager
def noticing_interrupt(session: Session) -> Iterator[None]:
    """Remember that the user pressed Ctrl-C while waiting here: the exit that follows must not wait for tasks."""
    try:
        yield
    except KeyboardInterrupt:
        session.interrupted = True
        raise


def install(close: Callable[[], None]) -> None:
    """Have ``close`` called when the interpreter ends (once per process).

    In two steps, as in the standard library: what executors were given is finished before non-daemon threads are
    joined, and those may use ``multiprocessing``'s pools until they end.
    """
    global _installed_in
    if _installed_in == os.getpid():
        return

    def at_exit() -> None:
        global _ended
        if not _ended:
            _ended = True
            close()
            let_go()
            wait_no_more()

    def before_threads_are_joined() -> None:
        global _executors_ended
        finish_or_abort()
        _executors_ended = True
        process = sys.modules.get("multiprocessing.process")
        if process is not None and process.parent_process() is not None:
            at_exit()  # children of ``multiprocessing`` may end without ``atexit`` functions

    with contextlib.suppress(RuntimeError):  # the main thread has ended
        call_before_joining(before_threads_are_joined)
    atexit.register(at_exit)
    _installed_in = os.getpid()

    from distpool.driver.current import forget_in_child

    call_after_fork(forget_in_child)


def finish_or_abort() -> None:
    """What executors promise at interpreter exit: submitted tasks are finished - unless the user interrupted."""
    from distpool.driver.current import existing_session

    session = existing_session()
    if session is None:
        return
    interrupted = session.interrupted or issubclass(getattr(sys, "last_type", None) or Exception, KeyboardInterrupt)
    # Shares of pools that belong to others end with the session, and so do pools that nobody promised to finish.
    pools = [each for each in list(session.pools.values()) if each.owned and (interrupted or each.spec.finish_at_exit)]
    for pool in pools:
        if interrupted:
            pool.kill()
        else:
            pool.shutdown(wait=False)
    try:
        for pool in pools:
            pool.join()
    except KeyboardInterrupt:
        for pool in pools:
            pool.kill()
