"""Options per call, which live beside ``submit`` so that no keyword of the user's function is swallowed.

``with options(timeout_s=5): executor.submit(f, x)`` applies to every call made in the block, in this thread or
asynchronous task, through every front door; ``executor.with_options(timeout_s=5).submit(f, x)`` to that handle's calls.
"""

from __future__ import annotations

import contextlib
import contextvars
import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from distpool.wire.resources import Shape

#: Where workers go: over the nodes as evenly as possible, or on as few as possible.
STRATEGIES = ("spread", "pack")


class TaskOptions(NamedTuple):
    """What may be asked of a single task.  ``None`` means: as the pool says.

    :param timeout_s: how long it may run before it is stopped and its future gets ``TaskTimeoutError``.
    :param max_retries: how often it runs again when its worker dies (0: at most once).
    :param num_cpus: how many of the pool's slots it takes.
    :param num_gpus: GPUs it needs: a fraction of one, or whole ones; its worker sees these and no others.
    :param resources: custom resources it needs, by name.
    :param memory_bytes: memory it needs, of what the node has.
    :param strategy: ``"spread"`` over the nodes, or ``"pack"`` on as few as possible.
    :param gang: the call runs on so many workers at once, and its result is the list of theirs (see ``distpool.gang``).
    :param readonly: hand out stored arrays as read-only views.
    """

    timeout_s: float | None = None
    max_retries: int | None = None
    num_cpus: float | None = None
    num_gpus: float | None = None
    resources: tuple[tuple[str, float], ...] | None = None
    memory_bytes: int | None = None
    strategy: str | None = None
    gang: int | None = None
    readonly: bool | None = None

    @property
    def shape(self) -> Shape:
        """The lease that such a task needs."""
        from distpool.wire.resources import Shape

        return Shape(
            1.0 if self.num_cpus is None else self.num_cpus,
            self.num_gpus or 0.0,
            self.memory_bytes or 0,
            self.resources or (),
            # Workers that work together are near each other unless told otherwise.
            self.strategy == "pack" or (self.gang is not None and self.strategy is None),
            self.gang or 0,
        )


DEFAULT = TaskOptions()
_current: contextvars.ContextVar[TaskOptions] = contextvars.ContextVar("distpool_options", default=DEFAULT)


def current() -> TaskOptions:
    """The options in force in this context."""
    return _current.get()


@contextlib.contextmanager
def options(**overrides: Any) -> Iterator[TaskOptions]:
    """Options for the calls made in a ``with`` block; nested blocks add to and override outer ones.

    :raises TypeError: for an unknown option or a value of the wrong type.
    :raises ValueError: for a value out of range.
    """
    token = _current.set(merge(_current.get(), overrides))
    try:
        yield _current.get()
    finally:
        _current.reset(token)


def merge(base: TaskOptions, overrides: Mapping[str, Any]) -> TaskOptions:
    """``base`` with ``overrides`` checked and applied (errors as for ``options``)."""
    checked: dict[str, Any] = {}
    for name, value in overrides.items():
        if name not in TaskOptions._fields:
            known = ", ".join(TaskOptions._fields)
            raise TypeError(f"unknown option {name!r}; known options are {known}")
        checked[name] = None if value is None else _check(name, value)
    return base._replace(**checked)


def _check(name: str, value: Any) -> Any:
    if name == "readonly":
        if not isinstance(value, bool):
            raise TypeError(f"option readonly must be True or False, not {value!r}")
        return value
    if name == "resources":
        if not isinstance(value, Mapping):
            raise TypeError(f"option resources must be a mapping of names to amounts, not {type(value).__name__}")
        return tuple(sorted((str(k), _number(f"resources[{k!r}]", v, minimum=0)) for k, v in value.items()))
    if name in ("max_retries", "memory_bytes", "gang"):
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"option {name} must be an integer, not {value!r}")
        if value < 0:
            raise ValueError(f"option {name} must not be negative, got {value}")
        if name == "gang" and not value:
            raise ValueError("option gang must be positive")
        return value
    if name == "strategy":
        if not isinstance(value, str):
            raise TypeError(f"option strategy must be a string, not {type(value).__name__}")
        if value not in STRATEGIES:
            raise ValueError(f"option strategy must be one of {', '.join(map(repr, STRATEGIES))}, not {value!r}")
        return value
    number = _number(name, value, minimum=0)
    if name == "num_gpus" and number > 1 and number != round(number):
        raise ValueError(f"option num_gpus must be a fraction of one GPU or a whole number of them, got {value!r}")
    if name in ("timeout_s", "num_cpus") and number == 0:
        raise ValueError(f"option {name} must be positive")
    return number


def _number(name: str, value: Any, minimum: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"option {name} must be a number, not {value!r}")
    if not math.isfinite(value) or value < minimum:
        raise ValueError(f"option {name} must be finite and at least {minimum:g}, got {value!r}")
    return float(value)
