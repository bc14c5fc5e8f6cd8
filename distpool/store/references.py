"""``ObjectRef``: a stored value by name, to be handed around instead of the value.

Made by ``distpool.put`` and by unpickling (see ``client`` for who keeps what alive meanwhile).  A reference and a
``DistFuture`` can stand for each other: both are arguments that arrive as values, both can be nested in stored objects
and results (and arrive there as references), ``distpool.get`` and ``wait`` take both.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, Generic, TypeVar

from distpool.errors import DependencyError, ObjectLostError, SerializationError
from distpool.store.serialization import current_store, reduce_dependency
from distpool.wire.driver_to_worker import Value
from distpool.wire.objects import Location

T = TypeVar("T")


class ObjectRef(Generic[T]):
    """A value in the object store; it stays there as long as this reference, or any other to it, exists anywhere.

    As (part of) an argument of a task it arrives as the value.  Inside ``put`` and inside a task's result it stays a
    reference.  ``distpool.get(ref)`` fetches the value.
    """

    __slots__ = ("__weakref__", "_packed", "_store")

    def __init__(self, packed: Any, store: Any) -> None:
        #: The handle: has the ``Value`` and keeps its objects.
        self._packed = packed
        self._store = store

    def result(self, timeout: float | None = None) -> T:
        """The value, mapped and not copied; each call makes one of its own.

        :param timeout: is not needed, the value is there; futures have it.
        :raises ObjectLostError: when it is gone because the process that held it died.
        """
        try:
            value: T = self._store.unpack(self._packed.value, owner=self._packed)
        except ObjectLostError as error:
            raise ObjectLostError(
                f"{error}; it was stored with put(), by this program or in a task, and only the results of tasks can "
                "be computed again",
                error.object_ids,
            ) from None
        return value

    def done(self) -> bool:
        """True: unlike a future's, its value is there."""
        return True

    def cancelled(self) -> bool:
        """False."""
        return False

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """None."""
        return None

    def add_done_callback(self, fn: Callable[[Any], object]) -> None:
        """Call ``fn(self)`` at once."""
        fn(self)

    def __await__(self) -> Generator[Any, None, T]:
        """``await ref`` gives the value."""
        return self.result()
        yield

    def __reduce__(self) -> Any:
        return reduce_dependency(self)

    def __copy__(self) -> ObjectRef[T]:
        return self

    def __deepcopy__(self, memo: Any) -> ObjectRef[T]:
        return self

    def __repr__(self) -> str:
        value = self._packed.value
        names = dict.fromkeys(location.object_id for location in value.objects if location.size_bytes)
        size = sum(location.size_bytes for location in value.objects) + len(value.payload)
        return f"<ObjectRef {', '.join(names) or 'inline'}: {size:,} bytes>"


def value_of(handle: Any) -> Value:
    """What a reference, or a future whose task succeeded, stands for.  Waits for a future.

    :raises DependencyError: when the future's task failed.
    """
    if isinstance(handle, ObjectRef):
        value: Value = handle._packed.value
        return value
    error: BaseException | None
    try:
        error = handle.exception()
    except BaseException as cancelled:
        if not handle.done():
            raise  # interrupted
        error = cancelled
    if error is not None:
        raise DependencyError(f"a future inside the value failed with {type(error).__name__}: {error}") from error
    of_future: Value = handle._packed.value
    return of_future


def reduce_reference(handle: Any) -> tuple[Any, ...]:
    """A reference in a stored object or result: all that is needed to open it."""
    value = value_of(handle)
    fields = Location.__struct_fields__
    return load_reference, (value.payload, [tuple(getattr(o, field) for field in fields) for o in value.objects])


def load_reference(payload: bytes, locations: list[tuple[Any, ...]]) -> ObjectRef[Any]:
    """The counterpart of ``reduce_reference``."""
    store = current_store()
    if store is None:
        raise SerializationError("a reference to a stored object is only valid inside distpool")
    value = Value(payload, tuple(Location(*fields) for fields in locations))
    return ObjectRef(store.hold(value), store)
