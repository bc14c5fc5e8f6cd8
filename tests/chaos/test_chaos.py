"""A short soak; ``python -m tests.chaos`` is the long one."""

from __future__ import annotations

import pytest

from tests.chaos.soak import Soak
from tests.multihost.hosts import missing

if missing():
    pytest.skip(f"no hosts of their own: {missing()}", allow_module_level=True)


@pytest.mark.watchdog(600)
def test_nothing_is_wrong_lost_hung_or_left() -> None:
    soak = Soak(seed=1, drivers=2, every_s=1.5, say=print)
    soak.run(12.0)
    assert not soak.problems, "\n".join(soak.report())
    assert soak.tasks
    assert len(soak.faults) >= 3
