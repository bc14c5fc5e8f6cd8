"""Ends of pipes through their owner."""

from __future__ import annotations

import math
import multiprocessing
import multiprocessing.connection
import threading
from collections.abc import Iterator

import pytest

from distpool.sharing.connections import _RECEIVE, _REQUEST, RemoteConnection
from distpool.sharing.server import USE_CONNECTION, Server, connect

_TIMEOUT_S = 30


class Owner:
    """Serves one end of a pipe; ``end`` is the other, ``remote`` what a process elsewhere has of the first."""

    def __init__(self) -> None:
        self.server = Server()
        self.end, served = multiprocessing.Pipe()
        address, key = self.server.add_descriptor(served.fileno())
        served.close()
        self.key = key
        self.remote = RemoteConnection(address, key, True, True)

    def close(self) -> None:
        self.remote.close()
        self.end.close()
        self.server.remove([self.key])
        for thread in threading.enumerate():
            if thread.name.startswith("distpool-sharing"):
                thread.join(_TIMEOUT_S)


@pytest.fixture
def owner() -> Iterator[Owner]:
    owner = Owner()
    yield owner
    owner.close()


def test_objects_and_bytes_go_both_ways(owner: Owner) -> None:
    owner.remote.send({"x": [1, 2]})
    assert owner.end.recv() == {"x": [1, 2]}
    owner.end.send_bytes(bytes(100_000))
    assert owner.remote.poll(_TIMEOUT_S)
    assert owner.remote.recv_bytes() == bytes(100_000)
    owner.end.send_bytes(b"")
    assert owner.remote.recv_bytes() == b""
    assert not owner.remote.poll()


def test_a_message_is_in_the_pipe_when_sending_is_over(owner: Owner) -> None:
    for _ in range(100):
        owner.remote.send_bytes(b"x")
        assert owner.end.poll(0)
        assert owner.end.recv_bytes() == b"x"


def test_the_end_of_the_other_side_is_told(owner: Owner) -> None:
    owner.end.close()
    with pytest.raises(EOFError):
        owner.remote.recv()
    with pytest.raises(OSError, match="Broken pipe"):
        owner.remote.send(1)


def test_a_message_that_is_too_long_is_refused(owner: Owner) -> None:
    owner.end.send_bytes(bytes(100))
    with pytest.raises(OSError, match="bad message length"):
        owner.remote.recv_bytes(10)


def test_one_thread_may_wait_while_another_sends(owner: Owner) -> None:
    received: list[object] = []
    thread = threading.Thread(target=lambda: received.append(owner.remote.recv()))
    thread.start()
    owner.remote.send("question")
    assert owner.end.recv() == "question"
    owner.end.send("answer")
    thread.join(_TIMEOUT_S)
    assert received == ["answer"]


def test_a_reader_that_is_gone_takes_no_message(owner: Owner) -> None:
    """Its owner's thread was about to read for it."""
    address, key = owner.remote.shared
    for number in range(20):
        with connect(address, USE_CONNECTION, key) as line:
            line.sendall(_REQUEST.pack(_RECEIVE, -1, math.nan))
        owner.end.send(number)
        assert owner.remote.recv() == number


def test_there_is_no_descriptor_to_wait_for(owner: Owner) -> None:
    with pytest.raises(OSError, match="on another machine"):
        multiprocessing.connection.wait([owner.remote], 0)


def test_an_owner_that_has_ended_is_named() -> None:
    owner = Owner()
    owner.close()
    with pytest.raises(OSError, match="the program that made it has ended"):
        RemoteConnection(*owner.remote.shared, True, True)
