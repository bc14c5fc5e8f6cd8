"""distpool side by side with the alternatives, in one run.  ``python -m benchmarks --help``."""

from __future__ import annotations
