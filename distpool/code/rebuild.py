"""What by-value pickles call when they are loaded: functions, classes and the like are made again here.

Runs in workers, and in the driver when a task returns such an object.  The worker's ``loader`` hooks in to fetch names
of the driver's program; without one (in the driver) every name is already here.
"""

from __future__ import annotations

import importlib
import marshal
import sys
import threading
import types
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Protocol

from distpool.code.names import lookup

if TYPE_CHECKING:

    class NameSource(Protocol):
        """The worker's loader, as far as unpickling needs it."""

        def need(self, module_name: str, names: tuple[str, ...]) -> None:
            """Make these globals of a module present before code that uses them runs."""

        def born(self, module_name: str, name: str, value: Any) -> Any:
            """A definition has come into being, though not yet complete; returns the one that counts."""

        def version(self, module_name: str, name: str, token: str) -> Any:
            """One exact version of a function or class, whatever its name means by now."""

        def replace(self, old: Any, new: Any) -> None:
            """Bind names that mean ``old`` to ``new``."""


_source: NameSource | None = None


def set_source(source: NameSource | None) -> None:
    """The loader that answers from now on."""
    global _source
    _source = source


# -- names ------------------------------------------------------------------------------------------------------------


def need(module_name: str, *names: str) -> None:
    """Stands at the head of a pickle whose functions use these globals."""
    if _source is not None:
        _source.need(module_name, names)


def by_name(module_name: str, name: str) -> Any:
    """A global of a module that is served by name."""
    return lookup(_module(module_name), name)


def version(module_name: str, name: str, token: str) -> Any:
    """See ``NameSource.version``."""
    if _source is None:
        return by_name(module_name, name)
    return _source.version(module_name, name, token)


def builtin_type(name: str) -> Any:
    """A type that only the module ``types`` has a name for."""
    return getattr(types, name)


def _module(name: str) -> types.ModuleType:
    return sys.modules.get(name) or importlib.import_module(name)


# -- functions --------------------------------------------------------------------------------------------------------


def make_code(marshalled: bytes) -> types.CodeType:
    """The code of a function; driver and workers have the same version of Python."""
    code: types.CodeType = marshal.loads(marshalled)
    return code


def make_function(
    module_name: str,
    code: types.CodeType,
    closure: tuple[types.CellType, ...] | None,
    submodules: tuple[str, ...],
    definition: str | None,
    settings: dict[str, Any] | None = None,
) -> Any:
    """A function whose globals are those of the module of this name, still without its state."""
    for submodule in submodules:
        _import_submodule(submodule)
    if settings and _source is not None:
        _apply_settings(module_name, settings)
    function = types.FunctionType(code, _module(module_name).__dict__, code.co_name, None, closure)
    return _born(module_name, definition, function)


#: By module, the plain values that globals of importable modules had in the driver when it last mentioned them.
_settings: dict[str, dict[str, Any]] = {}


def _apply_settings(module_name: str, settings: dict[str, Any]) -> None:
    """Follow the driver's program, which may have rebound globals since this process imported the module.

    What the worker set itself (in an initializer, say) stays until the driver's own value changes.
    """
    is_new = module_name not in sys.modules
    namespace = _module(module_name).__dict__
    mentioned = _settings.setdefault(module_name, {})
    for name, value in settings.items():
        if isinstance(value, types.ModuleType):
            namespace.setdefault(name, value)
            continue
        if is_new or name not in namespace or (name in mentioned and not _is_same(mentioned[name], value)):
            namespace[name] = value
        mentioned[name] = value


def _is_same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and repr(one) == repr(other)  # as text, for NaN and negative zero


def set_function_state(function: types.FunctionType, state: tuple[Any, ...]) -> None:
    """The counterpart of the pickler's function state."""
    name, qualname, module, doc, defaults, kwdefaults, annotations, attributes, type_params = state
    function.__name__ = name
    function.__qualname__ = qualname
    function.__module__ = module
    function.__doc__ = doc
    function.__defaults__ = defaults
    function.__kwdefaults__ = kwdefaults
    if annotations:
        function.__annotations__ = annotations
    if attributes:
        function.__dict__.update(attributes)
    if type_params:
        function.__type_params__ = type_params  # type: ignore[attr-defined]


def make_cell() -> types.CellType:
    """An empty cell; functions that share a variable share its cell."""
    return types.CellType()


def set_cell(cell: types.CellType, contents: tuple[Any]) -> None:
    """Fill a cell."""
    cell.cell_contents = contents[0]


def _born(module_name: str, definition: str | None, value: Any) -> Any:
    if definition is None or _source is None:
        return value
    return _source.born(module_name, definition, value)


# -- classes ----------------------------------------------------------------------------------------------------------

#: Classes whose state is still to come.  A class that was here before (its definition came along a second time, or it
#: is the driver's own, coming home) keeps its state.
_unfinished: set[type] = set()


def make_class(definition: tuple[str, str] | None, is_enum: bool, slots: Any, arguments: tuple[Any, ...]) -> Any:
    """A class without its contents, or the class itself if this process has it."""
    from cloudpickle import cloudpickle

    tracker = arguments[-2]
    known = cloudpickle._DYNAMIC_CLASS_TRACKER_BY_ID.get(tracker)
    if known is None:
        if is_enum:
            made = cloudpickle._make_skeleton_enum(*arguments)
        else:
            constructor, name, bases, namespace = arguments[:4]
            if slots is not None:
                namespace = {**namespace, "__slots__": slots}
            made = _new_class(constructor, name, bases, namespace)
            made = cloudpickle._lookup_class_or_track(tracker, made)
        known = made
        _unfinished.add(known)
    if definition is not None:
        known = _born(definition[0], definition[1], known)
    return known


