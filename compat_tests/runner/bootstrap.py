"""Patches one Python process for the suite and target named in its environment."""

from __future__ import annotations

import os

SUITE = "COMPAT_SUITE"
TARGET = "COMPAT_TARGET"
ROOT = "COMPAT_ROOT"


def apply() -> None:
    """Called by ``sitecustomize``; must stay cheap, since it runs in every process below a test."""
    name, target = os.environ.get(SUITE), os.environ.get(TARGET)
    if name is None or target is None:
        return
    from compat_tests import suites

    suites.load(name).patch(target)
