"""Sockets of the driver's machine, for a worker on another one (see ``distpool.sharing.reach``)."""

from __future__ import annotations

import os
import socket
from typing import Any

from distpool.sharing.reach import ask_driver_through
from distpool.sharing.relay import Relay
from distpool.wire.streams import OpenStream, StreamOpened
from distpool.worker.mailbox import Mailbox

_DRIVER = b""
_FORKED = (
    "locks, queues and managers of the program are on another machine than this, and a process that a task forked "
    "(pid {pid}) has no connection with it: use them in the task itself, or submit what the process does as a task of "
    "its own"
)


def install(mailbox: Mailbox) -> None:
    """From now on, what this process does not find on its machine it has the driver look for."""
    relay = Relay(lambda _, message: mailbox.tell_driver(message))
    mailbox.on_stream = lambda message: relay.take(_DRIVER, message)

    def ask(address: str) -> socket.socket:
        if mailbox.foreign:  # no error that says that the socket is gone: it is not
            raise RuntimeError(_FORKED.format(pid=os.getpid()))
        ours, relayed = socket.socketpair()

        def open_stream(number: int) -> Any:
            # Before the driver is asked: bytes may follow its answer at once.
            relay.join(_DRIVER, number, relayed)
            return OpenStream(number, address)

        try:
            answer: StreamOpened = mailbox.request(open_stream)
            if answer.error:
                raise OSError(answer.error, answer.reason or os.strerror(answer.error))
        except BaseException:
            ours.close()  # which ends the stream
            raise
        return ours

    ask_driver_through(ask)
