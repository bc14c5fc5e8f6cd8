"""Definitions of what most programs give their workers: functions of nothing but code, and plain values.

``by_value`` writes everything else.  It brings cloudpickle with it, ``dataclasses`` and ``inspect``, which take
milliseconds to import and make Python's end longer.
"""

from __future__ import annotations

import builtins
import marshal
import pickle
import types
from typing import Any

import msgspec

from distpool.code import rebuild
from distpool.code.annotations import annotations_of
from distpool.code.names import (
    GlobalNames,
    global_names,
    home,
    imported_submodules,
    is_builtin,
    is_served_by_name,
    module_of_globals,
)
from distpool.code.payloads import Call, call_payload
from distpool.code.pickler import IMMUTABLE

#: Larger values may go through the store.
_LARGEST_BYTES = 1 << 16


class Plain(msgspec.Struct, frozen=True):
    """A pickle, the globals that it needs, and the builtins among them that a global could hide."""

    payload: bytes
    needed: set[str]
    shadowable: set[str]


def write(module_name: str, name: str, value: Any) -> Plain | None:
    """The definition of ``name`` in a module that is served by name; None when that is not so simple."""
    if type(value) in IMMUTABLE:
        payload = pickle.dumps(value, 5)
        return Plain(payload, set(), set()) if len(payload) < _LARGEST_BYTES else None
    if isinstance(value, types.ModuleType):
        make = rebuild.import_module if is_served_by_name(value.__name__) else rebuild.import_lazily
        return Plain(call_payload(make, (value.__name__,)), set(), set())
    if type(value) is types.FunctionType:
        return _write_function(module_name, name, value)
    return None


def _write_function(module_name: str, name: str, function: types.FunctionType) -> Plain | None:
    if function.__closure__ or function.__dict__ or getattr(function, "__type_params__", None):
        return None
    if module_of_globals(function.__globals__) != module_name or function.__module__ != module_name:
        return None
    if home(function) not in (None, (module_name, name)):
        return None  # it is the same function under another name, and remains it
    annotations = annotations_of(function)
    defaults, kwdefaults = function.__defaults__, function.__kwdefaults__
    if not all(map(_is_plain, (*(defaults or ()), *(kwdefaults or {}).values(), *annotations.values()))):
        return None
    code = function.__code__
    try:
        marshalled = marshal.dumps(code)
    except ValueError:  # somebody has put other constants into it than a compiler does
        return None
    names = global_names(code)
    needed, shadowable = needed_names(names, function.__globals__)
    submodules = submodules_in(names, function.__globals__, code)
    state: tuple[Any, ...] = (
        *(function.__name__, function.__qualname__, function.__module__, function.__doc__),
        *(defaults, kwdefaults, annotations, {}, ()),
    )
    arguments = (module_name, Call(rebuild.make_code, (marshalled,)), None, tuple(submodules), name, None)
    made = Call(rebuild.make_function, arguments, state, rebuild.set_function_state)
    return Plain(pickle.dumps(made, 5), needed, shadowable)


def needed_names(names: GlobalNames, namespace: dict[str, Any]) -> tuple[set[str], set[str]]:
    """Of the globals that code uses: those that a worker must ask for, and the builtins that a global could hide."""
    needed: set[str] = set()
    shadowable: set[str] = set()
    for name in names.read:
        (needed if name in namespace or not is_builtin(name) else shadowable).add(name)
    needed.update(name for name in names.hinted if name in namespace)
    return needed, shadowable


def submodules_in(names: GlobalNames, namespace: dict[str, Any], code: types.CodeType) -> list[str]:
    """Submodules that code reaches through the packages among its globals."""
    found: list[str] = []
    for name in names.read:
        value = namespace.get(name)
        if isinstance(value, types.ModuleType) and type(value) is types.ModuleType:
            found += imported_submodules(value, code)
    return found


def _is_plain(value: Any) -> bool:
    """Whether it is immutable, or a builtin type (of an annotation)."""
    return type(value) in IMMUTABLE or (type(value) is type and getattr(builtins, value.__name__, None) is value)
