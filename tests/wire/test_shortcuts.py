"""Channels with shortcuts between them: every message once and in order, whichever way it took."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from distpool.wire import shortcuts
from distpool.wire.channel import Channel

pytestmark = pytest.mark.skipif(not hasattr(socket, "SOCK_SEQPACKET"), reason="this system has no such sockets")


class Pair:
    """A worker's channel and that of its driver."""

    def __init__(self, folder: Path) -> None:
        self.context = zmq.Context()
        self.worker = Channel(self.context, b"w-1")
        self.driver = Channel(self.context, b"d-1")
        self.endpoint = self.worker.bind(f"ipc://{folder}/w", shortcuts=True)

    def dial(self) -> None:
        self.driver.connect(self.endpoint, b"w-1", shortcut=True)

    def greet(self) -> None:
        """One message each way, after which both know whether there is a shortcut."""
        self.driver.send(b"w-1", (b"hello",))
        assert self.take(self.worker, 1) == [b"hello"]
        self.worker.send(b"d-1", (b"hello yourself",))
        assert self.take(self.driver, 1) == [b"hello yourself"]

    def take(self, channel: Channel, count: int) -> list[bytes]:
        frames: list[bytes] = []
        while len(frames) < count:
            for _, message in channel.receive(10.0):
                assert len(message) <= 1  # none: the shortcut ended
                frames += message
        return frames

    def direct(self) -> bool:
        """Whether the driver's next message would not touch ZeroMQ."""
        return self.driver._shortcuts.send(b"w-1", b"probe") is None

    def close(self) -> None:
        self.driver.close()
        self.worker.close()
        self.context.destroy(linger=0)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    pair = Pair(tmp_path)
    yield pair
    pair.close()


def test_small_messages_do_not_touch_zeromq(pair: Pair) -> None:
    pair.dial()
    pair.greet()
    assert pair.direct()
    assert pair.take(pair.worker, 1) == [b"probe"]


def test_a_worker_that_is_faster_than_the_greeting_waits_for_it(pair: Pair) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as slow:
        slow.settimeout(10.0)
        slow.connect(shortcuts.path_beside(pair.endpoint))
        pair.worker.drain()  # takes the connection in before anything was said
        slow.send(shortcuts._GREETING + b"d-slow")
        ready = pair.worker.wait(10.0)
        assert pair.worker.drain(ready) == []
        assert slow.recv(100) == shortcuts._GREETING
        slow.send(bytes(8) + b"first")
        assert pair.take(pair.worker, 1) == [b"first"]


def test_a_thread_that_waits_already_hears_of_a_new_shortcut(pair: Pair) -> None:
    heard: list[bytes] = []
    listener = threading.Thread(target=lambda: heard.extend(pair.take(pair.worker, 2)))
    listener.start()
    pair.dial()
    pair.driver.send(b"w-1", (b"hello",))
    while not pair.driver._shortcuts._by_peer[b"w-1"].usable:
        assert pair.driver.wait(10.0)
        pair.driver.drain()
    assert pair.direct()
    listener.join(10.0)
    assert heard == [b"hello", b"probe"]


