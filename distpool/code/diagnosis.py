"""Why a value cannot be pickled: the path to the culprit.

Called when pickling has already failed, so it may take its time, within bounds: the value may be huge or cyclic.
"""

from __future__ import annotations

import contextlib
import functools
import types
from collections.abc import Iterator
from typing import Any

#: How many parts are tried before the search says what it has.
_TRIALS = 2_000
#: How many elements of one container are looked at.
_ELEMENTS = 10_000
#: How deep the search goes.
_DEPTH = 100
#: How much all trials together may write.
_TRIED_BYTES = 512 << 20


def explain(value: Any, error: BaseException) -> str:
    """A sentence for people: the path to what cannot be pickled, and what the pickler said.

    A pair ``(args, kwargs)`` or a triple ``(function, args, kwargs)``, as calls are pickled, gives paths that start
    with these names.
    """
    if isinstance(error, RecursionError) or isinstance(error.__cause__, RecursionError):
        advice = "give it fewer levels, or send it in a form of its own, as text or bytes"
        return f"cannot pickle {describe(value)}: it is nested too deeply; {advice}"
    reason = str(error) or type(error).__name__
    try:
        culprit = find_unpicklable(value)
    except Exception:  # the search runs code of the value's classes
        culprit = type(value).__qualname__
    return f"cannot pickle {culprit} ({reason}){_advice(error, reason)}"


def _advice(error: BaseException, reason: str) -> str:
    """For what the language itself refuses to pickle; other classes have reasons of their own, and give them."""
    if not isinstance(error, TypeError) or not reason.startswith("cannot pickle '"):
        return ""
    if "generator" in reason:
        return "; send a list of what it yields"
    return "; make it where it is used, in the task or in the pool's initializer"


def find_unpicklable(value: Any) -> str:
    """The path to the innermost part of ``value`` that cannot be pickled, and its type, such as
    ``args[1]['db'].connection: sqlite3.Connection``."""
    search = _Search()
    for name, part in _roots(value):
        if not search.pickles(part):
            path, culprit = search.descend(name, part) or (name, part)
            return f"{path}: {describe(culprit)}"
    return f"value: {describe(value)}"


def describe(value: Any) -> str:
    """A value's type for people; functions and classes by their names."""
    if isinstance(value, (types.FunctionType, type)):
        noun = "function" if isinstance(value, types.FunctionType) else "class"
        return f"{noun} {value.__module__}.{value.__qualname__}"
    kind = type(value)
    if kind.__module__ == "builtins":
        return kind.__qualname__
    return f"{kind.__module__}.{kind.__qualname__}"


def _roots(value: Any) -> list[tuple[str, Any]]:
    if type(value) is tuple and value and type(value[-1]) is dict and all(type(key) is str for key in value[-1]):
        keywords = [(f"kwargs[{key!r}]", part) for key, part in value[-1].items()]
        if len(value) == 2 and type(value[0]) is tuple:
            return [("args", value[0]), *keywords]
        if len(value) == 3 and callable(value[0]) and type(value[1]) is tuple:
            return [("function", value[0]), ("args", value[1]), *keywords]
    return [("value", value)]


class _Exhausted(Exception):
    pass


class _Nowhere:
    """A file that forgets what is written."""

    def __init__(self) -> None:
        self.left_bytes = _TRIED_BYTES

    def write(self, data: Any) -> None:
        """As a file."""
        self.left_bytes -= len(data)
        if self.left_bytes < 0:
            raise _Exhausted


