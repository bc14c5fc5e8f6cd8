"""Messages in frames that are small enough for strangers to send.

Over TCP no frame is larger than ``FRAME_BYTES``: nobody can make us take in more than that before he has failed to
authenticate.  A larger part of a message travels as several frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

Frame: TypeAlias = "bytes | memoryview"

FRAME_BYTES = 1 << 18


def in_pieces(parts: Sequence[Frame]) -> Sequence[Frame]:
    """The same bytes in frames of ``FRAME_BYTES`` at most.

    The frame that ends a part is shorter, perhaps empty: so the receiver can put it together again.
    """
    if all(len(part) < FRAME_BYTES for part in parts):
        return parts
    whole = [memoryview(part) for part in parts]
    return [part[start : start + FRAME_BYTES] for part in whole for start in range(0, len(part) + 1, FRAME_BYTES)]


def put_together(frames: Sequence[Any]) -> list[Any]:
    """The parts again; those that came in one frame as they are."""
    parts = []
    began = 0
    for i, frame in enumerate(frames, 1):
        if len(frame) < FRAME_BYTES or i == len(frames):
            parts.append(frames[began] if i == began + 1 else b"".join(frames[began:i]))
            began = i
    return parts
