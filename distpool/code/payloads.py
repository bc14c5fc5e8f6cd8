"""Pickles that are written without a look at user data: calls of importable functions, and what a pickle needs."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable
from typing import Any

from distpool.code import rebuild


def needs(needed: dict[str, set[str]]) -> bytes:
    """The head of a pickle: opcodes that call ``rebuild.need`` before anything else is loaded.

    Written by hand, because what ``pickle`` writes would shift the memo of the pickle that follows.
    """
    head = bytearray()
    for module_name, names in sorted(needed.items()):
        if names:
            head += b"cdistpool.code.rebuild\nneed\n("
            for text in (module_name, *sorted(names)):
                encoded = text.encode("utf-8", "surrogatepass")
                head += b"X" + struct.pack("<I", len(encoded)) + encoded
            head += b"tR0"
    return b"\x80\x05" + bytes(head) if head else b""


def call_payload(function: Callable[..., Any], arguments: tuple[Any, ...]) -> bytes:
    """A pickle that calls an importable function."""
    return pickle.dumps(Call(function, arguments), 5)


def reference_payload(module_name: str, name: str) -> bytes:
    """A pickle of whatever a module binds to a name where it is loaded."""
    return needs({module_name: {name}}) + call_payload(rebuild.by_name, (module_name, name))


def version_payload(module_name: str, name: str, token: str) -> bytes:
    """A pickle of one exact version of a function or class."""
    return call_payload(rebuild.version, (module_name, name, token))


class Call:
    """Becomes what ``function`` returns where it is unpickled, once ``set_state`` has given that its ``state``."""

    __slots__ = ("_reduced",)

    def __init__(
        self,
        function: Callable[..., Any],
        arguments: tuple[Any, ...],
        state: Any = None,
        set_state: Callable[[Any, Any], object] | None = None,
    ) -> None:
        self._reduced = (function, arguments, state, None, None, set_state)

    def __reduce__(self) -> Any:
        return self._reduced if self._reduced[5] is not None else self._reduced[:2]
