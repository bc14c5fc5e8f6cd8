"""What travels in several frames is what it was when it arrives."""

from __future__ import annotations

import pytest

from distpool.wire.frames import FRAME_BYTES, in_pieces, put_together

_SIZES = (0, 1, FRAME_BYTES - 1, FRAME_BYTES, FRAME_BYTES + 1, 3 * FRAME_BYTES)


@pytest.mark.parametrize("first", _SIZES)
@pytest.mark.parametrize("second", [None, *_SIZES])
def test_parts_keep_their_bounds(first: int, second: int | None) -> None:
    parts = [bytes(first)] if second is None else [bytes(first), b"x" * second]
    frames = in_pieces(parts)
    assert max(map(len, frames)) <= FRAME_BYTES
    assert put_together(frames) == parts
