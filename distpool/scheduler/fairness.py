"""Who is served next, and what would be everybody's fair share.

Serving whoever holds least, one lease at a time, is water filling: it ends where nobody can get more without
somebody who has less getting less.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Hashable, Mapping
from typing import Generic, TypeAlias, TypeVar

T = TypeVar("T", bound=Hashable)
K = TypeVar("K", bound=Hashable)
Key: TypeAlias = "tuple[float, ...]"
#: A heap of fewer entries is not worth sweeping.
_SWEEP = 64


class FairQueue(Generic[T]):
    """Members by a key that changes while they are in it; the smallest first.

    The heap is corrected lazily: a key that grew is noticed when its entry comes to the top; after a key *fell*,
    ``touch`` must be called.  Keys end in a unique number, so members themselves are never compared.  Dead entries
    that would never come to the top are swept out when they are the majority.
    """

    __slots__ = ("_heap", "_key", "_members")

    def __init__(self, key: Callable[[T], Key]) -> None:
        self._key = key
        self._heap: list[tuple[Key, T]] = []
        #: each member's smallest entry in the heap; other entries are dead
        self._members: dict[T, Key] = {}

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, item: T) -> bool:
        return item in self._members

    def add(self, item: T) -> None:
        """Add a member; no effect if it is one and its key has not fallen."""
        key = self._key(item)
        known = self._members.get(item)
        if known is None or key < known:
            self._members[item] = key
            heapq.heappush(self._heap, (key, item))
            if len(self._heap) > 2 * len(self._members) + _SWEEP:
                self._heap = [(key, item) for item, key in self._members.items()]
                heapq.heapify(self._heap)

    def touch(self, item: T) -> None:
        """The key of ``item`` fell; no effect if it is no member."""
        if item in self._members:
            self.add(item)

    def discard(self, item: T) -> None:
        """Remove a member, if it is one."""
        self._members.pop(item, None)

    def best(self) -> T | None:
        """The member with the smallest key, which stays one."""
        heap = self._heap
        while heap:
            key, item = heap[0]
            if self._members.get(item) != key:
                heapq.heappop(heap)
                continue
            current = self._key(item)
            if current == key:
                return item
            self._members[item] = current
            heapq.heapreplace(heap, (current, item))
        return None


def fair_shares(capacity: float, wants: Mapping[K, float]) -> dict[K, float]:
    """Divide ``capacity`` among those who want some: nobody gets more than wanted, the rest evenly (water filling)."""
    shares: dict[K, float] = {}
    left = capacity
    count = len(wants)
    for name, want in sorted(wants.items(), key=lambda item: item[1]):
        share = min(want, max(0.0, left) / count)
        shares[name] = share
        left -= share
        count -= 1
    return shares
