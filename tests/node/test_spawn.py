"""What the process of a node is given, and does not hand on."""

from __future__ import annotations

import os
from typing import Any

import pytest

from distpool.node import spawn

_NAME = "GLIBC_TUNABLES"
_OLD, _NEW = "glibc 2.36", "glibc 2.39"


def _spawned_with(monkeypatch: pytest.MonkeyPatch, library: str | None, package: str = "node") -> str | None:
    seen: list[dict[str, str]] = []

    def posix_spawn(path: str, arguments: list[str], environment: Any, **options: Any) -> int:
        seen.append(dict(environment))
        return 1

    monkeypatch.setattr(os, "posix_spawn", posix_spawn)
    monkeypatch.setattr(os, "confstr", lambda name: library)
    read, write = os.pipe()
    try:
        spawn.spawn("private", read, write, package=package)
    finally:
        os.close(read)
        os.close(write)
    assert seen[0]["PATH"] == os.environ["PATH"]
    return seen[0].get(_NAME)


def test_an_old_c_library_is_told_to_copy_large_results_past_the_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(_NAME, raising=False)
    assert "non_temporal" in (_spawned_with(monkeypatch, _OLD) or "")
    assert _spawned_with(monkeypatch, _NEW) is None
    assert _spawned_with(monkeypatch, None) is None
    assert _spawned_with(monkeypatch, "glibc of their own") is None
    assert _spawned_with(monkeypatch, _OLD, package="provision") is None


def test_what_the_user_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(_NAME, "glibc.malloc.check=0")
    assert _spawned_with(monkeypatch, _OLD) == "glibc.malloc.check=0"
    spawn.forget_tunables()
    assert os.environ[_NAME] == "glibc.malloc.check=0"


def test_the_setting_is_not_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(_NAME, raising=False)
    monkeypatch.setenv(_NAME, _spawned_with(monkeypatch, _OLD) or "")
    spawn.forget_tunables()
    assert _NAME not in os.environ
