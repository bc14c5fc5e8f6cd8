from __future__ import annotations

from tests.executor.fixtures import session, slow_session

__all__ = ["session", "slow_session"]
