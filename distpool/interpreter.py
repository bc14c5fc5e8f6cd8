"""What the interpreter is to call when this process forks, and before it joins its threads at its end.

It never gives up such a callback.  A function holds the globals of its module, and so everything that those import; as
long as all of that cannot go, each of the interpreter's last looks for garbage goes through it once more.  Therefore it
is given functions of this module, which imports nothing of ours, and ``let_go`` is called at the end.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False  # as in ``distpool``
if TYPE_CHECKING:
    from collections.abc import Callable

_callbacks: list[list[Callable[[], object]]] = []


def call_after_fork(callback: Callable[[], object]) -> None:
    """Have it called in every child that this process forks."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_held(callback))


def call_before_joining(callback: Callable[[], object]) -> None:
    """Have it called when the main thread has ended, before the threads are joined that are no daemons.

    :raises RuntimeError: when it is too late for that.
    """
    import threading

    threading._register_atexit(_held(callback))  # type: ignore[attr-defined]  # as concurrent.futures does


def let_go() -> None:
    """Nothing of ours is left that would have to know."""
    for held in _callbacks:
        held.clear()
    _callbacks.clear()


def _held(callback: Callable[[], object]) -> Callable[[], None]:
    held = [callback]
    _callbacks.append(held)

    def call() -> None:
        for each in held:
            each()

    return call
