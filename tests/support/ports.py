"""Ports of a test's own, also while nothing listens there."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator


@contextlib.contextmanager
def reserved(count: int) -> Iterator[list[int]]:
    """So many; who dials one is refused until somebody is told to listen there.

    Another test run beside this one is given none of them: to the kernel they are taken.  Who asks for one by its
    number gets it all the same, since nobody listens and both have said that they would share.
    """
    with contextlib.ExitStack() as held:
        ports = []
        for _ in range(count):
            holder = held.enter_context(socket.socket())
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            holder.bind(("", 0))
            ports.append(holder.getsockname()[1])
        yield ports
