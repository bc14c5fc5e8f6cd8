"""The short way of pickling arguments makes what the long one makes, or leaves them to it."""

from __future__ import annotations

from typing import Any

import pytest

from distpool.store.serialization import serialize, serialize_plain_call

INLINE = 1 << 16


class Number(int):
    """Not plain: how it is pickled is its own affair."""


@pytest.mark.parametrize(
    "args", [(), (1,), (1, 2.5, True, None), ("text", b"bytes", "ü" * 100), (0,) * 500, (1 << 4000,)]
)
def test_it_makes_what_the_long_way_makes(args: tuple[Any, ...]) -> None:
    assert serialize_plain_call(args, INLINE) == serialize((args, {}), INLINE)


@pytest.mark.parametrize(
    "args",
    [
        ([],),
        (Number(1),),
        (1, object()),
        ("x" * 2000,),
        (b"x" * INLINE,),
        (1 << (8 * INLINE),),
        (1.5,) * INLINE,
        (bytearray(b"x"),),
        (1j,),  # goes through ``copyreg``
    ],
)
def test_it_leaves_to_the_long_way_what_may_need_it(args: tuple[Any, ...]) -> None:
    assert serialize_plain_call(args, INLINE) is None


def test_what_is_stored_from_the_first_byte_on_is_left_to_it() -> None:
    assert serialize_plain_call((1,), 1) is None
