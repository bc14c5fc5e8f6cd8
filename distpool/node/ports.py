"""Where workers, and the agent's site, listen for other machines."""

from __future__ import annotations

import errno

from distpool.node.control import ClusterFacts
from distpool.wire.channel import Channel


def bind_first_free(channel: Channel, facts: ClusterFacts) -> str:
    """Listen on the first port of a range that is free; returns the endpoint that others dial.

    :raises OSError: when none is free.
    """
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
