"""The same tests against distpool and against the standard library (``--target stdlib``)."""

from __future__ import annotations

from compat_tests.libraries.conftest import futures, multiprocessing

__all__ = ["futures", "multiprocessing"]
