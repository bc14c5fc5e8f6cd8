"""The node's event loop."""

from __future__ import annotations

import os

from distpool.node.loop import Loop


def test_a_descriptor_that_is_closed_and_made_again_in_one_turn_is_not_taken_for_the_old_one() -> None:
    loop = Loop()
    first, write_first = os.pipe()
    other, write_other = os.pipe()
    os.write(write_first, b"x")
    os.write(write_other, b"x")
    called: list[str] = []

    def replace() -> None:
        called.append("replaced")
        loop.unwatch(other)
        os.dup2(first, other)  # the kernel gives the number to something new
        loop.watch(other, lambda: called.append("new"))
        loop.stop()

    loop.watch(first, replace)
    loop.watch(other, lambda: called.append("old"))
    loop.run_once()
    assert called in (["replaced"], ["old", "replaced"])  # whichever is looked at first
    for fd in (first, write_first, other, write_other):
        os.close(fd)
