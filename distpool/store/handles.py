"""What keeps stored objects alive in their owner; made by ``client``.

A handle ends by ``release`` or when it is collected, and that may be in any thread and at any moment: it only leaves a
note for the store.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from distpool.store.serialization import Handle
from distpool.wire.driver_to_worker import Value

if TYPE_CHECKING:

    class _Store(Protocol):
        def drop_later(self, object_ids: Sequence[str]) -> None: ...


class Packed:
    """A value that can be sent.  Its stored objects live until this is released or collected.

    ``value`` is what goes into the message; ``dependencies`` are the futures and references that the payload names by
    position.
    """

    __slots__ = ("dependencies", "value")

    #: Bytes in shared memory.
    stored_bytes = 0

    def __init__(self, value: Value, dependencies: Sequence[Handle] = ()) -> None:
        self.value = value
        self.dependencies = dependencies

    def release(self) -> None:
        """Let go now instead of when collected; harmless when repeated."""

    def hand_over(self) -> Value:
        """Make the receiver the owner: the objects stay until ``ObjectStore.release`` names them."""
        return self.value


class StoredPacked(Packed):
    """A ``Packed`` with something in shared memory, or with references inside."""

    __slots__ = ("__weakref__", "_object_ids", "_store", "stored_bytes")

    def __init__(
        self,
        value: Value,
        dependencies: Sequence[Handle],
        store: _Store,
        object_ids: Sequence[str],
        stored_bytes: int,
    ) -> None:
        self.value = value
        self.dependencies = dependencies
        self.stored_bytes = stored_bytes
        self._object_ids = object_ids
        self._store: _Store | None = store

    def release(self) -> None:
        store, self._store = self._store, None
        if store is not None:
            store.drop_later(self._object_ids)

    def hand_over(self) -> Value:
        self._store = None
        return self.value

    def __del__(self) -> None:
        self.release()


class StoredValue:
    """A handle of a value that another process made; see ``ObjectStore.adopt`` and ``ObjectStore.hold``."""

    __slots__ = ("__weakref__", "_object_ids", "_store", "value")

    def __init__(self, value: Value, store: _Store | None, object_ids: Sequence[str]) -> None:
        self.value = value
        self._object_ids = object_ids
        self._store = store

    @property
    def stored_bytes(self) -> int:
        """Bytes in shared memory."""
        return sum(location.size_bytes for location in self.value.objects)

    def release(self) -> None:
        """Let go now instead of when collected; only right when no view of it was handed out."""
        store, self._store = self._store, None
        if store is not None:
            store.drop_later(self._object_ids)

    def __del__(self) -> None:
        self.release()