def test_order_holds_between_large_messages_small_ones_and_a_full_socket(pair: Pair) -> None:
    pair.dial()
    pair.greet()
    sizes = (10, shortcuts.MOST_BYTES + 1, 20_000, 3)
    sent = [i.to_bytes(4, "little") * (sizes[i % 4] // 4 + 1) for i in range(400)]  # 5 MB: more than a socket holds
    for sender, receiver, peer in ((pair.driver, pair.worker, b"w-1"), (pair.worker, pair.driver, b"d-1")):
        for frame in sent:
            sender.send(peer, (frame,))
        assert pair.take(receiver, len(sent)) == sent


def test_a_waiting_thread_is_told_of_a_message_that_takes_the_shortcut(pair: Pair) -> None:
    pair.dial()
    pair.greet()
    assert not pair.worker.wait(0)
    assert pair.direct()
    ready = pair.worker.wait(10.0)
    assert ready
    assert [frames for _, frames in pair.worker.drain(ready)] == [[b"probe"]]
    assert not pair.worker.wait(0)


def test_the_end_of_a_worker_is_heard_behind_all_that_it_said(pair: Pair) -> None:
    pair.dial()
    pair.greet()
    large = bytes(shortcuts.MOST_BYTES + 1)
    for frame in (b"small", large, b"last"):
        pair.worker.send(b"d-1", (frame,))
    assert pair.take(pair.driver, 3) == [b"small", large, b"last"]
    pair.worker.send(b"d-1", (b"last of all",))
    pair.worker.close()
    heard: list[tuple[bytes, list[bytes]]] = []
    while len(heard) < 2:
        heard += pair.driver.receive(10.0)
    assert heard == [(b"w-1", [b"last of all"]), (b"w-1", [])]


def test_the_end_of_a_worker_is_not_called_its_last_word_while_one_is_missing(pair: Pair) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        endpoint = f"{pair.endpoint}x"
        listener.bind(shortcuts.path_beside(endpoint))
        listener.listen()
        pair.driver.connect(endpoint, b"w-2", shortcut=True)
        worker, _ = listener.accept()
        with worker:
            worker.send(shortcuts._GREETING)
            worker.send((0).to_bytes(8, "little"))  # it goes through ZeroMQ, and never comes
        by_peer = pair.driver._shortcuts._by_peer
        while by_peer[b"w-2"].socket is not None:
            assert pair.driver.receive(10.0) == []


def test_where_nobody_listens_messages_go_through_zeromq(pair: Pair, tmp_path: Path) -> None:
    os.unlink(shortcuts.path_beside(pair.endpoint))
    pair.dial()
    pair.greet()
    assert not pair.direct()


def test_a_side_that_cannot_accept_is_reached_through_zeromq(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    def accept(listener: socket.socket) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(socket.socket, "accept", accept)
    pair.dial()
    for _ in range(3):
        pair.greet()
    assert not pair.direct()


def test_a_shortcut_that_breaks_is_followed_by_zeromq(pair: Pair) -> None:
    pair.dial()
    pair.greet()
    pair.driver.send(b"w-1", (b"last",))
    connection = pair.driver._shortcuts._by_peer[b"w-1"].socket
    assert connection is not None
    connection.shutdown(socket.SHUT_RDWR)
    pair.driver.send(b"w-1", (b"after",))
    assert pair.take(pair.worker, 2) == [b"last", b"after"]
    pair.worker.send(b"d-1", (b"answer",))
    assert pair.take(pair.driver, 1) == [b"answer"]
    assert not pair.driver.wait(0)


def test_last_words_arrive_after_the_end(pair: Pair) -> None:
    pair.dial()
    pair.greet()
    pair.driver.send(b"w-1", (b"never read",))
    pair.worker.send(b"d-1", (b"last words",))
    pair.worker._shortcuts.close()
    assert pair.take(pair.driver, 1) == [b"last words"]


def test_strangers_at_the_socket_are_sent_away(pair: Pair) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as stranger:
        stranger.connect(shortcuts.path_beside(pair.endpoint))
        stranger.send(b"let me in")
        pair.dial()
        pair.greet()
        assert stranger.recv(10) == b""
    assert pair.direct()


def test_hanging_up_leaves_no_descriptor(pair: Pair) -> None:
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    pair.dial()
    pair.greet()
    pair.driver.disconnect(b"w-1")
    assert pair.worker.wait(10.0)
    pair.worker.drain()
    assert b"w-1" not in pair.driver._shortcuts._by_peer
    if before:
        connections = sum(1 for fd in os.listdir("/proc/self/fd") if fd.isdigit())
        assert connections <= before + 4  # ZeroMQ closes its own in its own time
