"""Exceptions from worker to driver: the same exception again, with the remote traceback as its cause.

``encode_exception`` runs in the worker, ``decode_exception`` in the driver; neither ever raises.  Each exception of a
chain of causes and contexts is pickled by itself, so that one that cannot be pickled takes nothing else with it.
"""

from __future__ import annotations

import pickle
import sys
import types
from typing import Any

from distpool.errors import SerializationError

#: One exception: pickle (or None), type name, message, reason why there is no pickle, index of the cause, index of the
#: context (-1: none), whether the context is suppressed, notes.
_Entry = tuple[bytes | None, str, str, str, int, int, bool, list[str]]

#: Longer chains are cut; they come from loops, and nobody reads them.
_CHAIN = 64
_TEXT_CHARACTERS = 1 << 20
#: Below this limit our own code could not run.
_LEAST_RECURSION = 120


def encode_exception(error: BaseException, skip: frozenset[types.CodeType] = frozenset()) -> bytes:
    """The exception with its chain and its traceback as text.

    :param skip: code whose frames at the top of the traceback say nothing to the user.
    """
    text = _traceback_text(error, skip)
    entries: list[_Entry] = []
    indexes: dict[int, int] = {}
    _add(error, entries, indexes)
    try:
        return pickle.dumps((text, entries), 5)
    except Exception:  # a str subclass among the notes, or worse
        plain: _Entry = (
            None,
            _type_name(error),
            _message(error),
            "its description cannot be pickled",
            -1,
            -1,
            True,
            [],
        )
        return pickle.dumps((str(text), [plain]), 5)


def decode_exception(payload: bytes) -> BaseException:
    """The exception; a ``SerializationError`` with type name and message where it cannot be had again."""
    try:
        text, entries = pickle.loads(payload)
        errors = [_open(entry) for entry in entries]
        for error, entry in zip(errors, entries, strict=True):
            cause, context, suppress = entry[4], entry[5], entry[6]
            if context >= 0:
                error.__context__ = errors[context]
            if cause >= 0:
                error.__cause__ = errors[cause]
            error.__suppress_context__ = suppress
    except Exception as failure:
        return SerializationError(f"a task failed with an exception that cannot be read here: {failure!r}")
    first: BaseException = errors[0]
    # The text shows the whole chain as it was, so the cause may give way to it; it stays reachable as the context.
    if first.__cause__ is not None:
        first.__context__ = first.__cause__
    first.__cause__ = _remote_traceback(text)
    return first


def summary(error: BaseException) -> str:
    """Type and message in one line."""
    message = _message(error)
    return f"{_type_name(error)}: {message}" if message else _type_name(error)


def _remote_traceback(text: str) -> BaseException:
    # The standard library's own class: programs and libraries tell by it what is a traceback of another process.
    from concurrent.futures import process

    remote_traceback: Any = process._RemoteTraceback
    cause: BaseException = remote_traceback(f'\n"""\n{text}"""')
    return cause


def _add(error: BaseException, entries: list[_Entry], indexes: dict[int, int]) -> int:
    """Append the exception and what it is chained to; -1 when the chain is too long."""
    first = len(entries)
    waiting = [error]
    chained: list[BaseException] = []
    while waiting and len(chained) < _CHAIN:
        current = waiting.pop(0)
        if id(current) in indexes:
            continue
        indexes[id(current)] = first + len(chained)
        chained.append(current)
        waiting += [link for link in (current.__cause__, current.__context__) if link is not None]
    for current in chained:
        cause = indexes.get(id(current.__cause__), -1)
        context = indexes.get(id(current.__context__), -1)
        entries.append(_entry(current, cause, context))
    return first


def _entry(error: BaseException, cause: int, context: int) -> _Entry:
    data, reason = _pickled(error)
    notes: list[str] = []
    try:
        notes = [str(note) for note in getattr(error, "__notes__", ())]
    except Exception:
        pass  # ``__notes__`` may be anything
    return data, _type_name(error), _message(error), reason, cause, context, error.__suppress_context__, notes


def _pickled(error: BaseException) -> tuple[bytes | None, str]:
    """A pickle that is known to give the same type again, or the reason why there is none."""
    try:
        try:
            data = pickle.dumps(error, 5)
        except Exception:
            from distpool.code import pickler

            data = pickler.dumps(error)
        again = pickle.loads(data)
    except Exception as failure:
        return None, summary(failure)
    except BaseException as failure:  # an ``__init__`` or ``__reduce__`` that exits must not end the worker
        return None, summary(failure)
    if not isinstance(again, BaseException):
        return None, f"unpickling it gives a {type(again).__qualname__}"
    return data, ""


def _open(entry: _Entry) -> BaseException:
    data, type_name, message, reason, _, _, _, notes = entry
    if data is not None:
        try:
            error = pickle.loads(data)
            if isinstance(error, BaseException):
                if notes and not getattr(error, "__notes__", None):
                    _set_notes(error, notes)
                return error
            reason = f"unpickling it gives a {type(error).__qualname__}"
        except Exception as failure:
            reason = summary(failure)
    shown = f"{type_name}: {message}" if message else type_name
    stand_in = SerializationError(f"{shown} (the exception itself could not be carried: {reason})")
    stand_in.of_outcome = True
    _set_notes(stand_in, notes)
    return stand_in


def _set_notes(error: BaseException, notes: list[str]) -> None:
    if notes:
        try:
            error.__notes__ = list(notes)  # type: ignore[attr-defined, unused-ignore]
        except Exception:
            pass  # slots, or a property of the user's


def _traceback_text(error: BaseException, skip: frozenset[types.CodeType]) -> str:
    import traceback

    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code in skip:
        trace = trace.tb_next
    try:
        text = "".join(traceback.format_exception(type(error), error, trace))
    except Exception as failure:
        text = f"{summary(error)}\n(its traceback cannot be shown: {_type_name(failure)})\n"
    if len(text) <= _TEXT_CHARACTERS:
        return text
    # A huge message stands at the end: where it happened must not be lost for it.
    half = _TEXT_CHARACTERS // 2
    return f"{text[:half]}\n...\n{text[-half:]}"


def _type_name(value: Any) -> str:
    kind = type(value)
    module = getattr(kind, "__module__", None)
    return kind.__qualname__ if module in ("builtins", "__main__", None) else f"{module}.{kind.__qualname__}"


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return "(its message cannot be shown)"


def keep_recursion_limit() -> None:
    """A task may have left a limit at which not even its failure could be told."""
    if sys.getrecursionlimit() < _LEAST_RECURSION:
        sys.setrecursionlimit(_LEAST_RECURSION)
