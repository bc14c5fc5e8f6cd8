"""Whether anybody listens where an engine is said to be: engines' own clients take half a minute to say that nobody
does, and say it in many words.
"""

from __future__ import annotations

import socket

from distpool.provision.interface import ProvisionError

#: How long a machine may take to take a connection.
_CONNECT_S = 10.0


def require_listener(address: str, whom: str, cure: str) -> None:
    """Return when somebody takes connections at ``address``.

    :param address: ``host:port``; IPv6 numbers in brackets.
    :param whom: who should listen there, for the error.
    :param cure: what to do when nobody does.
    :raises ProvisionError: when nobody does.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        text = f"where does {whom} listen? {address!r} is not of the form host:port"
        raise ProvisionError(text, hopeless=True)
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_S).close()
    except (OSError, OverflowError) as error:
        why = f"no answer within {_CONNECT_S:g} s" if isinstance(error, TimeoutError) else _words(error)
        raise ProvisionError(f"{whom} does not answer at {address}: {why}; {cure}", hopeless=True) from error


def _words(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error)).lower()
