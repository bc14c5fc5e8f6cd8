"""The driver's half: answers workers' questions about names of the driver's program, and tells them what changed.

Called by the driver's loop (``answer``) and by every ``submit`` (``changes``), in any thread.  Never sends anything.

A name is served with the value that it has when it is asked for.  What was served is remembered by identity: a name
that is bound to another object, deleted or newly defined afterwards is announced before the next task; a value that is
merely changed in place is not (it would have to be pickled again for every task to know).
"""

from __future__ import annotations

import contextlib
import itertools
import sys
import threading
import types
import weakref
from typing import TYPE_CHECKING, Any

from distpool.code.ledger import Ledger
from distpool.code.names import MAIN, MAIN_ALIAS, home
from distpool.code.payloads import version_payload
from distpool.code.placeholder import is_unavailable, reason_of
from distpool.wire.driver_to_worker import Definitions, ModuleSource, Value
from distpool.wire.worker_to_driver import FetchDefinitions, FetchModule

if TYPE_CHECKING:
    from distpool.sharing.reducers import Shared

#: In front of the token of an exact version of a function: ``name@token``.  No identifier contains it.
VERSION_MARK = "@"
_NOTHING: list[Definitions] = []


class _Packed:
    """A payload that needs no store, in the shape of ``store.handles.Packed``; keeps the callable that it names."""

    __slots__ = ("dependencies", "keep", "value")

    def __init__(self, payload: bytes, keep: Any) -> None:
        self.value = Value(payload)
        self.dependencies: list[Any] = []
        self.keep = keep


