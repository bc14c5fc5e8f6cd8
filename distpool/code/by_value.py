"""The picklers that write functions and classes by value.

``ByValuePickler`` is for arguments and results that plain ``pickle`` refuses; ``DefinitionPickler`` for what a module
of the driver's program binds to a name.  Both leave what can be found by name as a name.
"""

from __future__ import annotations

import io
import pickle
import sys
import types
import typing
from collections import ChainMap
from collections.abc import Callable
from enum import Enum
from typing import Any, ClassVar

from cloudpickle import cloudpickle

from distpool.code import rebuild, reducers
from distpool.code.annotations import annotations_of
from distpool.code.names import (
    global_names,
    home,
    imported_submodules,
    is_served_by_name,
    is_setting,
    module_of_globals,
)
from distpool.code.payloads import needs
from distpool.code.placeholder import Unavailable
from distpool.code.plain import needed_names, submodules_in
from distpool.sharing.reducers import dispatch_table

#: Reducers of other parts of the library for types that plain ``pickle`` refuses, see ``register``.
_registered: dict[type, Callable[[Any], Any]] = {}


def register(kind: type, reducer: Callable[[Any], Any]) -> None:
    """Let the by-value picklers use ``reducer`` for objects of exactly this type."""
    _registered[kind] = reducer


