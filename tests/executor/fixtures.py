"""Sessions of fake pools, for the tests of every front door that opens pools."""

from __future__ import annotations

import pytest

from tests.executor.fake_pool import FakeSession


def _install(monkeypatch: pytest.MonkeyPatch, at_once: bool) -> FakeSession:
    session = FakeSession(at_once)
    monkeypatch.setattr("distpool.driver.current.current_session", lambda address=None: session)
    return session


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> FakeSession:
    """Calls are made as they are submitted."""
    return _install(monkeypatch, at_once=True)


@pytest.fixture
def slow_session(monkeypatch: pytest.MonkeyPatch) -> FakeSession:
    """Calls are made when the test says so."""
    return _install(monkeypatch, at_once=False)
