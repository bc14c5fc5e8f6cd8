"""The parts of a store that deal with shared memory; loaded, and made, when something is first kept there.

Many programs send nothing but small values, which travel inside the messages.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from distpool.store.endings import Endings
from distpool.store.reading import Reader
from distpool.store.room import Room
from distpool.store.writing import Writer

if TYPE_CHECKING:
    from distpool.store.client import ObjectStore


class Parts:
    """One per store that has needed them; parameters as for ``ObjectStore``.

    :param lock: guards them all.
    """

    def __init__(
        self,
        store: ObjectStore,
        lock: threading.Lock,
        recycle_bytes: int | None,
        prepare: Callable[[], None] | None,
    ) -> None:
        self.room = Room(store.folder, store.owner, lock, store, recycle_bytes, prepare)
        self.endings = Endings(store.owner, store.node, lock, self.room, store)
        self.views, self.ownership = self.endings.views, self.endings.ownership
        self.reader = Reader(lock, self.room, self.views, store)
        self.writer = Writer(store.owner, store.node, lock, self.room, self.endings, store)