class ByValuePickler(cloudpickle.Pickler):  # type: ignore[misc]
    """See the module's description.

    After ``dump``, ``needed`` has the globals, by module, that the functions in the pickle use and that a worker must
    ask for; ``shadowable`` the builtins that they use; ``referenced`` the globals that the pickle names.
    """

    dispatch_table: ClassVar[Any] = ChainMap(_registered, reducers.ALWAYS, cloudpickle.Pickler.dispatch_table)

    def __init__(self, file: Any, buffer_callback: Callable[[pickle.PickleBuffer], Any] | None = None) -> None:
        shared = dispatch_table()
        if shared is not None:
            # Before the base looks for it.
            own: ChainMap[Any, Any] = type(self).dispatch_table
            self.__dict__["dispatch_table"] = ChainMap(*own.maps, shared)
        super().__init__(file, protocol=5, buffer_callback=buffer_callback)
        self.needed: dict[str, set[str]] = {}
        self.referenced: set[tuple[str, str]] = set()
        self.shadowable: set[str] = set()

    def reducer_override(self, obj: Any) -> Any:
        """Called by ``pickle`` for everything but instances of a few builtin types."""
        kind = type(obj)
        if kind is types.FunctionType:
            return NotImplemented if self.found_by_name(obj) else self._reduce_function(obj)
        try:
            if issubclass(kind, type):
                return self._reduce_class(obj)
        except TypeError:
            pass  # what calls itself a type and is none
        named = reducers.NAMED.get(kind)
        if named is not None:
            return NotImplemented if self.found_by_name(obj) else named(obj)
        return NotImplemented

    def found_by_name(self, obj: Any) -> bool:
        """Whether ``obj`` can be found by name here, and therefore there."""
        place = home(obj)
        if place is None:
            return False
        module_name, qualname = place
        if is_served_by_name(module_name):
            name = qualname.partition(".")[0]
            if self.defines(module_name, name):
                return False
            self.referenced.add((module_name, name))
            return True
        return not cloudpickle._is_registered_pickle_by_value(sys.modules[module_name])

    def defines(self, module_name: str, name: str) -> bool:
        """Whether this pickle is the one that gives that name its meaning."""
        return False

    def definition_name(self, obj: Any) -> str | None:
        """The name whose definition ``obj`` is."""
        return None

    def alias(self, value: Any) -> Any:
        """What to write for a value that a function or class holds."""
        return value

    # -- functions ----------------------------------------------------------------------------------------------------

    def _reduce_function(self, function: types.FunctionType) -> Any:
        generic = reducers.single_dispatch(function)
        if generic is not None:
            return generic
        namespace = function.__globals__
        module_name = module_of_globals(namespace)
        if module_name is None or cloudpickle._is_registered_pickle_by_value(sys.modules[module_name]):
            return self._reduce_with_namespace(function)
        code = function.__code__
        names = global_names(code)
        submodules = submodules_in(names, namespace, code)
        for value in _cell_contents(function):
            if type(value) is types.ModuleType:
                submodules += imported_submodules(value, code)
        if is_served_by_name(module_name):
            needed, shadowable = needed_names(names, namespace)
            self.needed.setdefault(module_name, set()).update(needed)
            self.shadowable.update(shadowable)
            settings = None
        else:
            present = {name: namespace[name] for name in names.read if name in namespace}
            settings = {name: value for name, value in present.items() if is_setting(name, value)}
        annotations = annotations_of(function)
        defaults, kwdefaults = function.__defaults__, function.__kwdefaults__
        state = (
            function.__name__,
            function.__qualname__,
            function.__module__,
            function.__doc__,
            defaults and tuple(self.alias(value) for value in defaults),
            kwdefaults and {name: self.alias(value) for name, value in kwdefaults.items()},
            annotations,
            {name: self.alias(value) for name, value in function.__dict__.items()},
            getattr(function, "__type_params__", ()),
        )
        definition = self.definition_name(function)
        arguments = (module_name, code, function.__closure__, tuple(submodules), definition, settings)
        return (rebuild.make_function, arguments, state, None, None, rebuild.set_function_state)

    def _reduce_with_namespace(self, function: types.FunctionType) -> Any:
        """With a copy of those of its globals that it uses, for a function whose globals no module has."""
        reduced = self._dynamic_function_reduce(function)
        type_params = getattr(function, "__type_params__", ())
        if type_params:
            reduced[2][1]["__type_params__"] = type_params
        return reduced

    # -- classes ------------------------------------------------------------------------------------------------------

    def _reduce_class(self, cls: Any) -> Any:
        if cls in (type(None), type(Ellipsis), type(NotImplemented)):
            return cloudpickle._class_reduce(cls)
        if cls in cloudpickle._BUILTIN_TYPE_NAMES:  # the worker need not import cloudpickle for a function
            return (rebuild.builtin_type, (cloudpickle._BUILTIN_TYPE_NAMES[cls],))
        if self.found_by_name(cls):
            return NotImplemented
        name = self.definition_name(cls)
        definition = None if name is None else (cls.__module__, name)
        arguments: tuple[Any, ...]
        if type(cls) is typing._TypedDictMeta:  # type: ignore[attr-defined]
            parts = (
                annotations_of(cls),
                cls.__total__,
                cls.__required_keys__,
                cls.__optional_keys__,
                cls.__dict__.get("__doc__"),
            )
            return (rebuild.make_typed_dict, (definition, cls.__name__, cls.__module__, parts))
        if issubclass(cls, Enum):
            bases, class_name, qualname, _, module, tracker, extra = cloudpickle._enum_getnewargs(cls)
            # With aliases and combined flags, which iterating over the class leaves out.
            members = {member: value.value for member, value in cls.__members__.items()}
            arguments = (definition, True, None, (bases, class_name, qualname, members, module, tracker, extra))
            attributes, slots_state = cloudpickle._enum_getstate(cls)
            for member in members:
                attributes.pop(member, None)
        else:
            slots = cls.__dict__.get("__slots__")
            if slots is not None and not isinstance(slots, (str, dict)):
                slots = tuple(slots)
            constructor, class_name, _, namespace, tracker, extra = cloudpickle._class_getnewargs(cls)
            namespace["__qualname__"] = cls.__qualname__
            if "__orig_bases__" in cls.__dict__:
                # Generic classes look at these while they are made; going through them again would call the makers of
                # named tuples a second time.
                namespace["__orig_bases__"] = cls.__orig_bases__
            arguments = (definition, False, slots, (constructor, class_name, cls.__bases__, namespace, tracker, extra))
            attributes, slots_state = cloudpickle._class_getstate(cls)
            attributes.pop("__slots__", None)
            for attribute, value in list(attributes.items()):
                if type(value) is types.MemberDescriptorType:
                    del attributes[attribute]
        attributes = {attribute: self.alias(value) for attribute, value in attributes.items()}
        return (rebuild.make_class, arguments, (attributes, slots_state), None, None, rebuild.set_class_state)


def _cell_contents(function: types.FunctionType) -> list[Any]:
    contents = []
    for cell in function.__closure__ or ():
        try:
            contents.append(cell.cell_contents)
        except ValueError:
            pass
    return contents


class Named:
    """Written in place of a container that a global is bound to: the worker's own is meant."""

    __slots__ = ("place",)

    def __init__(self, place: tuple[str, str]) -> None:
        self.place = place

    def __reduce__(self) -> Any:
        return (rebuild.by_name, self.place)


#: Containers whose reducers ``pickle`` never asks for.
_CONTAINERS = frozenset({dict, list, set, bytearray})
_NO_ALIASES: dict[int, tuple[str, str]] = {}


