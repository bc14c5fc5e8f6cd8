"""How the by-value picklers take apart what plain ``pickle`` cannot carry, and what of it is made anew elsewhere."""

from __future__ import annotations

import contextvars
import dataclasses
import functools
import io
import os
import queue
import sys
import threading
import types
import typing
import weakref
from collections.abc import Callable
from typing import Any

from distpool.code import rebuild

Reduced = tuple[Any, ...]
Reducer = Callable[[Any], "Reduced | str"]


# -- carried by value -------------------------------------------------------------------------------------------------


def _cell(cell: types.CellType) -> Reduced:
    try:
        contents = cell.cell_contents
    except ValueError:
        return (rebuild.make_cell, ())
    # The cell comes first and its contents after it: a recursive function is in its own cell.
    return (rebuild.make_cell, (), (contents,), None, None, rebuild.set_cell)


def _cached_property(value: Any) -> Reduced:
    attributes = {k: v for k, v in value.__dict__.items() if k not in ("func", "lock")}
    return (
        rebuild.make_cached_property,
        (type(value), value.func),
        attributes,
        None,
        None,
        rebuild.set_cached_property,
    )


def _refuse_file(value: Any) -> Reduced:
    # cloudpickle would send the contents of text files; a task that gets a file must get an error, as everywhere.
    raise TypeError(f"cannot pickle '{type(value).__module__}.{type(value).__qualname__}' object")


def _environment(value: Any) -> Reduced | str:
    # The environment of the process that it is used in: ``submit(os.environ.get, name)`` asks there.
    for name in ("environ", "environb"):
        if value is getattr(os, name, None):
            return name
    reduced: Reduced = value.__reduce_ex__(5)
    return reduced


def _weak_dictionary(value: Any) -> Reduced:
    return (type(value), (dict(value.items()),))


ALWAYS: dict[type, Reducer] = {
    types.CellType: _cell,
    functools.cached_property: _cached_property,
    io.TextIOWrapper: _refuse_file,
    type(os.environ): _environment,
    weakref.WeakKeyDictionary: _weak_dictionary,
    weakref.WeakValueDictionary: _weak_dictionary,
    # By name, so that ``field.default is MISSING`` goes on being true.
    type(dataclasses.MISSING): lambda _: "MISSING",
    type(dataclasses._HAS_DEFAULT_FACTORY): lambda _: "_HAS_DEFAULT_FACTORY",  # type: ignore[attr-defined]
    type(dataclasses.KW_ONLY): lambda _: "KW_ONLY",
}


# -- objects that pickle themselves by name, for when they have none --------------------------------------------------


def _lru_cache(value: Any) -> Reduced:
    parameters = value.cache_parameters()
    attributes = {k: v for k, v in value.__dict__.items() if k != "cache_parameters"}
    return (rebuild.make_lru_cache, (value.__wrapped__, parameters["maxsize"], parameters["typed"], attributes))


def _type_variable(value: Any) -> Reduced:
    keywords = {"bound": value.__bound__, "covariant": value.__covariant__, "contravariant": value.__contravariant__}
    if type(value) is typing.ParamSpec:
        arguments: tuple[Any, ...] = ()
    else:
        arguments = value.__constraints__
    return (rebuild.make_type_variable, (type(value), value.__name__, arguments, keywords, value.__module__))


def _type_variable_tuple(value: Any) -> Reduced:
    return (rebuild.make_type_variable, (type(value), value.__name__, (), {}, value.__module__))


def _new_type(value: Any) -> Reduced:
    arguments = (value.__supertype__,)
    return (rebuild.make_type_variable, (type(value), value.__name__, arguments, {}, value.__module__))


def _type_alias(value: Any) -> Reduced:
    keywords = {"type_params": value.__type_params__}
    arguments = (value.__value__,)
    return (rebuild.make_type_variable, (type(value), value.__name__, arguments, keywords, value.__module__))


