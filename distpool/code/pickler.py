"""Pickling by value what plain ``pickle`` cannot carry: lambdas, closures, local classes.

This is the entrance for the rest of the library; ``by_value`` does the work and is imported when it is first needed,
because it brings cloudpickle with it.
"""

from __future__ import annotations

import pickle
import types
from collections.abc import Callable
from typing import Any

from distpool.code.names import home, module_of_globals


def dumps(obj: Any, buffer_callback: Callable[[pickle.PickleBuffer], Any] | None = None) -> bytes:
    """A pickle of ``obj`` that ``pickle.loads`` reads in a process with a loader, or in the driver.

    :param buffer_callback: as for ``pickle.dumps``.
    :raises Exception: whatever pickling raises; ``diagnosis.explain`` makes it understandable.
    """
    from distpool.code import by_value

    return by_value.dumps(obj, buffer_callback)


def register(kind: type, reducer: Callable[[Any], Any]) -> None:
    """Let ``dumps`` use ``reducer`` for objects of exactly this type."""
    from distpool.code import by_value

    by_value.register(kind, reducer)


_BUILTIN_TYPES = (types.BuiltinFunctionType, types.MethodDescriptorType, types.WrapperDescriptorType)
#: Types whose instances never change.
IMMUTABLE = frozenset({int, float, complex, bool, str, bytes, type(None), range, type(Ellipsis)})


def function_is_stable(function: Any) -> bool:
    """Whether the pickled form of a callable can never change, so that it may be kept for as long as the callable.

    True for what can be found by name, and for functions without one whose variables and defaults are immutable.
    """
    kind = type(function)
    if kind in _BUILTIN_TYPES:
        owner = getattr(function, "__self__", None)
        return owner is None or isinstance(owner, (types.ModuleType, type))
    if kind is types.FunctionType:
        return home(function) is not None or _is_closed(function)
    if isinstance(function, type) or hasattr(function, "__wrapped__"):
        return home(function) is not None
    return False


def _is_closed(function: types.FunctionType) -> bool:
    """Whether a function without a name holds nothing that could change."""
    if function.__dict__ or not (_are_immutable(function.__defaults__) and not function.__kwdefaults__):
        return False
    # A variable of a closure may be rebound by the function around it at any time, and nothing here would tell.
    return not function.__closure__ and module_of_globals(function.__globals__) is not None


def _are_immutable(values: tuple[Any, ...] | None) -> bool:
    return values is None or all(type(value) in IMMUTABLE for value in values)
