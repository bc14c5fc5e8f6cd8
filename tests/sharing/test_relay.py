"""Byte streams between two processes' relays, here joined by function calls."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from distpool.sharing import reach
from distpool.sharing.relay import Relay
from distpool.wire.streams import WINDOW_BYTES, StreamBytes, StreamEnded, StreamMessage

_TIMEOUT_S = 30


class Pair:
    """The relays of a worker and a driver, and a stream between them: ``near`` is the worker's end of it, ``far`` what
    the driver is connected with."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, StreamMessage]] = []
        self.worker = Relay(self._to_driver)
        self.driver = Relay(self._to_worker)
        self.near, near = socket.socketpair()
        self.far, far = socket.socketpair()
        for end in (self.near, self.far):
            end.settimeout(_TIMEOUT_S)
        self.worker.join(b"", 1, near)
        self.driver.join(b"w-1", 1, far)

    def _to_driver(self, peer: bytes, message: StreamMessage) -> None:
        assert peer == b""
        self.sent.append(("driver", message))
        self.driver.take(b"w-1", message)

    def _to_worker(self, peer: bytes, message: StreamMessage) -> None:
        assert peer == b"w-1"
        self.sent.append(("worker", message))
        self.worker.take(b"", message)

    def under_way(self) -> int:
        """Bytes on the way to the driver's side."""
        return sum(
            len(message.data) for to, message in self.sent if to == "driver" and isinstance(message, StreamBytes)
        )


@pytest.fixture
def pair() -> Iterator[Pair]:
    pair = Pair()
    threads = [relay._thread for relay in (pair.worker, pair.driver)]
    yield pair
    for end in (pair.near, pair.far):
        end.close()
    for thread in threads:
        assert thread is not None
        thread.join(_TIMEOUT_S)
        assert not thread.is_alive()


def receive(end: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size and (more := end.recv(1 << 20)):
        data += more
    return data


def test_bytes_arrive_in_order_both_ways(pair: Pair) -> None:
    question, answer = os.urandom(3 * WINDOW_BYTES + 1), os.urandom(2 * WINDOW_BYTES)
    writer = threading.Thread(target=pair.near.sendall, args=(question,))
    writer.start()
    assert receive(pair.far, len(question)) == question
    writer.join()
    writer = threading.Thread(target=pair.far.sendall, args=(answer,))
    writer.start()
    assert receive(pair.near, len(answer)) == answer
    writer.join()


def test_each_direction_ends_by_itself(pair: Pair) -> None:
    pair.near.sendall(b"question")
    pair.near.shutdown(socket.SHUT_WR)
    assert receive(pair.far, 100) == b"question"
    pair.far.sendall(b"answer")
    pair.far.close()
    assert receive(pair.near, 100) == b"answer"


def test_what_nobody_reads_does_not_pile_up(pair: Pair) -> None:
    """No more than the window is under way, and what the two sockets themselves hold."""
    pair.near.setblocking(False)
    written = 0
    data = bytes(1 << 16)
    quiet = threading.Event()
    while written < 8 * WINDOW_BYTES:
        try:
            written += pair.near.send(data)
        except BlockingIOError:
            if quiet.wait(0.05) or pair.under_way() == WINDOW_BYTES + _taken(pair):
                break
    assert written < 8 * WINDOW_BYTES
    # What is taken meanwhile is counted afterwards.
    assert pair.under_way() <= WINDOW_BYTES + _taken(pair)
    pair.far.setblocking(True)
    assert receive(pair.far, written) == bytes(written)


def _taken(pair: Pair) -> int:
    from distpool.wire.streams import StreamTaken

    return sum(message.size for to, message in pair.sent if to == "worker" and isinstance(message, StreamTaken))


def test_a_reader_that_leaves_ends_the_writer(pair: Pair) -> None:
    pair.far.close()
    assert receive(pair.near, 1) == b""
    with pytest.raises(OSError):
        for _ in range(1000):
            pair.near.sendall(bytes(1 << 16))


def test_the_streams_of_a_process_that_is_gone_end(pair: Pair) -> None:
    pair.driver.forget(b"w-2")
    pair.near.sendall(b"still there")
    assert receive(pair.far, 11) == b"still there"
    pair.driver.forget(b"w-1")
    assert receive(pair.far, 1) == b""


def test_news_of_streams_that_ended_are_nothing(pair: Pair) -> None:
    pair.driver.take(b"w-1", StreamBytes(7, b"late"))
    pair.driver.take(b"w-9", StreamEnded(1, broken=True))
    pair.near.sendall(b"x")
    assert receive(pair.far, 1) == b"x"


def test_workers_reach_only_what_multiprocessing_shares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's address may be no longer than some hundred characters
    listeners = []
    try:
        for folder in ("pymp-abc", "keys"):
            Path(folder).mkdir()
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            listeners.append(listener)
            listener.bind(f"{folder}/socket")
            listener.listen()
        reach.connect_for_worker("pymp-abc/socket").close()
        Path("pymp-link").symlink_to("keys")
        for address in ("keys/socket", "pymp-abc/../keys/socket", "pymp-link/socket", "\0other"):
            with pytest.raises(PermissionError):
                reach.connect_for_worker(address)
        with pytest.raises(FileNotFoundError):
            reach.connect_for_worker("pymp-abc/nothing")
    finally:
        for listener in listeners:
            listener.close()