def set_class_state(cls: type, state: tuple[Any, Any]) -> type:
    """Fill a class that ``make_class`` made."""
    if cls not in _unfinished:
        return cls
    from cloudpickle import cloudpickle

    _unfinished.discard(cls)
    cloudpickle._class_setstate(cls, state)
    return cls


class _NoHooks:
    """A base that lets a class come into being without calling its bases' ``__init_subclass__``."""


def _new_class(constructor: Any, name: str, bases: tuple[Any, ...], namespace: dict[str, Any]) -> Any:
    try:
        return types.new_class(name, bases, {"metaclass": constructor}, lambda into: into.update(namespace))
    except Exception:
        # Hooks that want keywords or attributes which an empty class does not have.  They have already run for this
        # class where it was defined; here it only has to exist.
        try:
            made: Any = type.__new__(constructor, name, (_NoHooks,), dict(namespace))
            made.__bases__ = bases
        except Exception:
            made = None
        if made is None:
            raise
        return made


def make_typed_dict(definition: tuple[str, str] | None, name: str, module: str, parts: tuple[Any, ...]) -> Any:
    """A ``TypedDict`` class."""
    import typing

    annotations, total, required, optional, doc = parts
    factory: Any = typing.TypedDict
    made = factory(name, annotations, total=total)
    made.__module__ = module
    made.__required_keys__ = required
    made.__optional_keys__ = optional
    made.__doc__ = doc
    return made if definition is None else _born(definition[0], definition[1], made)


# -- things that functions and classes are wrapped in -----------------------------------------------------------------


def make_lru_cache(function: Callable[..., Any], maxsize: int | None, typed: bool, attributes: dict[str, Any]) -> Any:
    """An ``lru_cache`` of its own, empty."""
    import functools

    cached = functools.lru_cache(maxsize, typed)(function)
    cached.__dict__.update(attributes)
    return cached


def make_single_dispatch(function: Callable[..., Any]) -> Any:
    """A generic function that knows its default only."""
    import functools

    return functools.singledispatch(function)


def set_single_dispatch(generic: Any, implementations: Iterable[tuple[Any, Any]]) -> None:
    """Register the implementations."""
    for cls, implementation in implementations:
        generic.register(cls, implementation)


def make_cached_property(kind: Any, function: Any) -> Any:
    """``functools.cached_property``, which holds a lock before Python 3.12."""
    return kind(function)


def set_cached_property(made: Any, attributes: dict[str, Any]) -> None:
    """Set its name."""
    made.__dict__.update(attributes)


def make_type_variable(kind: Any, name: str, arguments: tuple[Any, ...], keywords: dict[str, Any], module: Any) -> Any:
    """``TypeVar``, ``ParamSpec``, ``TypeVarTuple``, ``NewType`` or a type alias."""
    made = kind(name, *arguments, **keywords)
    try:
        made.__module__ = module
    except AttributeError:
        pass  # type aliases take theirs from the caller's frame
    return made


# -- fresh equivalents ------------------------------------------------------------------------------------------------


def make_event(is_set: bool) -> threading.Event:
    """An event in the given state, with nobody waiting."""
    event = threading.Event()
    if is_set:
        event.set()
    return event


def make_semaphore(kind: Any, value: int, bound: int | None) -> Any:
    """A semaphore with the given count, with nobody waiting."""
    semaphore = kind(value if bound is None else bound)
    semaphore._value = value
    return semaphore


def make_context_variable(name: str, value: tuple[Any, ...]) -> Any:
    """A context variable of that name whose value here is the driver's."""
    import contextvars

    return contextvars.ContextVar(name, default=value[0]) if value else contextvars.ContextVar(name)


# -- modules ----------------------------------------------------------------------------------------------------------


def import_module(name: str) -> types.ModuleType:
    """The module, imported now."""
    return _module(name)


def import_lazily(name: str) -> types.ModuleType:
    """The module if it is loaded, else one that imports itself when it is first used.

    A global such as ``plt`` that only some paths of a function use must not cost every task its import.
    """
    module = sys.modules.get(name)
    if module is None:
        module = unresolved.get(name)
        if module is None:
            module = unresolved[name] = LazyModule(name)
    return module


#: By name, those that stand for a module which this process has not imported yet.
unresolved: dict[str, LazyModule] = {}


#: For packages that are still to be imported: submodules that code expects to have been imported as well.
_submodules: dict[str, set[str]] = {}


def _import_submodule(name: str) -> None:
    package = name.partition(".")[0]
    if package in sys.modules:
        try:
            _module(name)
        except ImportError:
            pass  # whoever uses it gets the AttributeError
    else:
        _submodules.setdefault(package, set()).add(name)


class LazyModule(types.ModuleType):
    """Stands for a module in the globals of ``__main__`` until its first use, then puts the module in its place."""

    def __getattribute__(self, name: str) -> Any:
        if name in ("__class__", "__name__", "__reduce__", "__reduce_ex__"):
            return super().__getattribute__(name)
        return getattr(_resolve(self), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(_resolve(self), name, value)

    def __delattr__(self, name: str) -> None:
        delattr(_resolve(self), name)

    def __dir__(self) -> Iterable[str]:
        return dir(_resolve(self))

    def __reduce__(self) -> tuple[Any, ...]:
        return (import_lazily, (self.__name__,))


def _resolve(lazy: LazyModule) -> types.ModuleType:
    name = lazy.__name__
    module = importlib.import_module(name)
    for submodule in sorted(_submodules.pop(name.partition(".")[0], ())):
        _import_submodule(submodule)
    imported(name)
    return module


def imported(name: str) -> None:
    """A module is here: from now on globals mean the module itself."""
    lazy = unresolved.pop(name, None)
    if lazy is not None and _source is not None and name in sys.modules:
        _source.replace(lazy, sys.modules[name])
