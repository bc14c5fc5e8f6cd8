"""Sockets of this machine for workers on others: managers, locks and queues that the program made here."""

from __future__ import annotations

import errno
import os
import threading
from typing import TYPE_CHECKING

from distpool.sharing.reach import connect_for_worker
from distpool.sharing.relay import Relay
from distpool.wire.streams import OpenStream, StreamMessage, StreamOpened

if TYPE_CHECKING:
    from distpool.driver.session import Session


class Streams:
    """One per session."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._relay = Relay(session.send)

    def take(self, peer: bytes, message: OpenStream | StreamMessage) -> None:
        """A worker asks to be connected, or sends more."""
        if not isinstance(message, OpenStream):
            self._relay.take(peer, message)
            return
        try:
            # Whoever listens may take his time.
            threading.Thread(target=self._open, args=(peer, message), name="distpool-stream", daemon=True).start()
        except RuntimeError as error:
            self._session.send(peer, StreamOpened(message.request, errno.EAGAIN, str(error)))

    def _open(self, peer: bytes, message: OpenStream) -> None:
        try:
            connection = connect_for_worker(message.address)
            self._relay.join(peer, message.request, connection)
        except (OSError, RuntimeError) as error:
            code = getattr(error, "errno", None) or errno.EACCES
            reason = getattr(error, "strerror", None) or str(error) or os.strerror(code)
            self._session.send(peer, StreamOpened(message.request, code, reason))
        else:
            self._session.send(peer, StreamOpened(message.request))

    def forget(self, peer: bytes) -> None:
        """A worker is gone."""
        self._relay.forget(peer)
