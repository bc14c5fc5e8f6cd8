"""How large the chunks of a map are whose caller left that to the pool.

Chunks are cut one after the other, while the map runs, and are sized by what the ones before them took: so small that
little waits behind an item that takes long, and so large that their handling does not count.  No I/O, no clock.
"""

from __future__ import annotations

#: Chunks under way for each worker: one that runs, and one that waits for it.
AHEAD = 2
#: Seconds that a chunk is meant to be under way.  About half of that it waits behind another one.
TURN_S = 0.016
#: What is not worth a chunk of its own when little is left.
LEAST_S = 0.001
#: Weight of the latest chunk in what an item is taken to need.
_LATEST = 0.5


def usual_size(length: int, workers: int) -> int:
    """About four chunks for each worker, as in the standard library."""
    return -(-length // (4 * workers)) or 1


class ChunkCore:
    """The sizes of one map's chunks.

    :param length: how many items there seem to be; the iterable decides.
    :param workers: how many chunks can run at a time.
    """

    def __init__(self, length: int, workers: int) -> None:
        self._left = length
        self._most_under_way = AHEAD * workers
        self._most = usual_size(length, workers)
        self._item_s = 0.0
        self._under_way = 0

    def next_size(self) -> int:
        """How many items the next chunk is to have; 0: wait until one is answered."""
        if self._under_way >= self._most_under_way:
            return 0
        if not self._item_s:
            return 1
        share = -(-self._left // self._most_under_way)
        size = max(min(TURN_S / self._item_s, share), LEAST_S / self._item_s)
        return max(1, int(min(size, self._most)))

    def on_sent(self, size: int) -> None:
        """A chunk of ``size`` items is under way."""
        self._left = max(0, self._left - size)
        self._under_way += 1

    def on_answered(self, size: int, took_s: float) -> None:
        """It was answered ``took_s`` seconds after it was sent."""
        self._under_way -= 1
        # A clock may be too coarse for a single short item.
        each_s = max(took_s, 1e-6) / size
        self._item_s = each_s if not self._item_s else _LATEST * each_s + (1 - _LATEST) * self._item_s
