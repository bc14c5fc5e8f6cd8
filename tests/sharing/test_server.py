"""The server of shared objects when the system is short of something."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from typing import Any

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
        assert not server._descriptors
        address, key = server.add_descriptor(read)
        fetched = SharedDescriptor(address, key).detach()
        os.write(write, b"through")
        assert os.read(fetched, 100) == b"through"
        os.close(fetched)
    finally:
        server.remove(list(server._descriptors))
        os.close(read)
        os.close(write)


def _elsewhere(act: Callable[[], object], start: Callable[[threading.Thread], None] = threading.Thread.start) -> bool:
    """Whether another thread can do it to the end while this one waits; the limit is for when it cannot."""
    thread = threading.Thread(target=act, daemon=True)
    start(thread)
    thread.join(10)
    return not thread.is_alive()


def test_entries_may_be_collected_while_another_is_added() -> None:
    """A finalizer runs wherever memory is taken: here under the server's lock, in the thread that holds it."""

    class Collecting(dict[bytes, Any]):
        def __setitem__(self, key: bytes, entry: Any) -> None:
            server.remove([first])
            super().__setitem__(key, entry)

    server = Server()
    read, write = os.pipe()
    try:
        _, first = server.add_descriptor(read)
        server._descriptors = Collecting(server._descriptors)
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


def test_entries_may_be_collected_in_the_thread_that_is_being_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who starts a thread waits until it runs, and a finalizer may run there before."""
    server = Server()
    read, write = os.pipe()
    start = threading.Thread.start
    collected = []

    def collect_and_start(thread: threading.Thread) -> None:
        collected.append(_elsewhere(lambda: server.remove([]), start))
        start(thread)

    try:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", collect_and_start)
            address, key = server.add_descriptor(read)
        assert collected == [True]
        os.close(SharedDescriptor(address, key).detach())
    finally:
        server.remove(list(server._descriptors))
        os.close(read)
        os.close(write)


def test_two_threads_that_add_the_first_entry_share_a_listener(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server()
    read, write = os.pipe()
    start = server._start
    added = []

    def start_later() -> tuple[socket.socket, str]:
        patch.undo()
        assert _elsewhere(lambda: added.append(server.add_descriptor(read)))
        return start()

    try:
        with monkeypatch.context() as patch:
            patch.setattr(server, "_start", start_later)
            added.append(server.add_descriptor(read))
        assert len({address for address, _ in added}) == 1
        for address, key in added:
            os.close(SharedDescriptor(address, key).detach())
    finally:
        server.remove(list(server._descriptors))
        os.close(read)
        os.close(write)
