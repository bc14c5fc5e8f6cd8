"""The driver's thread: waits for messages and deadlines, and hands them to the pools they concern.

Other threads may serve too: one that submits drains the channel in passing, and one that waits for a result *leads*,
that is, it waits on the channel itself, which saves the wake-up of this thread on the way of each result.  Meanwhile
this thread stands aside.  It is not told when a short lead ends, since in a row of calls the next one is about to
begin; it looks by itself soon after.  Whatever must not run in a user's thread - callbacks, the pickling of
definitions - is left to this one.

With a private node the thread ends when there is no pool any more, and begins again with the next: a program that has
shut its pools down has no thread of ours, as with ``concurrent.futures``.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from distpool import crashpoints
from distpool.driver.interrupts import shield
from distpool.driver.lending import Lending
from distpool.driver.links import STREAM_MESSAGES
from distpool.driver.output import TaskOutput
from distpool.wire import codec, scheduler_to_driver, worker_to_driver
from distpool.wire.channel import EVERYTHING
from distpool.wire.doorbell import Doorbell

if TYPE_CHECKING:
    from distpool.driver.pool import WorkerPool
    from distpool.driver.session import Session
    from distpool.driver.shell import Settled
    from distpool.driver.state import Effects

#: How long the connection of a worker that is gone is kept for its last words.
_HANG_UP_AFTER_S = 0.1
#: How soon this thread looks again whether somebody still leads, at first and at most.
_ASIDE_S = 0.002
_LONGEST_ASIDE_S = 0.5
#: Who waits in a done-callback or a signal handler looks so often: what other threads do may be waited for there.
_INNER_LOOK_S = 0.02
#: The end of a lead that took longer is told to this thread, whose looks have become rare by then.
_LONG_LEAD_S = 0.02
_TASK_MESSAGES = (
    worker_to_driver.TasksDone,
    worker_to_driver.Retracted,
    worker_to_driver.SetupDone,
    worker_to_driver.SetupFailed,
    worker_to_driver.WorkerGrown,
)
_WRITTEN = (worker_to_driver.Output, worker_to_driver.LogRecords, worker_to_driver.Notice)
_monotonic = time.monotonic


class Loop:
    """One per session."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._stopping = False
        self._leading = threading.Lock()
        self._leads = 0
        self._leader = 0
        #: One for each done-callback that waits, in this thread, and signal handler, in the thread that leads.
        self._inner_waits: list[None] = []
        self._bell = Doorbell(session.node.sentinel if session.node is not None else -1)
        self._leader_bell = Doorbell()
        self._aside = False
        self._lending = Lending(session)
        self._sleeps_until = 0.0
        self._hang_ups: deque[tuple[float, bytes, str]] = deque()
        self._later: deque[Callable[[], None]] = deque()
        self._output = TaskOutput()
        self._thread: threading.Thread | None = None
        self._ident = 0

    def start(self) -> None:
        """Start the thread if it does not run (caller holds the session's lock, or is the only one to know it)."""
        if self._thread is None and not self._stopping:
            self._thread = threading.Thread(target=self._run, name="distpool-driver", daemon=True)
            try:
                self._thread.start()
            except RuntimeError:  # too many threads, or too late
                self._thread = None
                raise

    def stop(self) -> None:
        """End the thread, and wait for that."""
        self._stopping = True
        self.wake()
        if not self.is_current():
            thread = self._thread
            if thread is not None:
                thread.join()
            self._bell.close()
            self._leader_bell.close()

    def is_current(self) -> bool:
        """Whether the caller is the loop's thread."""
        return threading.get_ident() == self._ident

    def hang_up_later(self, peer: bytes, node: str = "") -> None:
        """``Session.hang_up`` once a worker's last words must have arrived (caller holds the session's lock)."""
        self._hang_ups.append((_monotonic() + _HANG_UP_AFTER_S, peer, node))
        self.note_deadline(self._hang_ups[-1][0])

    def wake(self) -> None:
        """Have the thread look at what was left to it (may be called from finalizers)."""
        self._bell.ring()

    def wake_leader(self, own: bool = False) -> None:
        """Futures were settled: another thread that leads, or a callback in this one, may wait for one of them; or
        (``own``) a wait of the caller's, which a signal handler has interrupted."""
        if self._leader and (own or self._leader != threading.get_ident()):
            self._leader_bell.ring()
        if self._inner_waits and not self.is_current():
            self.wake()

    def notice(self, text: str) -> None:
        """Have a line shown on standard error, once."""
        self._output.take(worker_to_driver.Notice(text), "")

    def note_deadline(self, deadline: float | None) -> None:
        """Something happened to a pool: nobody may sleep past its deadline, or wait for what has happened."""
        if self._inner_waits:
            self.wake_leader()
            return
        past_it = deadline is not None and deadline < self._sleeps_until
        if (past_it or (self._lending.lent and not self._session.busy())) and not self.is_current():
            self.wake()

    def lead(self, is_done: Callable[[], bool], deadline: float | None) -> bool:
        """Serve the channel in the caller's thread until ``is_done()``; False when the time ran out or somebody else
        leads: the caller then waits in another way."""
        me = threading.get_ident()
        if me in (self._ident, self._leader):  # as ``serves``, on the way of every result
            return self._wait_within(is_done, deadline)
        with shield:
            if not self._leading.acquire(blocking=False):
                return False
            self._leader = me
            began = _monotonic()
            try:
                self._leads += 1
                return self._lead(is_done, deadline)
            finally:
                self._leader = 0
                self._leading.release()
                if self._aside and (_monotonic() - began > _LONG_LEAD_S or self._session.busy()):
                    self._bell.ring()

    def serves(self) -> bool:
        """Whether the others rely on the caller's thread, which must go on serving while it waits: this one (in a
        done-callback) or the one that leads (in a signal handler)."""
        return self.is_current() or self._leader == threading.get_ident()

    def _wait_within(self, is_done: Callable[[], bool], deadline: float | None) -> bool:
        self._inner_waits.append(None)
        try:
            if not self.is_current():
                with shield:
                    self.serve()  # what the wait that was interrupted may have been told of
                    return self._lead(is_done, deadline, _INNER_LOOK_S)
            while not is_done() and not self._stopping and (deadline is None or deadline > _monotonic()):
                look_at = _monotonic() + _INNER_LOOK_S
                self._turn(look_at if deadline is None else min(look_at, deadline))
            return is_done()
        finally:
            self._inner_waits.pop()
            if not self.is_current():
                self._leader_bell.ring()  # for the wait that was interrupted, which nobody else wakes

    def _lead(self, is_done: Callable[[], bool], deadline: float | None, look_s: float | None = None) -> bool:
        channel = self._session.channel
        while not is_done():
            wait_s = look_s
            if deadline is not None:
                wait_s = deadline - _monotonic() if look_s is None else min(look_s, deadline - _monotonic())
            if self._stopping or (wait_s is not None and wait_s <= 0):
                return False
            lifted = shield.lift()
            try:
                ready = channel.wait(wait_s, self._leader_bell)
            finally:
                shield.lower(lifted)
            if ready:
                self.serve(ready)
        return True

    def _run(self) -> None:
        self._ident = threading.get_ident()
        try:
            while not self._stopping:
                self._turn()
                if self._leading.locked():
                    self._stand_aside()
                    self._work_off()
                if self._retires():
                    return
            self._session.run_callbacks()  # of what was settled a moment ago
        except Exception as error:
            # A defect, or memory ran out: whoever waits must hear of it, and nobody else is left to say so.
            self._session.lifeline.on_failure(error)
            raise

    def _turn(self, deadline: float | None = None) -> None:
        """Wait for whatever comes next, at most until ``deadline``, and attend to it."""
        timeout_s = self._timeout_s()
        if deadline is not None:
            remaining = max(0.0, deadline - _monotonic())
            timeout_s = remaining if timeout_s is None else min(timeout_s, remaining)
        if ready := self._session.channel.wait(timeout_s, self._bell):
            self.serve(ready)
        self._sleeps_until = 0.0
        # Before standing aside too: the bell that ended the wait may have rung for this work, and it rings once.
        self._work_off()

    def _retires(self) -> bool:
        """Whether there is nothing left to do; the thread must then end.

        Only with a private node: that learns of this process's end by other means than signs of life.
        """
        session = self._session
        if session.pools or session.node is None:
            return False
        with session.lock:
            if session.pools or self._hang_ups or self._later or session.has_callbacks():
                return False
            self._thread = None
            self._ident = 0  # another thread may get the same
            return True

    def _stand_aside(self) -> None:
        """Leave the channel to the thread that leads, but not the deadlines."""
        pause_s, seen = _ASIDE_S, self._leads
        self._aside = True
        while not self._has_chores():
            timeout_s = self._timeout_s()
            if self._bell.wait(pause_s if timeout_s is None else min(pause_s, timeout_s)):
                break
            if timeout_s is not None and timeout_s <= pause_s:
                break
            if seen != self._leads:
                # In a row of calls nobody leads for a moment, again and again.
                pause_s, seen = _ASIDE_S, self._leads
            elif self._leading.locked():
                if pause_s == _LONGEST_ASIDE_S:
                    self.serve()  # it may be in a signal handler that waits in a way of its own
                pause_s = min(2 * pause_s, _LONGEST_ASIDE_S)
            else:
                break
        self._aside = False

    def _has_chores(self) -> bool:
        session = self._session
        lost = self._bell.broken and not session.lifeline.lost
        return bool(lost or self._stopping or self._later or session.channel.link_events or session.has_callbacks())

    def _work_off(self) -> None:
        """Deadlines, and what others left to this thread."""
        session = self._session
        if self._bell.broken and not session.lifeline.lost:
            session.lifeline.on_node_lost()
        if session.channel.link_events:
            session.links.attend()
        now = _monotonic()
        for pool in list(session.pools.values()):
            deadline = pool.shell.next_deadline()
            if deadline is not None and deadline <= now:
                with session.lock:
                    settled = pool.shell.handle(pool.shell.on_time, now)
                session.settle(settled)
        if session.worker is not None:
            self._lending.attend(now)
        while self._hang_ups and self._hang_ups[0][0] <= now:
            session.hang_up(*self._hang_ups.popleft()[1:])
        while self._later:
            self._later.popleft()()
        session.finalized.attend()
        session.run_callbacks()

    def _timeout_s(self) -> float | None:
        session = self._session
        with session.lock:
            # Under the lock: what changes from now on finds in ``_sleeps_until`` whether this thread must be woken.
            deadlines = [self._hang_ups[0][0]] if self._hang_ups else []
            if session.worker is not None:
                deadlines.append(self._lending.deadline())
            for pool in session.pools.values():
                deadline = pool.shell.next_deadline()
                if deadline is not None:
                    deadlines.append(deadline)
            self._sleeps_until = min(deadlines, default=math.inf)
        if self._later or session.has_callbacks():
            return 0.0
        return max(0.0, self._sleeps_until - _monotonic()) if self._sleeps_until < math.inf else None

    def serve(self, ready: Sequence[int] = EVERYTHING) -> None:
        """Handle what has arrived, in any thread (``ready``: what ``Channel.wait`` returned)."""
        session = self._session
        settled: Settled = []
        with session.lock:
            # Under the lock: two threads must not handle in one order what they have received in another.
            arrived, now = session.channel.drain(ready), _monotonic()
            for peer, frames in arrived:
                if not frames:
                    session.links.on_silent(peer, now, settled)
                elif peer[:1] == b"w":
                    self._from_worker(peer, codec.decode_from_worker_at_driver(frames[0]), now, settled)
                elif peer[:1] == b"s":
                    self._from_scheduler(codec.decode_from_scheduler_at_driver(frames[0]), now, settled)
        try:
            # Also when none of it came now: another thread that took it in may not have come so far.
            self._output.show()
        finally:
            if settled:
                session.settle(settled)

    def _from_worker(self, peer: bytes, message: worker_to_driver.Message, now: float, settled: Settled) -> None:
        session = self._session
        known = session.leases.of_worker(peer)
        if known is None:
            return
        pool, lease = known
        crashpoints.reach_event("driver.heard", message)
        if isinstance(message, _TASK_MESSAGES):
            if type(message) is worker_to_driver.TasksDone and len(message.results) == 1:
                single = pool.shell.on_single(lease, message, now)
                if single is not None:
                    settled += single
                    return

            def event(now: float, effects: Effects) -> None:
                pool.shell.on_message(lease, message, now, effects)

            settled += pool.shell.handle(event, now)
        elif isinstance(message, _WRITTEN):
            if isinstance(message, worker_to_driver.Output) and message.stream == 2:
                pool.shell.on_words(lease, message.text)
            self._output.take(message, session.leases.label_of(peer))
        elif isinstance(message, STREAM_MESSAGES):
            session.links.carry(peer, message)
        else:
            self.do_later(lambda: session.links.answer(peer, message))

    def _from_scheduler(self, message: scheduler_to_driver.Message, now: float, settled: Settled) -> None:
        session = self._session
        crashpoints.reach_event("driver.heard", message)
        if isinstance(message, scheduler_to_driver.SchedulerWelcome):
            session.introduction.welcome = message
            return
        if isinstance(message, scheduler_to_driver.HelloWanted):
            session.introduction.repeat(settled)
            return
        if isinstance(message, scheduler_to_driver.Ping):
            return
        if isinstance(message, (scheduler_to_driver.SiteAt, scheduler_to_driver.CopiesWanted)):
            if session.site is not None:
                session.site.on_scheduler_said(message)
            return
        if isinstance(message, scheduler_to_driver.ClusterStatus):
            if session.questions is not None:
                session.questions.take(message)
            return
        if isinstance(message, scheduler_to_driver.Refused):
            session.lifeline.on_refused(message.reason, settled, message.ended)
            return
        if isinstance(message, scheduler_to_driver.WorkerLeft):
            self.hang_up_later(message.worker.encode(), message.node)
            return
        pool: WorkerPool | None = session.pools.get(message.pool)
        if isinstance(message, scheduler_to_driver.LeaseEnded):
            session.lease_ended(message.lease)
        elif isinstance(message, scheduler_to_driver.LeaseGranted):
            if not session.introduction.is_current():
                return  # if it is still so, it is said again behind the answer to our hello
            if pool is None:
                session.decline(message)
            else:
                session.lease_began(pool, message)
        if pool is None:
            return
        leases = pool.shell.leases
        handlers: dict[type, Any] = {
            scheduler_to_driver.LeaseGranted: leases.on_granted,
            scheduler_to_driver.LeaseEnded: leases.on_ended,
            scheduler_to_driver.DemandInfeasible: leases.on_infeasible,
            scheduler_to_driver.ReclaimIdle: leases.on_reclaim,
            scheduler_to_driver.LeaseWanted: leases.on_lease_wanted,
        }
        handler = handlers[type(message)]
        settled += pool.shell.handle(lambda now, effects: handler(message, now, effects), now)

    def do_later(self, action: Callable[[], None]) -> None:
        """Have this thread do something without the session's lock."""
        self._later.append(action)
        if not self.is_current():
            self.wake()
