"""In a worker: its slot is lent while its task waits for nested work."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

from distpool.worker import context

if TYPE_CHECKING:
    from distpool.driver.future import DistFuture
    from distpool.driver.session import Session

#: For so long a task waits for nested work that runs already before its slot is lent: there is hardly anybody who could
#: use the slot so soon, and to say so and to take it back costs more than a short task.
_UNLENT_S = 0.002
#: For how long nested work may find no worker before the slot is lent, whether or not its task is known to wait.
_LEND_AFTER_S = 0.03
_monotonic = time.monotonic


def wait_for_nested(session: Session, future: DistFuture[Any], deadline: float | None, starving: bool) -> None:
    """Block until the future is done (errors as in ``concurrent.futures``).

    :param starving: no worker runs anything of the future's pool; what is submitted may need this very slot.
    """
    if not starving:
        soon = _monotonic() + _UNLENT_S
        if session.loop.lead(future.done, soon if deadline is None else min(soon, deadline)):
            return
    with context.blocked():
        if not session.loop.lead(future.done, deadline):
            session.wait_for_future(future, deadline)


class Lending:
    """The task of this worker may wait for nested work in ways that cannot be seen (``as_completed``, an event, another
    thread).  Work that finds no worker for a while gets this worker's slot until all of it is done, so none of these
    ways can deadlock; if the task does not wait at all, there is one busy process more meanwhile.

    Used by the loop's thread.

    :ivar lent: whether the slot is lent.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._starving_since = math.inf
        self.lent = False

    def deadline(self) -> float:
        """When ``attend`` must be called (caller holds the session's lock, under which work begins to starve)."""
        if self.lent:
            return math.inf
        if self._starving_since == math.inf and self._starving():
            self._starving_since = _monotonic()
        return self._starving_since + _LEND_AFTER_S

    def attend(self, now: float) -> None:
        """Lend the slot, or take it back, if it is time to."""
        with self._session.lock:
            starving = not self.lent and self._starving()
        if self.lent:
            # Not as soon as the work has found a worker: with every slot taken back while its holder still waits, none
            # would be left for what that work submits in turn.
            if not self._session.busy():
                self.lent = False
                self._starving_since = math.inf
                context.leave_blocked()
        elif not starving:
            self._starving_since = math.inf
        elif self._starving_since == math.inf:
            self._starving_since = now
        elif now >= self._starving_since + _LEND_AFTER_S:
            self.lent = True
            context.enter_blocked()

    def _starving(self) -> bool:
        return any(pool.shell.starving for pool in self._session.pools.values())
