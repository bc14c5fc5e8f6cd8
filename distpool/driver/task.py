"""A task as its driver knows it: the message to send, and what is needed to send it again."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import msgspec

from distpool.wire import driver_to_worker
from distpool.wire.objects import Location, is_driver
from distpool.wire.resources import Shape

if TYPE_CHECKING:
    from distpool.driver.gangs import GangCall


class Function(msgspec.Struct, eq=False):
    """A callable that tasks name by number, sent to each worker once.

    ``keep`` owns the stored buffers of ``value``.
    """

    number: int
    name: str
    value: driver_to_worker.Value
    keep: Any = None


class Task(msgspec.Struct, eq=False):
    """One call, from ``submit`` until its future is resolved.

    ``message`` is what the next attempt sends; its ``attempt`` number is drawn anew for every attempt.  ``future`` is
    opaque to the core.  ``keep`` owns the stored buffers of the arguments, ``proxies`` the arguments themselves where a
    manager's objects end with them.  ``alone`` marks a task that must not share
    a worker's queue with others: one that may not run twice, has a time limit, or was in flight when a worker died.
    ``home`` is the node that holds most of its stored arguments (``""``: it has none, and runs anywhere as well).
    ``withdrawn``: it was cancelled or has failed, and is passed over wherever it still stands.
    ``call`` is that of which this is the part of ``rank``, if it runs on several workers at once.  ``inputs`` are what
    the message's dependencies were taken from; ``made`` is the result that is computed again, if that is what it does.
    """

    future: Any
    message: driver_to_worker.Task
    function: Function
    shape: Shape
    retries_left: int
    timeout_s: float | None = None
    alone: bool = False
    withdrawn: bool = False
    deaths: int = 0
    keep: Any = None
    proxies: Any = None
    home: str = ""
    call: GangCall | None = None
    rank: int = 0
    inputs: Any = ()
    made: Any = None

    def let_go(self) -> None:
        """Its arguments are no longer needed."""
        self.keep = self.proxies = None
        self.inputs = ()


def may_name_proxies(payload: bytes) -> bool:
    """Whether a pickle (nothing: one that lies in the store) may have proxies of a manager's objects in it.

    An object ends with its last proxy, and the worker makes its own only when the task comes to it.
    """
    return "multiprocessing.managers" in sys.modules and (not payload or b"RebuildProxy" in payload)


def home_of(locations: Iterable[Location]) -> str:
    """The node that holds most of these buffers."""
    sizes: dict[str, int] = {}
    for location in locations:
        if location.size_bytes and not is_driver(location.node):
            sizes[location.node] = sizes.get(location.node, 0) + location.size_bytes
    return max(sizes, key=sizes.__getitem__) if sizes else ""
