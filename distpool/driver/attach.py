"""Reaching a cluster's scheduler from outside, with a clear word when it cannot be reached."""

from __future__ import annotations

import itertools
import secrets
import threading
import time
from typing import Any, TypeVar

import zmq

from distpool.errors import ConnectError
from distpool.node.statefolder import find_token
from distpool.wire import codec, driver_to_scheduler, scheduler_to_driver
from distpool.wire.channel import Channel, PeerUnreachable
from distpool.wire.links import Patience

SCHEDULER = b"s"
#: How long a scheduler may take to answer.
CONNECT_TIMEOUT_S = 30.0

T = TypeVar("T")


def wait_for_answer(
    channel: Channel, kind: type[T], address: str, timeout_s: float = CONNECT_TIMEOUT_S
) -> tuple[T, list[Any]]:
    """The scheduler's message of this kind, and those that came before it.

    :raises ConnectError: when the scheduler refuses, or none answers.
    """
    began = time.monotonic()
    patience = Patience(timeout_s)
    others: list[Any] = []
    while (left_s := began + patience.lasts_s - time.monotonic()) > 0:
        for _, frames in channel.receive(left_s):
            message = codec.decode_from_scheduler_at_driver(frames[0])
            if isinstance(message, kind):
                return message, others
            if isinstance(message, scheduler_to_driver.Refused):
                raise ConnectError(f"the cluster at {address} refused this program: {message.reason}")
            others.append(message)
        while channel.link_events:
            patience.note(channel.link_events.popleft())
    raise ConnectError(f"no answer from the cluster at {address} within {patience.lasts_s:g} s: {patience.reason}")


def ask_status(address: str, timeout_s: float = CONNECT_TIMEOUT_S) -> scheduler_to_driver.ClusterStatus:
    """What is there and who uses it.

    :raises ConnectError: when no scheduler answers there.
    """
    token = find_token(address)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    channel = Channel(context, b"d-status-" + secrets.token_hex(6).encode(), token.keys)
    try:
        channel.watch_links(channel.wake)
        dial(channel, token.address)
        channel.send(SCHEDULER, (codec.encode(driver_to_scheduler.StatusWanted(0)),))
        return wait_for_answer(channel, scheduler_to_driver.ClusterStatus, token.address, timeout_s)[0]
    finally:
        channel.close()
        context.destroy(linger=0)


def dial(channel: Channel, address: str) -> None:
    """Connect to the scheduler at ``host:port``.

    :raises ConnectError: when its host is not known.
    """
    try:
        channel.connect(f"tcp://{address}", SCHEDULER)
    except OSError as error:
        raise ConnectError(f"the address of the cluster, {address}, is not known here: {error}") from error


class Question:
    """A status question of a driver that is attached; the answer comes with its other messages."""

    def __init__(self) -> None:
        self.answered = threading.Event()
        self.answer: scheduler_to_driver.ClusterStatus | None = None


class Questions:
    """Those that are under way."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._numbers = itertools.count(1)
        self._waiting: dict[int, Question] = {}

    def ask(self) -> Question:
        """Send one."""
        number = next(self._numbers)
        question = self._waiting[number] = Question()
        try:
            self._channel.send(SCHEDULER, (codec.encode(driver_to_scheduler.StatusWanted(number)),))
        except PeerUnreachable:
            pass
        return question

    def take(self, answer: scheduler_to_driver.ClusterStatus) -> None:
        """An answer has come."""
        question = self._waiting.pop(answer.request, None)
        if question is not None:
            question.answer = answer
            question.answered.set()
