"""``distpool.put``, ``get`` and ``wait``: values in the object store, by reference."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from concurrent.futures import wait as wait_for_futures
from typing import Any, TypeVar, overload

from distpool.store.references import ObjectRef

T = TypeVar("T")


def put(value: T) -> ObjectRef[T]:
    """Store a value once, to be used by many tasks, or later.

    Tasks that get the reference as (part of) an argument see the value.  The value is copied as it is now.  References
    and futures inside of it stay references; futures are waited for.

    :raises SerializationError: when it cannot be pickled, naming the path to the culprit.
    :raises DependencyError: when a future inside of it failed.
    :raises ObjectStoreFullError: when neither memory nor disk has room.
    """
    from distpool.store.current import store_of_this_process

    store = store_of_this_process()
    if store is None:
        from distpool.driver.current import current_session

        store = current_session().store
    return ObjectRef(store.pack(value, by_reference=True), store)


@overload
def get(refs: ObjectRef[T] | Future[T], timeout_s: float | None = None) -> T: ...
@overload
def get(refs: Sequence[ObjectRef[T] | Future[T]], timeout_s: float | None = None) -> list[T]: ...
def get(refs: Any, timeout_s: float | None = None) -> Any:
    """The value of a reference or future, or the list of the values of several.

    :param timeout_s: how long to wait for all of them together; None: as long as it takes.
    :raises TimeoutError: ``concurrent.futures``'s, when that was not enough.

    What the task of a future raised is raised.
    """
    if isinstance(refs, (ObjectRef, Future)):
        return refs.result(timeout_s)
    if not isinstance(refs, (list, tuple)):
        raise TypeError(f"get() takes a reference, a future or a list of these, not {type(refs).__name__}")
    for ref in refs:
        _check(ref)
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    return [ref.result(None if deadline is None else max(0.0, deadline - time.monotonic())) for ref in refs]


def wait(refs: Iterable[Any], num_returns: int = 1, timeout_s: float | None = None) -> tuple[list[Any], list[Any]]:
    """Wait until ``num_returns`` of these references and futures are there, or the time has run out.

    :returns: those that are there (also those whose tasks failed; at most ``num_returns``), and the others, each in
        the given order.
    :raises ValueError: when there are fewer than ``num_returns``, or one is given twice.
    """
    handles = list(refs)
    for handle in handles:
        _check(handle)
    if len({id(handle) for handle in handles}) < len(handles):
        raise ValueError("wait() was given the same reference or future twice")
    if not 0 < num_returns <= len(handles):
        raise ValueError(f"num_returns must be between 1 and the number of references ({len(handles)}): {num_returns}")
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    while True:
        pending = [handle for handle in handles if not handle.done()]
        missing = num_returns - (len(handles) - len(pending))
        remaining_s = None if deadline is None else deadline - time.monotonic()
        if missing <= 0 or (remaining_s is not None and remaining_s <= 0):
            break
        wait_for_futures(pending, remaining_s, "ALL_COMPLETED" if missing == len(pending) else "FIRST_COMPLETED")
    ready = [handle for handle in handles if handle.done()][:num_returns]
    chosen = {id(handle) for handle in ready}
    return ready, [handle for handle in handles if id(handle) not in chosen]


def _check(handle: Any) -> None:
    if not isinstance(handle, (ObjectRef, Future)):
        raise TypeError(f"not a reference or future: {type(handle).__name__}")
