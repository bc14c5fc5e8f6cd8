"""What one module of the driver's program has served to workers, and how its names are written down.

Used by ``definitions`` only, under its lock (``has_news`` excepted: it reads one tuple and is called by every submit).
"""

from __future__ import annotations

import io
import operator
import pickle
import sys
import types
import weakref
from collections.abc import Callable
from typing import Any

import msgspec

from distpool.code import plain as plain_definitions
from distpool.code.names import home
from distpool.code.payloads import needs, reference_payload
from distpool.wire.driver_to_worker import Value

#: Values that aliases are not kept for: immutable, or found by name anyway.
_NO_ALIAS = frozenset(
    {int, float, complex, bool, str, bytes, tuple, frozenset, range, type(None), type(Ellipsis)}
    | {types.FunctionType, types.ModuleType, types.BuiltinFunctionType, type}
)
#: Data that grew this much while it was pickled goes through the store.
_STORE_BYTES = 1 << 16
_MISSING = object()


class Definition(msgspec.Struct, frozen=True):
    """A name's meaning on its way: a pickle, or the reason why there is none.  ``needed`` are the other globals of the
    module that it uses, ``shadowable`` the builtins that a global could hide; ``keep`` owns the stored buffers."""

    value: Value | str
    needed: set[str]
    shadowable: set[str]
    keep: Any = None


class _Snapshot(msgspec.Struct, frozen=True):
    """What ``has_news`` compares; replaced as a whole."""

    getter: Callable[[Any], tuple[Any, ...]] | None
    values: tuple[Any, ...]
    weak: tuple[tuple[str, Callable[[], Any]], ...]
    absent: frozenset[str]


