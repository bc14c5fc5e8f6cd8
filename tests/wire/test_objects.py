"""What the names of sites tell."""

from __future__ import annotations

import pytest

from distpool.wire.objects import is_driver


@pytest.mark.parametrize(
    ("site", "expected"),
    [
        ("d-0123456789ab", True),
        ("d-ffffffffffff", True),
        ("d-0123456789a", False),
        ("d-0123456789abc", False),
        ("d-0123456789AB", False),
        ("d-0123456789a\n", False),
        ("n-0123456789ab", False),
        ("", False),
    ],
)
def test_drivers(site: str, expected: bool) -> None:
    assert is_driver(site) is expected
