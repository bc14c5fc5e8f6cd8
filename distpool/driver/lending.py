"""In a worker: its slot is lent while its task waits for nested work."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from distpool.worker import context

if TYPE_CHECKING:
    from distpool.driver.future import DistFuture
    from distpool.driver.session import Session

#: For so long a task waits for nested work that runs already before its slot is lent: there is hardly anybody who could
#: use the slot so soon, and to say so and to take it back costs more than a short task.
_UNLENT_S = 0.002
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
