"""Ctrl-C must not tear the driver's books apart.

Python raises ``KeyboardInterrupt`` between any two instructions of the main thread, and that thread also serves the
channel while it waits for results.  A message taken in and not handled, or a task counted as sent and not sent, would
leave futures waiting for ever in a program that catches the exception and goes on, as a notebook does.

While the main thread is within ``shield``, the signal is only noted; it takes effect at the end of the block.  Where
the block waits or runs code of the user's, it does so between ``shield.lift`` and ``shield.lower``.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # the C module: ``signal`` makes enumerations first
import sys
from _thread import get_ident as _thread

from distpool.interpreter import call_after_fork

TYPE_CHECKING = False  # as in ``distpool``
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import Any

# Not ``signal.signal``: that spends microseconds on making enumeration members of its arguments.
_get, _set, _SIGINT = _signal.getsignal, _signal.signal, int(_signal.SIGINT)
# A first pool starts its node before ``threading`` is loaded; that takes the thread that loads it for the main one.
_threading = sys.modules.get("threading")
_main = _thread() if _threading is None else _threading.main_thread().ident


def _in_forked_child() -> None:
    global _main
    _main = _thread()


call_after_fork(_in_forked_child)


class Shield:
    """A re-entrant context manager without effect in other threads than the main one, and where Ctrl-C is ignored or
    ends the process at once."""

    def __init__(self) -> None:
        self._handler: Callable[[int, FrameType | None], Any] | None = None
        #: Whether Ctrl-C is let through, in this block and in those around it.
        self._lifted = True
        self._around: list[bool] = []
        self._noted = False

    def __enter__(self) -> None:
        if _thread() != _main:
            return
        if not self._around:
            handler = _get(_SIGINT)
            if callable(handler):
                # The last moment at which the exception may come; nothing has changed then.
                _set(_SIGINT, self._on_signal)
                self._lifted = False
                self._handler = handler
        lifted, self._lifted = self._lifted, False
        self._around.append(lifted)

    def __exit__(self, *_: object) -> None:
        if _thread() != _main:
            return
        lifted = self._around.pop()
        handler = self._handler
        if self._around:
            self.lower(lifted)
            return
        self._lifted = True
        if handler is None:
            return
        self._handler = None
        # First of all, this lets a signal that is pending be noted.
        _set(_SIGINT, handler)
        if self._noted:
            self._noted = False
            handler(_SIGINT, None)

    def lift(self) -> bool:
        """Let Ctrl-C through until ``lower(lifted)`` is called with the answer."""
        if _thread() != _main:
            return False
        before, self._lifted = self._lifted, True
        self._deliver()
        return before

    def lower(self, lifted: bool) -> None:
        """Put Ctrl-C off again, unless it was let through before."""
        if _thread() == _main:
            self._lifted = lifted
            if lifted:
                self._deliver()

    def _deliver(self) -> None:
        handler = self._handler
        if self._noted and handler is not None:
            self._noted = False
            lifted, self._lifted = self._lifted, False
            handler(_SIGINT, None)  # raises, as a rule, and then the block is being left
            self._lifted = lifted

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._noted = True
        if self._lifted:
            self._deliver()


shield = Shield()
