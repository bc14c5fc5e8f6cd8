"""The server of shared objects when the system is short of something."""

from __future__ import annotations

import os
import threading

import pytest

from distpool.sharing.server import Server, SharedDescriptor


def test_a_thread_that_cannot_be_started_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    server = Server()
    read, write = os.pipe()
    try:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            with pytest.raises(RuntimeError, match="can't start"):
                server.add_descriptor(read)
        address, key = server.add_descriptor(read)
        fetched = SharedDescriptor(address, key).detach()
        os.write(write, b"through")
        assert os.read(fetched, 100) == b"through"
        os.close(fetched)
    finally:
        server.remove(list(server._descriptors))
        os.close(read)
        os.close(write)


def test_entries_may_be_collected_while_another_is_added(monkeypatch: pytest.MonkeyPatch) -> None:
    """A finalizer runs wherever memory is taken: here under the server's lock, in the thread that holds it."""
    server = Server()
    read, write = os.pipe()
    try:
        _, first = server.add_descriptor(read)
        start = server._start

        def collect_and_start() -> str:
            server.remove([first])
            return start()

        with monkeypatch.context() as patch:
            patch.setattr(server, "_start", collect_and_start)
            address, key = server.add_descriptor(read)
        fetched = SharedDescriptor(address, key).detach()
        os.write(write, b"through")
        assert os.read(fetched, 100) == b"through"
        os.close(fetched)
        assert list(server._descriptors) == [key]
    finally:
        server.remove(list(server._descriptors))
        os.close(read)
        os.close(write)
