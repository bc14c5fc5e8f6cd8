"""What a workload declares: its metrics, its sizes, its targets.

A workload is a module in ``benchmarks.workloads`` with

* a docstring, whose first line is its title in the report, and the rest what is done and measured;
* ``METRICS``: name → ``Metric``, the one that counts first;
* ``SIZES``: how many tasks (calls, steps, ...), per contender where some are too slow for the full size;
* ``CONTENDERS``: the names of those that take part (see ``benchmarks.contenders``);
* ``measure(contender, size) -> {metric: value}``, which raises ``Wrong`` when results are not what they should be,
  and ``Unsupported`` when a contender cannot do this at all;
* optionally ``TARGETS``, ``LIMITS`` (names of ``benchmarks.limits`` that are shown beside it), ``TIME_LIMIT_S``,
  ``OURS`` (the front door of ours that the summary compares, where it is not the first that takes part),
  ``OPENED = False`` (``measure`` gets the contender before it is opened, and opens it itself).
"""

from __future__ import annotations

import ast
import importlib
import pkgutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal


class Wrong(AssertionError):
    """A contender gave a result that is not right."""


class Unsupported(Exception):
    """A contender has no way to do this; the message says why."""


@dataclass(frozen=True)
class Metric:
    """One number.  ``format`` is how it is printed."""

    unit: str
    better: Literal["higher", "lower", "neither"]
    format: str = ",.0f"


@dataclass(frozen=True)
class Target:
    """What distpool wants to reach in ``metric``.

    Relative: at least ``ratio`` times the rate (at most ``ratio`` times the time) of the best of ``against``.
    Absolute: ``value`` or better.
    """

    metric: str
    ratio: float | None = None
    against: tuple[str, ...] = ()
    value: float | None = None
    #: The contender of ours that is measured by it; default: the first one that takes part.
    ours: str | None = None


@dataclass(frozen=True)
class Sizes:
    full: int
    quick: int
    #: Smaller sizes for contenders that would take minutes.
    smaller: dict[str, int] = field(default_factory=dict)

    def of(self, contender: str, quick: bool) -> int:
        size = min(self.full, self.smaller.get(contender, self.full))
        return min(size, self.quick) if quick else size


def check(condition: bool, message: str = "wrong results") -> None:
    """:raises Wrong: unless ``condition`` holds."""
    if not condition:
        raise Wrong(message)


def names() -> list[str]:
    """All workloads, in the order of the report (``ORDER`` of their package)."""
    from benchmarks import workloads

    found = [module.name for module in pkgutil.iter_modules(workloads.__path__)]
    return sorted(found, key=lambda name: (workloads.ORDER.index(name) if name in workloads.ORDER else 99, name))


def load(name: str) -> Any:
    return importlib.import_module(f"benchmarks.workloads.{name}")


def title(name: str) -> str:
    return _description(name)[0].rstrip(".")


def explanation(name: str) -> str:
    return _description(name)[1].strip()


def _description(name: str) -> tuple[str, str]:
    """First line and the rest; nothing is imported, so that what is not installed need not be."""
    from benchmarks import workloads

    source = Path(workloads.__path__[0], f"{name}.py").read_text(encoding="utf-8")
    first, _, rest = str(ast.get_docstring(ast.parse(source))).strip().partition("\n")
    return first, rest
