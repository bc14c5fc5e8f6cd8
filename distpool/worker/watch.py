"""The watch thread: the ears of a worker whose main thread runs a task.

It looks every few milliseconds while there is work, takes over receiving when one task runs on, and sleeps without any
wake-up (but for a look at its parent every few seconds) while the worker is idle.  It also interrupts tasks: the signal
that it sends makes the main thread come back from a system call, and the signal's handler raises ``TaskInterrupted``
there, provided that the very attempt still runs and that no bookkeeping of ours is under way.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # see ``keep_signal``
import os
import signal
import threading
import time
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any, Protocol

from distpool.errors import TaskInterrupted
from distpool.store.link import Asked
from distpool.wire.channel import Channel
from distpool.worker.mailbox import Mailbox

if TYPE_CHECKING:

    class Work(Protocol):
        """What the watch thread sees of the runner."""

        #: Whether the main thread has work at all; the attempt that it runs, 0 between attempts.
        busy: bool
        running: int

        def flush_early(self) -> None:
            """Send finished results and lines."""

        def on_long(self, attempt: int | None, for_s: float) -> None:
            """This attempt has been running for so long; None: it has ended."""

        def on_idle(self) -> None:
            """Nothing has happened for a while."""


_TICK_S = 0.005
#: Ticks without work before the thread goes to sleep.
_QUIET_TICKS = 4
#: Of a task that has run for so long the agent is told: it may be one that fills memory.
_LONG_S = 0.25
#: How often the parent process is looked at when nothing else happens.
_PARENT_S = 5.0

#: Where the main thread merely waits: an exception harms nothing there.
_WAITS = frozenset(
    function.__code__ for function in (threading.Condition.wait, threading.Event.wait, Channel.wait, Asked.wait)
)
_IMPORT_SYSTEM = "<frozen importlib._bootstrap>"
_OUR_BOOKKEEPING = (
    "distpool.wire.",
    "distpool.store.",
    "distpool.code.",
    "distpool.worker.",
    "distpool.driver.",
    "distpool.sharing.relay",
)
#: Modules in which we may be on behalf of their callers.
_LIBRARY = ("threading", "contextlib", "logging", Channel.__module__)


def _imports(frame: FrameType | None) -> bool:
    """Whether a module is being imported: one that is interrupted leaves a package of which only some parts are there,
    and which cannot be imported in that process any more."""
    while frame is not None:
        if frame.f_code.co_filename == _IMPORT_SYSTEM:
            return True
        frame = frame.f_back
    return False


class Watch:
    """One per worker; made in the main thread.

    :param task_codes: the code of the runner's own functions that call tasks.
    """

    def __init__(self, mailbox: Mailbox, work: Work, task_codes: frozenset[CodeType]) -> None:
        self._mailbox = mailbox
        self._work = work
        self._task_codes = task_codes
        self._main_thread = threading.get_ident()
        self._parent = os.getppid()
        #: Locked, except for the moment between a call of ``rouse`` and waking up.
        self._alarm = threading.Lock()
        self._alarm.acquire()
        self._asleep = False
        #: Attempts to interrupt, until the exception is raised or a later one runs.  Each change is one atomic step,
        #: since both threads make some.
        self._interrupts: set[int] = set()
        #: One object, so that it is known again.
        self._handler = self._on_signal
        self._users_handler: Any = None
        self._thread = threading.Thread(target=self._watch, name="distpool-watch", daemon=True)
        self._stopping = False
        #: Locked until the thread is to end.
        self._end = threading.Lock()
        self._end.acquire()
        mailbox.on_interrupt = self.interrupt

    def start(self) -> None:
        """Start the thread and take over SIGINT (main thread)."""
        signal.signal(signal.SIGINT, self._handler)
        self._thread.start()

    def stop(self) -> None:
        """End the thread, before the channel is closed (main thread)."""
        self._stopping = True
        self._end.release()
        self.rouse()
        self._mailbox.channel.wake()
        self._thread.join(1.0)

    def rouse(self) -> None:
        """Work has begun (``work.busy`` is set already)."""
        if self._asleep:
            self._asleep = False
            try:
                self._alarm.release()
            except RuntimeError:
                pass  # it is waking up by itself

    # -- interrupting -----------------------------------------------------------------------------------------------

    def interrupt(self, attempt: int) -> None:
        """End this attempt if it runs, or when it does: the main thread may have claimed it already."""
        if attempt > 0:
            self._interrupts.add(attempt)
            self._press()

    def _press(self) -> None:
        """Signal again until the handler has raised: it declines at moments that are unfit."""
        if not self._interrupts:
            return
        running = self._work.running
        for attempt in list(self._interrupts):
            if attempt < running:  # they run in the order of their numbers, so this one has ended
                self._interrupts.discard(attempt)
        if running in self._interrupts:
            signal.pthread_kill(self._main_thread, signal.SIGINT)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        running = self._work.running
        if running in self._interrupts:
            if self._is_fit(frame):
                self._interrupts.discard(running)
                raise TaskInterrupted("the task was told to end")
        elif callable(self._users_handler):
            self._users_handler(number, frame)

    def _is_fit(self, frame: FrameType | None) -> bool:
        if frame is None or frame.f_code in self._task_codes:
            return True
        if _imports(frame):
            return False
        if frame.f_code in _WAITS:
            return True
        inner: FrameType | None = frame
        while inner is not None and inner.f_globals.get("__name__") in _LIBRARY:
            if inner.f_code in _WAITS:
                return True
            inner = inner.f_back
        if frame.f_globals.get("__name__") == Channel.__module__:
            return False
        module = "" if inner is None else str(inner.f_globals.get("__name__", ""))
        return not module.startswith(_OUR_BOOKKEEPING)

    def keep_signal(self) -> None:
        """After each task: a handler that a task installed is called from ours from now on."""
        # The C function, because the other makes an enumeration's member for each call.
        handler = _signal.getsignal(signal.SIGINT)
        if handler is not self._handler:
            self._users_handler = handler
            signal.signal(signal.SIGINT, self._handler)

    def release_signal(self) -> None:
        """In a process that a task forked: SIGINT is what it is in any Python program, or what the user made it."""
        if signal.getsignal(signal.SIGINT) is self._handler:
            try:
                signal.signal(signal.SIGINT, self._users_handler or signal.default_int_handler)
            except ValueError:
                pass  # forked by a thread that may not

    # -- the thread -------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        work, mailbox = self._work, self._mailbox
        quiet = 0
        seen = 0
        while not self._stopping:
            if quiet >= _QUIET_TICKS:
                if not self._sleep_until_roused():
                    work.on_idle()
                    continue
                quiet = 0
            if self._end.acquire(timeout=_TICK_S):  # a sleep that ``stop`` cuts short
                return
            if not work.busy:
                quiet += 1
                seen = 0
                continue
            quiet = 0
            running = work.running
            if running and running == seen and mailbox.begin_serving():
                self._serve(running)
                seen = 0
                continue
            seen = running
            if not mailbox.main_receives:
                self._look()
            self._press()

    def _sleep_until_roused(self) -> bool:
        self._asleep = True
        # Whoever sets ``busy`` looks at ``_asleep`` afterwards, so one of the two notices the other.
        roused = self._work.busy or self._alarm.acquire(timeout=_PARENT_S)
        self._asleep = False
        self._end_with_parent()
        return roused

    def _serve(self, attempt: int) -> None:
        """Receive while the main thread runs this attempt, which may take long."""
        work, mailbox = self._work, self._mailbox
        began, told = time.monotonic(), False
        while True:
            while not self._stopping and (work.running == attempt or mailbox.main_waits):
                work.flush_early()
                mailbox.channel.wait(_TICK_S if attempt in self._interrupts else _PARENT_S if told else _LONG_S)
                self._end_with_parent()
                for_s = time.monotonic() - began
                if not told and for_s >= _LONG_S and work.running == attempt:
                    told = True
                    work.on_long(attempt, for_s)
                self._look()
                self._press()
            if mailbox.end_serving() or self._stopping:
                break
        if told:
            work.on_long(None, 0.0)
        if not work.busy:
            # This thread may have swallowed the wake-up that was meant for the main thread.
            mailbox.channel.wake()

    def _look(self) -> None:
        work, mailbox = self._work, self._mailbox
        arrived = mailbox.drain()
        work.flush_early()
        if arrived and (mailbox.main_receives or not work.busy):
            mailbox.channel.wake()

    def _end_with_parent(self) -> None:
        if os.getppid() != self._parent:
            os.kill(os.getpid(), signal.SIGKILL)
