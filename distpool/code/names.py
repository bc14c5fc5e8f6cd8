"""Names: which globals a code object refers to, and where an object can be found by name.

Used by both halves; does no I/O and imports nothing heavy.
"""

from __future__ import annotations

import builtins
import opcode
import re
import sys
import types
import weakref
from typing import Any

import msgspec

MAIN = "__main__"
#: What ``multiprocessing`` calls the main module in a spawned child; the same module object as ``__main__`` there.
MAIN_ALIAS = "__mp_main__"

#: Code that uses one of these may look up globals by strings; then identifiers in its string constants count as names.
_LOOKUPS_BY_STRING = frozenset({"eval", "exec", "globals", "vars", "query", "sql", "timeit"})
_IDENTIFIER = r"[^\W\d]\w*"
_MISSING = object()


class GlobalNames(msgspec.Struct, frozen=True):
    """``read`` are names that code loads as globals; ``hinted`` are those it may look up by string."""

    read: frozenset[str]
    hinted: frozenset[str]


def _opcodes(*names: str) -> frozenset[int]:
    return frozenset(opcode.opmap[name] for name in names if name in opcode.opmap)


_LOAD_GLOBAL = opcode.opmap["LOAD_GLOBAL"]
#: Class bodies inside functions load names from their own namespace first, then from the globals.
_LOADS_BY_NAME = _opcodes("LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS", "DELETE_GLOBAL")
_EXTENDED_ARG = opcode.EXTENDED_ARG
#: From 3.11 on the lowest bit of LOAD_GLOBAL's argument is a flag.
_LOAD_GLOBAL_SHIFT = 1 if sys.version_info >= (3, 11) else 0

_cache: weakref.WeakKeyDictionary[types.CodeType, GlobalNames] = weakref.WeakKeyDictionary()


def global_names(code: types.CodeType) -> GlobalNames:
    """The names that ``code`` and the code objects nested in it look up as globals (builtins included)."""
    found = _cache.get(code)
    if found is None:
        read: set[str] = set()
        attributes: set[str] = set()
        strings: list[str] = []
        _collect(code, read, attributes, strings)
        hinted: set[str] = set()
        if not _LOOKUPS_BY_STRING.isdisjoint(attributes):
            for text in strings:
                hinted.update(re.findall(_IDENTIFIER, text))
        found = _cache[code] = GlobalNames(frozenset(read), frozenset(hinted - read))
    return found


def _collect(code: types.CodeType, read: set[str], attributes: set[str], strings: list[str]) -> None:
    names = code.co_names
    attributes.update(names)
    bytecode = code.co_code
    extended = 0
    # Reading the word code directly is ten times as fast as ``dis``, which decides what a definition costs.
    for i in range(0, len(bytecode), 2):
        operation = bytecode[i]
        if operation == _LOAD_GLOBAL:
            read.add(names[(extended | bytecode[i + 1]) >> _LOAD_GLOBAL_SHIFT])
        elif operation in _LOADS_BY_NAME:
            read.add(names[extended | bytecode[i + 1]])
        elif operation == _EXTENDED_ARG:
            extended = (extended | bytecode[i + 1]) << 8
            continue
        extended = 0
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            _collect(constant, read, attributes, strings)
        elif isinstance(constant, str):
            strings.append(constant)


def imported_submodules(package: types.ModuleType, code: types.CodeType) -> list[str]:
    """Submodules of ``package`` that are loaded here and that ``code`` can reach as attributes.

    ``import xml.etree.ElementTree`` binds only ``xml``; elsewhere the submodules must be imported as well.
    """
    if not hasattr(package, "__path__"):
        return []
    attributes: set[str] = set()
    _attribute_names(code, attributes)
    found: list[str] = []
    parents = [package.__name__]
    while parents:
        parent = parents.pop()
        for name in attributes:
            child = f"{parent}.{name}"
            if isinstance(sys.modules.get(child), types.ModuleType):
                found.append(child)
                parents.append(child)
    return sorted(found)


def _attribute_names(code: types.CodeType, into: set[str]) -> None:
    into.update(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            _attribute_names(constant, into)


def lookup(module: Any, qualname: str) -> Any:
    """``module.a.b`` for ``"a.b"``.

    :raises AttributeError: when there is no such attribute.
    """
    found = module
    for part in qualname.split("."):
        found = getattr(found, part)
    return found


def home(value: Any) -> tuple[str, str] | None:
    """Module and qualified name under which ``value`` itself can be found in this process, or ``None``."""
    module_name = getattr(value, "__module__", None)
    qualname = getattr(value, "__qualname__", None) or getattr(value, "__name__", None)
    if not isinstance(module_name, str) or not isinstance(qualname, str) or "<locals>" in qualname:
        return None
    module = sys.modules.get(module_name)
    if module is None:
        return None
    try:
        found = lookup(module, qualname)
    except Exception:
        return None  # a module's own ``__getattr__`` may raise anything
    return (module_name, qualname) if found is value else None


def module_of_globals(namespace: dict[str, Any]) -> str | None:
    """The name of the loaded module whose ``__dict__`` ``namespace`` is, or ``None`` (``exec`` and the like)."""
    main = sys.modules.get(MAIN)
    if main is not None and namespace is main.__dict__:
        return MAIN
    name = namespace.get("__name__")
    module = sys.modules.get(name) if isinstance(name, str) else None
    return name if isinstance(module, types.ModuleType) and module.__dict__ is namespace else None


def is_served_by_name(module_name: str) -> bool:
    """Whether a worker cannot import this module and asks for its names one by one instead: the main module, and
    modules that the program made in memory."""
    if module_name in (MAIN, MAIN_ALIAS):
        return True
    module = sys.modules.get(module_name)
    if type(module) is not types.ModuleType and not getattr(type(module), "served_by_name", False):
        return False
    return getattr(module, "__spec__", None) is None and getattr(module, "__file__", None) is None


def is_builtin(name: str) -> bool:
    """Whether ``name`` means something without any module."""
    return getattr(builtins, name, _MISSING) is not _MISSING


_SETTINGS = frozenset({int, float, complex, bool, str, bytes, type(None)})
_LARGEST_SETTING = 4096


def is_setting(name: str, value: Any) -> bool:
    """Whether a global of an importable module is a plain small value, which the program may have rebound and which
    can travel with every function that reads it; or a module, which something else than the source may have put there
    (pytest does, to explain ``assert``)."""
    if type(value) is types.ModuleType:
        return sys.modules.get(value.__name__) is value and not is_served_by_name(value.__name__)
    if type(value) not in _SETTINGS or (name.startswith("__") and name.endswith("__")):
        return False
    return not isinstance(value, (str, bytes)) or len(value) <= _LARGEST_SETTING
