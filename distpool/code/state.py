"""The state of modules of the user's project: what the program made of them since they were imported.

The worker imports such a module itself and then asks, once, for what differs; ``fork`` would have given the driver's.
"""

from __future__ import annotations

import collections
import sys
import types
from typing import Any

from distpool.code.ledger import Definition, Ledger
from distpool.code.origins import INCOMPARABLE, LARGE, digest, state_of
from distpool.code.placeholder import is_unavailable, reason_of
from distpool.wire.driver_to_worker import Definitions, Value
from distpool.wire.worker_to_driver import FetchDefinitions

# -- driver -----------------------------------------------------------------------------------------------------------


def changed_state(message: FetchDefinitions, store: Any) -> Definitions:
    """What differs from the digests in ``message.known``."""
    module = sys.modules.get(message.module)
    entries: list[tuple[str, Value]] = []
    unavailable: list[tuple[str, str]] = []
    if isinstance(module, types.ModuleType):
        ledger = _StateLedger(message.module)
        for name, value in state_of(module):
            theirs = message.known.get(name)
            if is_unavailable(value):
                unavailable.append((name, reason_of(value)))
                continue
            ours = digest(message.module, name, value)
            # Two values of which each cannot be compared (open connections, locks in use, very large tables) are what
            # importing the module gives everywhere.
            if ours == theirs:
                continue
            if theirs is None and ours == INCOMPARABLE and isinstance(value, types.FunctionType):
                continue
            definition = ledger.define(module, name, name, value, store)
            if isinstance(definition.value, str):
                unavailable.append((name, definition.value))
            elif ours == LARGE and not definition.value.objects:
                unavailable.append((name, "its pickle is larger than 64 MiB"))
            else:
                entries.append((name, definition.value))
        if ledger.kept:
            _kept[message.module] = (ledger.kept, _kept.get(message.module, ([], None))[0])
    return Definitions(message.request, message.module, entries, [], unavailable)


#: Stored values of the last two answers about each module: the worker may not have mapped them yet.
_kept: dict[str, tuple[list[Any], Any]] = {}


class _StateLedger(Ledger):
    """Writes values down and remembers nothing but what it keeps alive."""

    def __init__(self, module_name: str) -> None:
        super().__init__(module_name)
        self.kept: list[Any] = []

    def define(self, module: Any, name: str, plain: str, value: Any, store: Any) -> Definition:
        """As in the base class."""
        definition = self._write(module, name, value, store)
        if definition.keep is not None:
            self.kept.append(definition.keep)
        return definition


# -- worker -----------------------------------------------------------------------------------------------------------


def known_state(module: types.ModuleType) -> dict[str, bytes]:
    """Digests of the state that importing the module gave here."""
    from distpool.sharing.reducers import sharing

    # Locks and queues are never equal to the program's: their digests tell who made them.
    with sharing():
        return {name: digest(module.__name__, name, value) for name, value in state_of(module)}


def transplant(old: Any, new: Any) -> Any:
    """Make ``old`` equal to ``new`` in place where that is possible, so that whoever holds it sees the new value.

    Returns the object that the name should be bound to.
    """
    kind = type(old)
    if kind is not type(new) or old is new:
        return new
    if kind in (dict, collections.OrderedDict, collections.Counter, collections.defaultdict):
        old.clear()
        old.update(new)
    elif kind in (list, bytearray):
        old[:] = new
    elif kind is set:
        old.clear()
        old.update(new)
    elif kind is collections.deque and old.maxlen == new.maxlen:
        old.clear()
        old.extend(new)
    elif _is_plain(kind):
        old.__dict__.clear()
        old.__dict__.update(new.__dict__)
    else:
        return new
    return old


def _is_plain(kind: type) -> bool:
    """Whether instances are nothing but their ``__dict__``: defined in Python, with no say in how they are copied."""
    plain: Any = object
    return (
        getattr(kind, "__reduce_ex__", None) is plain.__reduce_ex__
        and getattr(kind, "__reduce__", None) is plain.__reduce__
        and not hasattr(kind, "__setstate__")
        and getattr(kind, "__getstate__", None) is getattr(plain, "__getstate__", None)
        and kind.__basicsize__ == _Plain.__basicsize__
        and kind.__itemsize__ == 0
        and all("__slots__" not in base.__dict__ or not base.__dict__["__slots__"] for base in kind.__mro__)
        and any("__dict__" in base.__dict__ for base in kind.__mro__)
    )


class _Plain:
    pass