class _Search:
    def __init__(self) -> None:
        self._trials = 0
        self._file = _Nowhere()
        self._seen: set[int] = set()
        #: Parts are made on the fly; their ids must not be used again during the search.
        self._alive: list[Any] = []

    def pickles(self, value: Any) -> bool:
        """Whether a part can be pickled by itself; True when the search has run long enough."""
        if self._trials >= _TRIALS:
            return True
        self._trials += 1
        from distpool.code.by_value import ByValuePickler

        try:
            ByValuePickler(self._file, buffer_callback=lambda _: False).dump(value)
        except _Exhausted:
            return True
        except Exception:
            return False
        return True

    def descend(self, path: str, value: Any, depth: int = 0) -> tuple[str, Any] | None:
        """From a part that cannot be pickled to the innermost one; None when it only leads back to where the search
        has been."""
        self._seen.add(id(value))
        self._alive.append(value)
        leads_back = False
        for step, part in _parts(value):
            if id(part) in self._seen:
                leads_back = True
            elif depth < _DEPTH and not self.pickles(part):
                found = self.descend(path + step, part, depth + 1)
                if found is not None:
                    return found
                leads_back = True
        return None if leads_back else (path, value)


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    """What a value is made of, with the way to it."""
    if isinstance(value, dict):
        for _, (key, part) in zip(range(_ELEMENTS), list(value.items()), strict=False):
            yield f"[{_short(key)}]", part
            yield f".key({_short(key)})", key
    elif isinstance(value, (list, tuple)):
        fields = getattr(value, "_fields", ())
        for index, part in zip(range(_ELEMENTS), list(value), strict=False):
            yield (f".{fields[index]}" if index < len(fields) else f"[{index}]"), part
    elif isinstance(value, (set, frozenset)):
        for _, part in zip(range(_ELEMENTS), list(value), strict=False):
            yield f".element({_short(part)})", part
    elif isinstance(value, functools.partial):
        yield ".func", value.func
        yield from ((f".args[{index}]", part) for index, part in enumerate(value.args))
        yield from ((f".keywords[{key!r}]", part) for key, part in value.keywords.items())
        return
    elif isinstance(value, types.MethodType):
        yield ".__self__", value.__self__
        yield ".__func__", value.__func__
        return
    elif isinstance(value, types.FunctionType):
        yield from _function_parts(value)
        return
    elif isinstance(value, type):
        yield from ((f".{name}", part) for name, part in list(value.__dict__.items()) if not name.startswith("__"))
        return
    yield from _attributes(value)


def _function_parts(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):
            yield f".{name}", cell.cell_contents
    parameters = function.__code__.co_varnames[: function.__code__.co_argcount]
    defaults = function.__defaults__ or ()
    for name, part in zip(parameters[len(parameters) - len(defaults) :], defaults, strict=True):
        yield f".{name}", part
    yield from ((f".{name}", part) for name, part in (function.__kwdefaults__ or {}).items())
    yield from ((f".{name}", part) for name, part in function.__dict__.items())
    from distpool.code.names import global_names, module_of_globals

    if module_of_globals(function.__globals__) is None:
        for name in sorted(global_names(function.__code__).read):
            if name in function.__globals__:
                yield f".{name}", function.__globals__[name]


def _attributes(value: Any) -> Iterator[tuple[str, Any]]:
    """The state that pickling would write: what ``__getstate__`` says, or the attributes."""
    try:
        reduced = value.__reduce_ex__(5)
    except Exception:
        # The object itself refuses, or its ``__getstate__`` does: then there is nothing further inside.
        return
    if not isinstance(reduced, tuple) or not 2 <= len(reduced) <= 6 or not isinstance(reduced[1], tuple):
        return  # a global's name, or nothing that pickle takes
    state = reduced[2] if len(reduced) > 2 else None
    if isinstance(state, tuple) and len(state) == 2 and isinstance(state[1], dict):
        yield from ((f".{name}", part) for name, part in state[1].items())
        state = state[0]
    if isinstance(state, dict):
        yield from ((f".{name}", part) for name, part in list(state.items()))
    elif state is not None:
        yield ".__getstate__()", state
    for index, part in enumerate(reduced[1]):
        if part is not value and not isinstance(part, type):
            yield f".__reduce__()[1][{index}]", part


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except Exception:
        return f"<{describe(value)}>"
    return text if len(text) <= 60 else f"<{describe(value)}>"
