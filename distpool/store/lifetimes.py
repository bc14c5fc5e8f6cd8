"""How long an object lives: handles and pins, counted by its owner.

Called by ``client``; does no I/O.  An object is *live* while its owner holds a handle of it, or some other process, a
*holder*, said that it still views it (a pin).  A holder that dies loses its pins.  What ``Lifetimes`` returns are the
objects whose life just ended, each exactly once.
"""

from __future__ import annotations

from collections.abc import Iterable


class _Object:
    __slots__ = ("handles", "holders")

    def __init__(self) -> None:
        self.handles = 1
        self.holders: set[str] | None = None


class Lifetimes:
    """The objects that this process owns, whoever made them."""

    def __init__(self) -> None:
        self._objects: dict[str, _Object] = {}
        self._by_holder: dict[str, set[str]] = {}

    def __len__(self) -> int:
        return len(self._objects)

    def __contains__(self, object_id: str) -> bool:
        return object_id in self._objects

    def objects(self) -> list[str]:
        """All that are alive."""
        return list(self._objects)

    def handles(self, object_id: str) -> int:
        """How many there are of it in this process."""
        known = self._objects.get(object_id)
        return known.handles if known is not None else 0

    def add_handle(self, object_id: str) -> bool:
        """One more handle; True when the object is new here."""
        known = self._objects.get(object_id)
        if known is None:
            self._objects[object_id] = _Object()
            return True
        known.handles += 1
        return False

    def drop_handle(self, object_id: str) -> bool:
        """One handle less; True when that ended the object.  Unknown objects are ignored."""
        known = self._objects.get(object_id)
        if known is None or not known.handles:
            return False
        known.handles -= 1
        return self._ended(object_id, known)

    def pin(self, holder: str, object_ids: Iterable[str]) -> None:
        """``holder`` views these; ids of objects that are not owned here are ignored."""
        for object_id in object_ids:
            known = self._objects.get(object_id)
            if known is None:
                continue
            if known.holders is None:
                known.holders = set()
            known.holders.add(holder)
            self._by_holder.setdefault(holder, set()).add(object_id)

    def unpin(self, holder: str, object_ids: Iterable[str]) -> list[str]:
        """``holder`` no longer views these; returns those that ended."""
        pinned = self._by_holder.get(holder)
        ended: list[str] = []
        if pinned is None:
            return ended
        for object_id in object_ids:
            if object_id not in pinned:
                continue
            pinned.discard(object_id)
            known = self._objects[object_id]
            if known.holders is not None:
                known.holders.discard(holder)
            if self._ended(object_id, known):
                ended.append(object_id)
        if not pinned:
            del self._by_holder[holder]
        return ended

    def drop_holder(self, holder: str) -> list[str]:
        """``holder`` died; returns the objects that ended."""
        return self.unpin(holder, list(self._by_holder.get(holder, ())))

    def holders(self, object_id: str) -> list[str]:
        """Who pins it."""
        known = self._objects.get(object_id)
        return sorted(known.holders) if known is not None and known.holders else []

    def check_invariants(self) -> None:
        """Raise AssertionError when the two indexes disagree or a dead object is remembered."""
        for object_id, known in self._objects.items():
            assert known.handles or known.holders, f"{object_id} is remembered though nothing keeps it"
            for holder in known.holders or ():
                assert object_id in self._by_holder[holder], f"{holder} does not know that it pins {object_id}"
        for holder, object_ids in self._by_holder.items():
            assert object_ids, f"{holder} is remembered though it pins nothing"
            for object_id in object_ids:
                assert holder in (self._objects[object_id].holders or ()), f"{object_id} does not know {holder}"

    def _ended(self, object_id: str, known: _Object) -> bool:
        if known.handles or known.holders:
            return False
        del self._objects[object_id]
        return True
