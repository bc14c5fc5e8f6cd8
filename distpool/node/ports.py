"""Where workers, and the agent's site, listen for other machines."""

from __future__ import annotations

import contextlib
import errno
import resource

from distpool.node.control import ClusterFacts
from distpool.wire.channel import Channel

#: Connections that are not authenticated yet take descriptors of whoever listens, which tasks need too.
_DESCRIPTORS = 65536


def bind_first_free(channel: Channel, facts: ClusterFacts) -> str:
    """Listen on the first port of a range that is free; returns the endpoint that others dial.

    :raises OSError: when none is free.
    """
    make_room_for_strangers()
    for port in range(facts.first_port, facts.last_port + 1):
        try:
            endpoint = channel.bind(f"tcp://{facts.bind_host}:{port or '*'}")
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
        else:
            return f"tcp://{facts.advertised_host}:{endpoint.rpartition(':')[2]}"
    raise OSError(
        errno.EADDRINUSE,
        f"all ports from {facts.first_port} to {facts.last_port} on {facts.bind_host} are in use: start the node with "
        "a larger range for --worker-ports",
    )


def make_room_for_strangers() -> None:
    """Have this process, which listens on TCP, hold as many connections as the system lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
