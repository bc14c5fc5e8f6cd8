"""What the scheduler is told of this driver when they meet, and again whenever it may have forgotten."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING

from distpool.driver.links import SCHEDULER_LOST_S
from distpool.node.machine import process_space
from distpool.version import __version__
from distpool.wire import codec, driver_to_scheduler, scheduler_to_driver

if TYPE_CHECKING:
    from distpool.driver.session import Session
    from distpool.driver.shell import Settled

_monotonic = time.monotonic


class Introduction:
    """One per session.

    :ivar welcome: the scheduler's last answer.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._hellos = 0
        self.welcome: scheduler_to_driver.SchedulerWelcome | None = None

    def say_hello(self) -> None:
        """Who this is, and which leases it believes to hold."""
        session = self._session
        parent = session.worker.lease if session.worker is not None else ""
        leases = tuple(lease for pool in session.pools.values() for lease in pool.held_leases())
        self._hellos += 1
        session.tell_scheduler(
            driver_to_scheduler.DriverHello(
                codec.PROTOCOL,
                codec.PYTHON,
                __version__,
                socket.gethostname(),
                session.pid,
                parent,
                leases,
                process_space(),
                self._hellos,
            )
        )

    def meet(self, address: str) -> None:
        """Dial a scheduler, say hello, and block until it has answered (before anything else takes messages).

        :raises ConnectError: when it refuses, does not answer in time, or its host is not known.
        """
        from distpool.driver.attach import dial, wait_for_answer

        session = self._session
        dial(session.channel, address)
        self.say_hello()
        kind = scheduler_to_driver.SchedulerWelcome
        if session.worker is None:
            self.welcome, _ = wait_for_answer(session.channel, kind, address)
            return

        def is_last(welcome: scheduler_to_driver.SchedulerWelcome) -> bool:
            return welcome.number == self._hellos

        # It is the scheduler that this worker came from: if it is away now, it will be back.
        welcome, _ = wait_for_answer(session.channel, kind, address, SCHEDULER_LOST_S, self.say_hello, is_last)
        self.welcome = welcome

    def is_current(self) -> bool:
        """Whether what the scheduler grants can be relied on: it has answered the last hello."""
        return self.welcome is not None and self.welcome.number == self._hellos

    def repeat(self, settled: Settled) -> None:
        """The scheduler has lost its memory: tell it everything anew (caller holds the session's lock)."""
        session = self._session
        self.say_hello()
        for pool in list(session.pools.values()):
            session.tell_scheduler(pool.announcement())
            settled += pool.shell.handle(pool.shell.on_opened, _monotonic())
