"""What a process has to do with, object by object, for whoever asks the node what is in its store."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from distpool.store.ownership import Ownership
from distpool.store.segments import Slot
from distpool.store.views import Views
from distpool.wire.store_client_to_agent import ObjectFacts


def describe_objects(
    ownership: Ownership, views: Views, slots: Mapping[str, Slot], place_of: Callable[[str], str]
) -> list[ObjectFacts]:
    """Everything that is owned, held or viewed here (caller holds the client's lock).

    :param slots: where the objects lie that were made here.
    :param place_of: whether a segment is in memory or on disk.
    """
    lifetimes = ownership.lifetimes
    known = lifetimes.objects()
    described = []
    for object_id in [*known, *views.objects(known)]:
        slot = slots.get(object_id)
        size_bytes, where = 0, ""
        if slot is not None:
            size_bytes, where = slot.used_bytes, place_of(slot.segment.name)
        elif ownership.segment_of(object_id):
            size_bytes, where = ownership.size_of(object_id), place_of(ownership.segment_of(object_id))
        described.append(
            ObjectFacts(
                object_id,
                size_bytes,
                where,
                ownership.kind_of(object_id),
                lifetimes.handles(object_id),
                views.viewed(object_id),
                tuple(lifetimes.holders(object_id)),
            )
        )
    return described