class DefinitionPickler(ByValuePickler):
    """Writes what ``module_name`` binds to ``name``.

    :param aliases: by ``id``, the mutable values of the module's other globals; a function or class that holds one
        (default, closure, class attribute) goes on sharing it with the global.
    :param tolerant: put a placeholder where something cannot be carried, instead of raising.
    :param code_by_value: False: refuse functions and classes that have no name, as plain ``pickle`` does.
    """

    dispatch_table: ClassVar[Any] = ChainMap(
        _registered, reducers.FRESH, reducers.ALWAYS, cloudpickle.Pickler.dispatch_table
    )

    def __init__(
        self,
        file: Any,
        module_name: str,
        name: str,
        value: Any,
        *,
        aliases: dict[int, tuple[str, str]] = _NO_ALIASES,
        tolerant: bool = False,
        code_by_value: bool = True,
        buffer_callback: Callable[[pickle.PickleBuffer], Any] | None = None,
    ) -> None:
        super().__init__(file, buffer_callback)
        self._module_name = module_name
        self._name = name
        self._value = value
        self._aliases = aliases
        self._tolerant = tolerant
        self._code_by_value = code_by_value

    def defines(self, module_name: str, name: str) -> bool:
        """As in the base class."""
        return name == self._name and module_name == self._module_name

    def definition_name(self, obj: Any) -> str | None:
        """As in the base class."""
        return self._name if obj is self._value else None

    def alias(self, value: Any) -> Any:
        """As in the base class."""
        if type(value) in _CONTAINERS:
            place = self._aliases.get(id(value))
            if place is not None:
                self.referenced.add(place)
                return Named(place)
        return value

    def reducer_override(self, obj: Any) -> Any:
        """As in the base class."""
        kind: Any = type(obj)
        if self._aliases:
            place = self._aliases.get(id(obj))
            if place is not None and obj is not self._value:
                self.referenced.add(place)
                return (rebuild.by_name, place)
            if kind is types.CellType:
                return self._reduce_cell(obj)
        if not self._code_by_value and (kind is types.FunctionType or isinstance(obj, type)):
            return NotImplemented
        reduced = super().reducer_override(obj)
        if reduced is not NotImplemented:
            return reduced
        if isinstance(obj, (types.FunctionType, type)) or kind in reducers.NAMED:
            return NotImplemented
        if isinstance(obj, io.IOBase):
            stream = reducers.standard_stream(obj)
            if stream is not None:
                return stream
        if reducers.is_process_bound(kind):
            what, reason = self._what(obj), "it works in the process that made it only"
            if self._tolerant:
                return (Unavailable, (what, reason))
            raise TypeError(f"cannot pickle '{kind.__module__}.{kind.__qualname__}' object: {reason}")
        if self._tolerant:
            return self._reduce_tolerantly(obj, kind)
        return NotImplemented

    def _reduce_cell(self, cell: types.CellType) -> Any:
        reduced = reducers.ALWAYS[types.CellType](cell)
        if len(reduced) > 2:
            contents = (self.alias(reduced[2][0]),)
            return (*reduced[:2], contents, *reduced[3:])
        return reduced

    def _what(self, obj: Any) -> str:
        kind = type(obj)
        return f"{kind.__module__}.{kind.__qualname__} in {self._name!r} of {self._module_name}"

    def _reduce_tolerantly(self, obj: Any, kind: type) -> Any:
        what = self._what(obj)
        try:
            reducer = self.dispatch_table.get(kind)
            reduced = obj.__reduce_ex__(5) if reducer is None else reducer(obj)
        except Exception as error:
            return (Unavailable, (what, str(error)))
        if isinstance(reduced, str):
            if home(obj) is None and not _is_global(obj, reduced):
                return (Unavailable, (what, f"it has no name of its own ({reduced!r})"))
            return NotImplemented
        return reduced


def _is_global(obj: Any, name: str) -> bool:
    module = sys.modules.get(getattr(obj, "__module__", None) or "")
    return module is not None and getattr(module, name, None) is obj


def dumps(obj: Any, buffer_callback: Callable[[pickle.PickleBuffer], Any] | None = None) -> bytes:
    """See ``pickler.dumps``."""
    with io.BytesIO() as file:
        pickler = ByValuePickler(file, buffer_callback)
        pickler.dump(obj)
        head = needs(pickler.needed)
        return head + file.getvalue() if head else file.getvalue()
