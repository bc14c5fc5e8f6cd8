"""What is done about objects of the store that nothing here needs any more.

That is found out anywhere, in finalizers too, which may do no more than take a note; whoever can take the store's lock
does what is noted.  Whose an object was, and what follows from that, says ``ownership``.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from distpool import crashpoints
from distpool.store.ownership import Ended, Ownership
from distpool.store.room import Room
from distpool.store.segments import Slot
from distpool.store.views import View, Views
from distpool.wire.site_to_site import ObjectsEnded, SegmentsUnneeded

if TYPE_CHECKING:
    from distpool.store.elsewhere import Elsewhere

    class _Party(Protocol):
        """Who is told, see ``client.ObjectStore``."""

        elsewhere: Elsewhere | None
        on_unpinned: Callable[[list[str]], None]
        on_free: Callable[[str, list[str]], None]


class Endings:
    """See the module's description.  Any thread may call any method.

    :param owner: the process.
    :param node: its node's id.
    :param lock: of the store.
    """

    def __init__(self, owner: str, node: str, lock: threading.Lock, room: Room, party: _Party) -> None:
        self._node = node
        self._lock = lock
        self._room = room
        self._party = party
        self._pid = os.getpid()
        #: What finalizers want done; whoever can take the lock does it.
        self._chores: deque[View | Sequence[str]] = deque()
        self.views = Views(room.folder.path, self._end_view_later, room.folder.find_spilled)
        self.ownership = Ownership(owner, self.views.viewed)
        #: Where the objects that were made here lie.
        self.slots: dict[str, Slot] = {}

    def _end_view_later(self, view: View) -> None:
        self._chores.append(view)
        self.do_chores()

    def drop_later(self, object_ids: Sequence[str]) -> None:
        """A handle of these ended; called by handles only, also in finalizers."""
        self._chores.append(object_ids)
        self.do_chores()

    def do_chores(self) -> None:
        """Do what finalizers left; never waits.  Whoever holds the lock looks again after letting go of it, so nothing
        stays undone."""
        chores = self._chores
        while chores and self._lock.acquire(blocking=False):
            ended = Ended()
            done: list[View | Sequence[str]] = []
            try:
                while chores:
                    chore = chores.popleft()
                    done.append(chore)  # a view's owner must not be finalized under the lock
                    if self._pid != os.getpid():
                        continue  # a forked child looks at its parent's objects; the parent does the books
                    if isinstance(chore, View):
                        object_id = self.views.close(chore)
                        if object_id is not None:
                            self.ownership.on_view_ended(object_id, ended)
                    else:
                        self.ownership.drop(chore, ended)
                self.dispose(ended)
            finally:
                self._lock.release()
            self.tell(ended)

    def dispose(self, ended: Ended) -> None:
        """Do what must be done under the lock."""
        crashpoints.reach("store.ending")
        for object_id in ended.own:
            slot = self.slots.pop(object_id, None)
            if slot is not None:
                self._room.free(slot)
        if self._party.elsewhere is None:
            for segment in itertools.chain.from_iterable(ended.files.values()):
                self._room.folder.remove(segment)
        crashpoints.reach("store.freed")

    def tell(self, ended: Ended) -> None:
        """Tell whom it concerns; without the lock."""
        if ended.unpinned:
            self._party.on_unpinned(ended.unpinned)
        for lender, object_ids in ended.returned.items():
            self._party.on_free(lender, object_ids)
        elsewhere = self._party.elsewhere
        if elsewhere is not None:
            if ended.own:
                elsewhere.tell(self._node, ObjectsEnded(ended.own))
            for site, object_ids in ended.adopted.items():
                elsewhere.tell(site, ObjectsEnded(object_ids))
            for site, segments in ended.files.items():
                elsewhere.tell(site, SegmentsUnneeded(segments))