class DefinitionServer:
    """One per driver.

    :param store: the object store for large values; without one they travel inside the messages.
    """

    def __init__(self, store: Any = None) -> None:
        self._store = store
        self._lock = threading.RLock()
        #: By module; only modules that were asked for by name.
        self._ledgers: dict[str, Ledger] = {}
        self._tokens: dict[int, tuple[Any, str]] = {}
        self._versions: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()
        self._numbers = itertools.count(1)
        #: What of ``multiprocessing`` workers reach through this process: locks and queues among the globals.
        self._shared: Shared | None = None

    # -- functions of tasks -------------------------------------------------------------------------------------------

    def pack_function(self, function: Any) -> Any:
        """A task's callable, in the shape of the store's ``pack``.

        What ``__main__`` binds to a name is named together with its version: a task runs the function that was
        submitted even if its name is bound to another one before a worker has asked for it.
        """
        token = self._token(function)
        if token is None:
            return self._store.pack(function)
        return _Packed(version_payload(MAIN, function.__qualname__, token), function)

    def _token(self, function: Any) -> str | None:
        if not (isinstance(function, (types.FunctionType, type)) or hasattr(function, "__wrapped__")):
            return None
        place = home(function)
        if place is None or place[0] not in (MAIN, MAIN_ALIAS) or "." in place[1]:
            return None
        key = id(function)
        known = self._tokens.get(key)
        if known is not None and known[0]() is function:
            return known[1]
        with self._lock:
            token = str(next(self._numbers))
            try:
                reference = weakref.ref(function, lambda _: self._tokens.pop(key, None))
                self._versions[token] = function
            except TypeError:
                return None
            self._tokens[key] = (reference, token)
        return token

    # -- answers ------------------------------------------------------------------------------------------------------

    def answer(self, peer: bytes, message: FetchDefinitions | FetchModule) -> Definitions | ModuleSource:
        """What to send back to the worker ``peer``.  Never raises; runs user code (reducers)."""
        if isinstance(message, FetchModule):
            from distpool.code.sources import module_source

            return module_source(message)
        if not message.names:
            from distpool.code.state import changed_state

            with self._sharing():
                return changed_state(message, self._store)
        with self._lock, self._sharing():
            return self._define(message)

    def forget(self, peer: bytes) -> None:
        """A worker is gone."""

    def _sharing(self) -> contextlib.AbstractContextManager[object]:
        """``multiprocessing`` objects among the globals are shared with the workers, as by ``fork``."""
        if "multiprocessing.reduction" not in sys.modules:
            return contextlib.nullcontext()
        from distpool.sharing.reducers import Shared, sharing

        if self._shared is None:
            self._shared = Shared()
        return sharing(self._shared)

    def _define(self, message: FetchDefinitions) -> Definitions:
        module_name = MAIN if message.module == MAIN_ALIAS else message.module
        module = sys.modules.get(module_name)
        if module is None:
            return Definitions(message.request, message.module, [], message.names, [])
        ledger = self._ledgers.get(module_name)
        if ledger is None:
            ledger = self._ledgers[module_name] = Ledger(module_name)
        entries: list[tuple[str, Value]] = []
        absent: list[str] = []
        unavailable: list[tuple[str, str]] = []
        queue = list(message.names)
        asked = set(queue)
        while queue:
            name = queue.pop()
            plain, _, token = name.partition(VERSION_MARK)
            if token:
                value: Any = self._versions.get(token)
                present = value is not None
                if not present:
                    # The one that was submitted is gone, and with it every task that could run it.
                    value, present = _read(module, plain)
            else:
                value, present = _read(module, name)
            if not present:
                absent.append(name)
                if not token:
                    ledger.note_absent(name)
                continue
            if is_unavailable(value):
                # This driver is a worker itself and did not get it either.
                unavailable.append((name, reason_of(value)))
                needed: set[str] = set()
            else:
                definition = ledger.define(module, name, plain, value, self._store)
                needed = definition.needed
                ledger.note_shadowable(definition.shadowable, module)
                if isinstance(definition.value, Value):
                    entries.append((name, definition.value))
                else:
                    unavailable.append((name, definition.value))
            if not token:
                ledger.note_served(name, value)
            for other in needed:
                if other not in asked and other not in message.known:
                    asked.add(other)
                    if _read(module, other)[1]:
                        queue.append(other)
                    else:
                        absent.append(other)
                        ledger.note_absent(other)
        ledger.settle()
        return Definitions(message.request, message.module, entries, absent, unavailable)

    # -- news ---------------------------------------------------------------------------------------------------------

    def changes(self) -> list[Definitions]:
        """What was bound anew, deleted or newly defined since it was served: to be sent to every worker, ahead of any
        task that is submitted after this call."""
        for ledger in self._ledgers.values():
            if ledger.has_news():
                break
        else:
            return _NOTHING
        with self._lock, self._sharing():
            return [news for ledger in list(self._ledgers.values()) if (news := self._news(ledger)) is not None]

    def _news(self, ledger: Ledger) -> Definitions | None:
        module = sys.modules.get(ledger.module_name)
        changed = ledger.take_changed()
        if module is None or not changed:
            return None
        entries: list[tuple[str, Value]] = []
        absent: list[str] = []
        unavailable: list[tuple[str, str]] = []
        for name in changed:
            value, present = _read(module, name)
            if not present:
                absent.append(name)
                ledger.note_absent(name)
                continue
            if is_unavailable(value):
                unavailable.append((name, reason_of(value)))
            else:
                definition = ledger.define(module, name, name, value, self._store)
                if isinstance(definition.value, Value):
                    entries.append((name, definition.value))
                else:
                    unavailable.append((name, definition.value))
            ledger.note_served(name, value)
        ledger.settle()
        return Definitions(0, ledger.module_name, entries, absent, unavailable)


def _read(module: Any, name: str) -> tuple[Any, bool]:
    """The value that a module binds to a name, and whether there is one."""
    try:
        return module.__dict__[name], True
    except KeyError:
        pass
    # A module's own ``__getattr__``: in a worker that is a driver itself, this asks the driver above.
    with contextlib.suppress(Exception):
        return getattr(module, name), True
    return None, False