NAMED: dict[type, Reducer] = {
    functools._lru_cache_wrapper: _lru_cache,
    typing.TypeVar: _type_variable,
    typing.ParamSpec: _type_variable,
}
if isinstance(typing.NewType, type):
    NAMED[typing.NewType] = _new_type
if hasattr(typing, "TypeVarTuple"):
    NAMED[typing.TypeVarTuple] = _type_variable_tuple
if hasattr(typing, "TypeAliasType"):
    NAMED[typing.TypeAliasType] = _type_alias


def single_dispatch(function: types.FunctionType) -> Reduced | None:
    """For a ``functools.singledispatch`` function, which cannot be copied cell by cell; None for others."""
    registry = function.__dict__.get("registry")
    if type(registry) is not types.MappingProxyType or "_clear_cache" not in function.__dict__:
        return None
    implementations = [item for item in registry.items() if item[0] is not object]
    default = registry[object]
    return (
        rebuild.make_single_dispatch,
        (default,),
        implementations,
        None,
        None,
        rebuild.set_single_dispatch,
    )


# -- made anew with a definition (never for arguments, where sharing might have been meant) ---------------------------


def _event(value: Any) -> Reduced:
    return (rebuild.make_event, (value.is_set(),))


def _semaphore(value: Any) -> Reduced:
    return (rebuild.make_semaphore, (type(value), value._value, getattr(value, "_initial_value", None)))


def _barrier(value: Any) -> Reduced:
    return (threading.Barrier, (value._parties, value._action, value._timeout))


def _condition(value: Any) -> Reduced:
    return (threading.Condition, (value._lock,))


def _context_variable(value: contextvars.ContextVar[Any]) -> Reduced:
    try:
        held: tuple[Any, ...] = (value.get(),)
    except LookupError:
        held = ()
    return (rebuild.make_context_variable, (value.name, held))


def _module(value: types.ModuleType) -> Reduced:
    return (rebuild.import_module, (value.__name__,))


def _stream(value: Any) -> Reduced:
    reduced = standard_stream(value)
    return _refuse_file(value) if reduced is None else reduced


def standard_stream(value: Any) -> Reduced | None:
    """A reference to one of the process' own streams, which has its equivalent in every process."""
    for name in ("stdout", "stderr", "stdin", "__stdout__", "__stderr__", "__stdin__"):
        if getattr(sys, name, None) is value:
            return (getattr, (sys, name))
    return None


FRESH: dict[type, Reducer] = {
    type(threading.Lock()): lambda _: (threading.Lock, ()),
    type(threading.RLock()): lambda _: (threading.RLock, ()),
    threading._RLock: lambda _: (threading.RLock, ()),
    threading.Event: _event,
    threading.Semaphore: _semaphore,
    threading.BoundedSemaphore: _semaphore,
    threading.Barrier: _barrier,
    threading.Condition: _condition,
    threading.local: lambda _: (threading.local, ()),
    queue.SimpleQueue: lambda _: (queue.SimpleQueue, ()),
    contextvars.ContextVar: _context_variable,
    io.TextIOWrapper: _stream,
    types.ModuleType: _module,
}

#: With fresh locks these could be copied, but the copies would wait for threads that exist in one process only.
_PROCESS_BOUND = (
    ("threading", "Thread"),
    ("concurrent.futures", "Executor"),
    ("concurrent.futures", "Future"),
    ("asyncio", "AbstractEventLoop"),
)


@functools.lru_cache(maxsize=1024)
def is_process_bound(kind: Any) -> bool:
    """Whether a type's instances belong to one process, and have no say of their own in how they are pickled."""
    plain: Any = object
    if kind.__reduce_ex__ is not plain.__reduce_ex__ or kind.__reduce__ is not plain.__reduce__:
        return False
    for module_name, name in _PROCESS_BOUND:
        # A module that is not loaded has no instances.
        base = getattr(sys.modules.get(module_name), name, None)
        if base is not None and issubclass(kind, base):
            return True
    return False
