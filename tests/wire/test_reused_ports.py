"""A port that one listener left and another took: what was dialled is the listener of that name, or nobody."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import zmq

from distpool.wire.channel import Channel
from distpool.wire.gatekeeper import Gatekeeper
from distpool.wire.links import OTHER_KEY, LinkDown, LinkFailed, LinkUp
from distpool.wire.security import Keys
from tests.wire.test_security import news, receive

KEYS = Keys.derive(b"s" * 32)


class Listener:
    """A worker, as far as its driver's channel can tell."""

    def __init__(self, name: bytes, endpoint: str = "tcp://127.0.0.1:*") -> None:
        self._context: zmq.Context[Any] = zmq.Context()
        self.gate = Gatekeeper(self._context, KEYS)
        self.channel = Channel(self._context, name, KEYS)
        self.channel.watch_links(self.channel.wake)
        self.endpoint = self.channel.bind(endpoint)

    def close(self) -> None:
        self.channel.close()
        self._context.term()


@pytest.fixture
def driver() -> Iterator[Channel]:
    context: zmq.Context[Any] = zmq.Context()
    channel = Channel(context, b"d-1", KEYS)
    channel.watch_links(channel.wake)
    yield channel
    channel.close()
    context.term()


def speak(driver: Channel, worker: Listener, name: bytes) -> None:
    driver.send(name, [b"work for " + name])
    assert receive(worker.channel) == (b"d-1", [b"work for " + name])
    worker.channel.send(b"d-1", [b"result of " + name])
    assert receive(driver) == (name, [b"result of " + name])


def test_hanging_up_on_the_first_leaves_the_second(driver: Channel) -> None:
    first = Listener(b"w-1")
    driver.connect(first.endpoint, b"w-1")
    speak(driver, first, b"w-1")
    first.close()
    second = Listener(b"w-2", first.endpoint)
    driver.connect(second.endpoint, b"w-2")
    driver.disconnect(b"w-1")
    speak(driver, second, b"w-2")
    second.close()


def test_a_connection_that_comes_back_by_itself_reaches_nobody_else(driver: Channel) -> None:
    first = Listener(b"w-1")
    driver.connect(first.endpoint, b"w-1")
    speak(driver, first, b"w-1")
    first.close()
    assert news(driver, LinkDown) == LinkDown(b"w-1")
    second = Listener(b"w-2", first.endpoint)
    while (event := news(driver, LinkFailed, LinkUp)) != LinkFailed(b"w-1", OTHER_KEY):
        assert isinstance(event, LinkFailed), "the second listener was taken for the first"
    assert second.channel.drain() == []
    driver.connect(second.endpoint, b"w-2")
    speak(driver, second, b"w-2")
    second.close()


def test_last_words_of_the_first_are_heard(driver: Channel) -> None:
    first = Listener(b"w-1")
    driver.connect(first.endpoint, b"w-1")
    speak(driver, first, b"w-1")
    first.channel.send(b"d-1", [b"last words"])
    driver.wait()
    first.close()
    second = Listener(b"w-2", first.endpoint)
    driver.connect(second.endpoint, b"w-2")
    assert receive(driver) == (b"w-1", [b"last words"])
    speak(driver, second, b"w-2")
    second.close()


def test_who_dials_anew_is_heard_though_the_old_connection_seems_to_live() -> None:
    """As after a link that was down: one side knows earlier than the other that the connection is dead."""
    worker = Listener(b"w-1")
    contexts: list[zmq.Context[Any]] = [zmq.Context(), zmq.Context()]
    old, new = (Channel(context, b"d-1", KEYS) for context in contexts)
    old.connect(worker.endpoint, b"w-1")
    speak(old, worker, b"w-1")
    new.connect(worker.endpoint, b"w-1")
    speak(new, worker, b"w-1")
    old.close()
    speak(new, worker, b"w-1")
    new.close()
    worker.close()
    for context in contexts:
        context.term()
