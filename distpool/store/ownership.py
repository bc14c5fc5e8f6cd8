"""Whose the objects are that this process has to do with, and what follows when one is no longer needed here.

Called by ``client``, whose description has the rules; does no I/O.  An object is of one of three kinds:

* *own*: made here;
* *adopted*: made, and kept, by another process (its *lender*) for this one, which owns it;
* *borrowed*: somebody else's.  It is pinned there for this process, once that was told (``pinned``), until it is told
  otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from distpool.store.lifetimes import Lifetimes
from distpool.wire.objects import Location


class Ended(msgspec.Struct):
    """What must be done about objects that nothing here needs any more.

    ``own`` slots can be used again; ``unpinned`` must be told to whom they were reported; ``returned`` to their
    lenders; ``files`` are segments of the dead that nobody needs, and ``adopted`` all objects of others that were owned
    here, both by the site where they are.
    """

    own: list[str] = []
    unpinned: list[str] = []
    returned: dict[str, list[str]] = {}
    files: dict[str, list[str]] = {}
    adopted: dict[str, list[str]] = {}


class Ownership:
    """See the module's description.

    :param owner: this process.
    :param viewed: whether a view of an object is alive here.
    """

    def __init__(self, owner: str, viewed: Callable[[str], bool]) -> None:
        self.lifetimes = Lifetimes()
        self._owner = owner
        self._viewed = viewed
        #: Adopted objects: who keeps each, which segment it lies in, how large it is, and how many each segment holds.
        self._lenders: dict[str, str] = {}
        self._segments: dict[str, str] = {}
        self._sizes: dict[str, int] = {}
        self._counts: dict[str, int] = {}
        #: segment -> the site where it is; process -> the sites where it made or lent something that was adopted
        self._homes: dict[str, str] = {}
        self._seen_at: dict[str, set[str]] = {}
        self._borrowed: set[str] = set()
        #: Objects that somebody was told are needed here, and must hear when that ends.
        self._reported: set[str] = set()
        self._dead: set[str] = set()

    def add(self, object_id: str) -> None:
        """A handle of an object of one's own."""
        self.lifetimes.add_handle(object_id)

    def borrow(self, object_ids: Iterable[str]) -> None:
        """A handle of each of these, whatever they are; unknown ones are somebody else's."""
        self._borrowed.update(filter(self.lifetimes.add_handle, object_ids))

    def adopt(self, locations: Iterable[Location]) -> dict[str, list[str]]:
        """A handle of each of these, which their lenders handed over; returns those that lenders can have back at once,
        since one is enough."""
        surplus: dict[str, list[str]] = {}
        for location in locations:
            object_id, segment = location.object_id, location.segment
            lender = location.lender or maker_of(object_id)
            new = self.lifetimes.add_handle(object_id)
            if lender == self._owner:
                continue
            if not new:
                surplus.setdefault(lender, []).append(object_id)
                continue
            self._lenders[object_id] = lender
            self._segments[object_id] = segment
            self._sizes[object_id] = location.size_bytes
            self._counts[segment] = self._counts.get(segment, 0) + 1
            self._homes[segment] = location.node
            for process in {lender, maker_of(segment)}:
                self._seen_at.setdefault(process, set()).add(location.node)
        return surplus

    def drop(self, object_ids: Iterable[str], ended: Ended) -> None:
        """A handle of each of these ended."""
        self._end(filter(self.lifetimes.drop_handle, object_ids), ended)

    def on_view_ended(self, object_id: str, ended: Ended) -> None:
        """The last view of it did."""
        self._note_unneeded(object_id, ended)

    def report(self, object_ids: Iterable[str]) -> tuple[str, ...]:
        """Those that are needed here; ``Ended.unpinned`` will name each of them once."""
        still = tuple(filter(self._needs, dict.fromkeys(object_ids)))
        self._reported.update(still)
        return still

    def unpin(self, holder: str, object_ids: Iterable[str], ended: Ended) -> None:
        """Another process no longer needs these."""
        self._end(self.lifetimes.unpin(holder, object_ids), ended)

    def on_death(self, name: str, ended: Ended) -> None:
        """Another process is no more."""
        self._dead.add(name)
        self._end(self.lifetimes.drop_holder(name), ended)

    def needed_of(self, process: str) -> dict[str, list[str]]:
        """Of a dead process: the segments, by site, that it made or lent and that are still needed here; also of sites
        where none is.  It is forgotten."""
        needed: dict[str, list[str]] = {site: [] for site in self._seen_at.pop(process, ())}
        lent = {self._segments[object_id] for object_id, lender in self._lenders.items() if lender == process}
        for segment in self._counts:
            if segment in lent or maker_of(segment) == process:
                needed.setdefault(self._homes[segment], []).append(segment)
        return needed

    def keeps(self, segment: str) -> bool:
        """Whether an object in this segment of another process' is owned here."""
        return segment in self._counts

    def orphaned(self) -> list[str]:
        """Segments of the dead in which objects are owned here."""
        return [segment for segment in self._counts if maker_of(segment) in self._dead]

    def kind_of(self, object_id: str) -> str:
        """``own``, ``adopted`` or ``borrowed``; nothing when there is no handle or pin."""
        if object_id in self._lenders:
            return "adopted"
        if object_id in self._borrowed:
            return "borrowed"
        return "own" if object_id in self.lifetimes else ""

    def segment_of(self, object_id: str) -> str:
        """Of an adopted object."""
        return self._segments.get(object_id, "")

    def size_of(self, object_id: str) -> int:
        """The bytes of an adopted object."""
        return self._sizes.get(object_id, 0)

    def _needs(self, object_id: str) -> bool:
        return object_id in self._borrowed or self._viewed(object_id)

    def _note_unneeded(self, object_id: str, ended: Ended) -> None:
        if object_id in self._reported and not self._needs(object_id):
            self._reported.discard(object_id)
            ended.unpinned.append(object_id)

    def _end(self, object_ids: Iterable[str], ended: Ended) -> None:
        for object_id in object_ids:
            lender = self._lenders.pop(object_id, None)
            if lender is not None:
                segment = self._segments.pop(object_id)
                del self._sizes[object_id]
                home = self._homes[segment]
                ended.adopted.setdefault(home, []).append(object_id)
                self._counts[segment] -= 1
                if not self._counts[segment]:
                    del self._counts[segment]
                    del self._homes[segment]
                if lender not in self._dead:
                    ended.returned.setdefault(lender, []).append(object_id)
                elif segment not in self._counts:
                    ended.files.setdefault(home, []).append(segment)
            elif object_id in self._borrowed:
                self._borrowed.discard(object_id)
                self._note_unneeded(object_id, ended)
            else:
                ended.own.append(object_id)


def maker_of(name: str) -> str:
    """The process that a segment's name, or the id of an object in it, tells."""
    return name.rpartition(".")[0]
