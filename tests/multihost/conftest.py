"""What all tests on hosts have in common."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module", autouse=True)
def _soon_missed() -> Iterator[None]:
    """Who is silent is given up sooner than usual: these tests wait for that again and again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DISTPOOL_SILENCE_S", "4")
        yield
