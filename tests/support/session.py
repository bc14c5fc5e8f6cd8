"""The private node of the test process, as far as fixtures must know of it without starting one."""

from __future__ import annotations

import sys
from typing import Any


def live_session() -> Any:
    """The session of this process, or None; never starts one."""
    module = sys.modules.get("distpool.driver.current")
    return None if module is None else module.existing_session()


def end_session() -> None:
    """Take the private node down, if there is one."""
    module = sys.modules.get("distpool.driver.current")
    if module is not None:
        module.close_current()


def open_pools(live: Any) -> list[str]:
    """The pools of a live session whose workers have not all ended."""
    return [f"{pool.spec.label} ({pool.pool_id})" for pool in list(live.pools.values())]
