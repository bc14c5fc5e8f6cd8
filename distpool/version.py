"""The one place that says which version this is; the wheel's metadata are made from it."""

from __future__ import annotations

__version__ = "0.1.0"