class Ledger:
    """See the module's description."""

    def __init__(self, module_name: str) -> None:
        self.module_name = module_name
        self._strong: dict[str, Any] = {}
        #: Large data must not be kept alive only because it was served once.
        self._weak: dict[str, Callable[[], Any]] = {}
        self._absent: set[str] = set()
        self._changed: set[str] = set()
        self._snapshot = _Snapshot(None, (), (), frozenset())
        self._stale = False
        self._aliases: dict[int, tuple[str, str]] | None = None
        #: Definitions made since the last submit: workers that start together get one copy of stored values.
        self._recent: dict[str, tuple[Any, Definition]] = {}
        #: The last stored values of each name; what a worker was told last, it may not have mapped yet.
        self._kept: dict[str, tuple[Any, Any]] = {}

    # -- what changed -------------------------------------------------------------------------------------------------

    def note_served(self, name: str, value: Any) -> None:
        """Workers were, or are now being, told this value."""
        known = self._served(name)
        if known is not _MISSING and known is not value:
            self._changed.add(name)  # others have the old one and must hear of it
        if name in self._absent:
            self._absent.discard(name)
            self._changed.add(name)
        self._strong.pop(name, None)
        self._weak.pop(name, None)
        if isinstance(value, (types.FunctionType, type, types.ModuleType)):
            self._strong[name] = value
        else:
            try:
                self._weak[name] = weakref.ref(value)
            except TypeError:
                self._strong[name] = value
        self._stale = True

    def note_absent(self, name: str) -> None:
        """Workers were told that there is no such name."""
        if name in self._absent:
            return
        if self._served(name) is not _MISSING:
            self._changed.add(name)
            self._strong.pop(name, None)
            self._weak.pop(name, None)
        self._absent.add(name)
        self._stale = True

    def note_shadowable(self, builtins: set[str], module: Any) -> None:
        """Code that was served uses these builtins: if the module defines one of them later, that is news."""
        if not builtins <= self._absent:
            self._absent.update(name for name in builtins if name not in module.__dict__)
            self._stale = True

    def _served(self, name: str) -> Any:
        if name in self._strong:
            return self._strong[name]
        reference = self._weak.get(name)
        return _MISSING if reference is None else reference()

    def settle(self) -> None:
        """The end of an answer: make what was noted count."""
        self._aliases = None
        if self._stale:
            self._stale = False
            names = list(self._strong)
            # With a single name ``itemgetter`` would not give a tuple.
            getter = operator.itemgetter(*names, names[0]) if names else None
            values = (*self._strong.values(), self._strong[names[0]]) if names else ()
            self._snapshot = _Snapshot(getter, values, tuple(self._weak.items()), frozenset(self._absent))

    def has_news(self) -> bool:
        """Whether any name that workers know means another object now.  Well under a microsecond for 20 names."""
        if self._recent:
            self._recent = {}
        if self._changed:
            return True
        module = sys.modules.get(self.module_name)
        if module is None:
            return False
        namespace = module.__dict__
        snapshot = self._snapshot
        getter = snapshot.getter
        try:
            if getter is not None and not all(map(operator.is_, getter(namespace), snapshot.values)):
                return True
        except KeyError:
            return True
        for name, reference in snapshot.weak:
            if namespace.get(name) is not reference():
                return True
        return not namespace.keys().isdisjoint(snapshot.absent)

    def take_changed(self) -> list[str]:
        """The names that have changed; from now on they count as told."""
        module = sys.modules.get(self.module_name)
        namespace = {} if module is None else module.__dict__
        for name in (*self._strong, *self._weak):
            if namespace.get(name, _MISSING) is not self._served(name):
                self._changed.add(name)
        self._changed.update(name for name in self._absent if name in namespace)
        changed = sorted(self._changed)
        for name in changed:
            self._strong.pop(name, None)
            self._weak.pop(name, None)
            self._absent.discard(name)
        self._changed.clear()
        self._stale = True
        return changed

    # -- writing down -------------------------------------------------------------------------------------------------

    def define(self, module: Any, name: str, plain: str, value: Any, store: Any) -> Definition:
        """The definition of ``name``; ``plain`` is the same without the mark of a version."""
        recent = self._recent.get(name)
        if recent is not None and recent[0] is value:
            return recent[1]
        if name != plain and module.__dict__.get(plain) is value:
            definition = Definition(Value(reference_payload(self.module_name, plain)), {plain}, set())
        else:
            definition = self._write(module, name, value, store)
        if definition.keep is not None:
            before = self._kept.get(name)
            self._kept[name] = (definition.keep, None if before is None else before[0])
        self._recent[name] = (value, definition)
        return definition

    def _write(self, module: Any, name: str, value: Any, store: Any) -> Definition:
        simple = plain_definitions.write(self.module_name, name, value)
        if simple is not None:
            head = needs({self.module_name: simple.needed})
            return Definition(Value(head + simple.payload), simple.needed - {name}, simple.shadowable)
        from distpool.code import by_value

        is_code = isinstance(value, (types.FunctionType, type)) or hasattr(type(value), "__wrapped__")
        is_code = is_code or (callable(value) and hasattr(value, "__wrapped__"))
        aliases = self._aliases_of(module) if is_code else {}
        failure: Exception | None = None
        for tolerant in (False, True):
            limit = _STORE_BYTES if store is not None and not is_code else None
            file = _Sink(limit)
            pickler = by_value.DefinitionPickler(
                file, self.module_name, name, value, aliases=aliases, tolerant=tolerant, buffer_callback=file.on_buffer
            )
            try:
                _dump(pickler, value)
            except _Large:
                packed = _pack(store, value)
                if packed is not None:
                    return Definition(packed.value, set(), set(), packed)
                file = _Sink(None)
                pickler = by_value.DefinitionPickler(file, self.module_name, name, value, tolerant=True)
                try:
                    _dump(pickler, value)
                except Exception as error:
                    failure = error
                    break
            except Exception as error:
                failure = failure or error
                continue
            payload = needs(pickler.needed) + file.value()
            needed = set(pickler.needed.get(self.module_name, ()))
            needed.update(other for where, other in pickler.referenced if where == self.module_name)
            needed.discard(name)
            return Definition(Value(payload), needed, pickler.shadowable)
        assert failure is not None
        from distpool.code.diagnosis import describe

        return Definition(f"{describe(value)} cannot be pickled ({failure})", set(), set())

    def _aliases_of(self, module: Any) -> dict[int, tuple[str, str]]:
        if self._aliases is None:
            self._aliases = {
                id(value): (self.module_name, name)
                for name, value in list(module.__dict__.items())
                if type(value) not in _NO_ALIAS
                and not (name.startswith("__") and name.endswith("__"))
                and not isinstance(value, type)
                and not hasattr(value, "__wrapped__")
                and home(value) is None
            }
        return self._aliases


class _Large(Exception):
    pass


class _Sink:
    """Where a pickle is written to; raises ``_Large`` beyond ``limit`` bytes."""

    def __init__(self, limit: int | None) -> None:
        self._file = io.BytesIO()
        self._left = limit

    def write(self, data: Any) -> int:
        """As a file."""
        self._count(len(data))
        return self._file.write(data)

    def on_buffer(self, buffer: pickle.PickleBuffer) -> bool:
        """Buffers go into the pickle, while it is small."""
        with memoryview(buffer) as view:
            self._count(view.nbytes)
        return True

    def _count(self, size_bytes: int) -> None:
        if self._left is not None:
            self._left -= size_bytes
            if self._left < 0:
                raise _Large

    def value(self) -> bytes:
        """The pickle."""
        return self._file.getvalue()


def _dump(pickler: Any, value: Any) -> None:
    try:
        pickler.dump(value)
    except RecursionError as error:
        raise pickle.PicklingError("it is nested too deeply") from error


def _pack(store: Any, value: Any) -> Any:
    """Through the store, or None when it refuses (locks and the like; futures have no business in definitions)."""
    try:
        packed = store.pack(value)
    except Exception:
        return None
    return None if packed.dependencies else packed
