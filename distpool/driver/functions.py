"""Callables by number: the driver's memory of which functions it has packed, so that each travels once per worker."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from distpool.driver.task import Function
from distpool.wire.driver_to_worker import Value

#: What tasks name whose callable travels inside the payload.
_IN_PAYLOAD = 0


class FunctionTable:
    """One per session.

    :param pack: the object store's ``pack``.
    :param is_stable: whether a callable's packed form can never change (see ``distpool.code.pickler``).
    """

    def __init__(self, pack: Callable[[Any], Any], is_stable: Callable[[Any], bool]) -> None:
        self._pack = pack
        self._is_stable = is_stable
        self._known: dict[int, tuple[Callable[[], Any], Function]] = {}
        self._next_number = 1

    def find(self, function: Any) -> Function | None:
        """The entry of a callable that was used before, or can be sent by number; None: put it into the payload."""
        known = self._known.get(id(function))
        if known is not None and known[0]() is function:
            return known[1]
        return self._register(function)

    def _register(self, function: Any) -> Function | None:
        if not self._is_stable(function):
            return None
        packed = self._pack(function)
        if packed.dependencies:
            return None
        key = id(function)
        try:
            reference: Callable[[], Any] = weakref.ref(function, self._forget(key))
        except TypeError:
            # Some builtins cannot be referred to weakly; they are few and live for ever.
            reference = _Strong(function)
        entry = Function(self._next_number, name_of(function), packed.value, packed)
        self._next_number += 1
        self._known[key] = (reference, entry)
        return entry

    def _forget(self, key: int) -> Callable[[Any], None]:
        def forget(_: Any) -> None:
            self._known.pop(key, None)

        return forget


class _Strong:
    __slots__ = ("_value",)

    def __init__(self, value: Any) -> None:
        self._value = value

    def __call__(self) -> Any:
        return self._value


def in_payload(function: Any) -> Function:
    """The entry for a callable that travels with its task."""
    return Function(_IN_PAYLOAD, name_of(function), _EMPTY)


def name_of(function: Any) -> str:
    """A callable's name for people."""
    inner = getattr(function, "func", None)
    if inner is not None and not hasattr(function, "__qualname__"):
        return f"partial({name_of(inner)})"
    name = getattr(function, "__qualname__", None)
    if not isinstance(name, str):
        return type(function).__qualname__
    module = getattr(function, "__module__", None)
    return f"{module}.{name}" if isinstance(module, str) and module not in ("__main__", "builtins") else name


_EMPTY = Value(b"")
