"""Unix sockets by address: those of this machine and, in a worker on another one than its driver, the driver's.

``multiprocessing``'s managers, and distpool's server of semaphores and connections, listen on such sockets; what is
pickled names them.  A worker of a cluster that has no such socket on its own machine asks its driver, which connects
it with the one that it has; a driver that is itself in a worker asks its own in turn.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable
from typing import Any

#: Asks the driver for a connection; None where this process is no worker of a cluster.
_ask: Callable[[str], socket.socket] | None = None


def connect(address: str) -> socket.socket:
    """A connection to the Unix socket of that address, wherever it is.

    :raises OSError: as a socket does when nobody listens there.
    """
    try:
        return connect_here(address)
    except (FileNotFoundError, ConnectionRefusedError):
        if _ask is None:
            raise
        return _ask(address)


def connect_here(address: str) -> socket.socket:
    """A connection to the Unix socket of that address on this machine (errors as for ``connect``)."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.connect(address)
    except BaseException:
        connection.close()
        raise
    return connection


def asks_driver() -> bool:
    """Whether what is not on this machine may be elsewhere."""
    return _ask is not None


def connect_for_worker(address: str) -> socket.socket:
    """The same for a worker on another machine, which is given nothing but what ``multiprocessing`` shares.

    :raises PermissionError: when the socket is neither a server of ours nor in a folder of ``multiprocessing``'s own.
    """
    if not (_is_server(address) or _is_of_multiprocessing(address)):
        raise PermissionError("only sockets of managers and of shared objects can be reached from another machine")
    return connect(address)


def _is_server(address: str) -> bool:
    return address.startswith("\0distpool-")


def _is_of_multiprocessing(address: str) -> bool:
    """Whether it is in one of the private folders that ``multiprocessing.util.get_temp_dir`` makes."""
    folder = os.path.dirname(address)
    if not os.path.basename(folder).startswith("pymp-") or ".." in address:
        return False
    if _ask is not None and not os.path.exists(folder):
        return True  # whoever has it looks again
    try:
        status = os.lstat(folder)
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()


def ask_driver_through(ask: Callable[[str], socket.socket]) -> None:
    """Have what is not found on this machine asked for (called once, in a worker of a cluster).

    :param ask: raises ``OSError`` when the driver cannot connect either.
    """
    global _ask
    _ask = ask


def reach_managers() -> None:
    """Have ``multiprocessing.connection.Client``, and so proxies of managers, find what the driver finds."""
    if _ask is None:
        return
    from multiprocessing import connection

    module: Any = connection
    plain = module.SocketClient

    def socket_client(address: Any) -> Any:
        if not isinstance(address, str):
            return plain(address)
        try:
            return module.Connection(connect(address).detach())
        except OSError as error:
            raise type(error)(
                error.errno,
                f"the manager or listener at {address!r} cannot be reached: it has ended, or runs neither on this "
                f"machine nor on that of the program ({error.strerror}). Start a manager that several machines are "
                "to use in the program itself, or let it listen on a network address",
            ) from None

    module.SocketClient = socket_client
