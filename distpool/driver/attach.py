"""Reaching a cluster's scheduler from outside, with a clear word when it cannot be reached."""

from __future__ import annotations

import itertools
import secrets
import socket
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import zmq

from distpool.driver.links import SCHEDULER
from distpool.errors import ConnectError
from distpool.node.config import scheduler_endpoint
from distpool.node.statefolder import find_token
from distpool.wire import codec, driver_to_scheduler, scheduler_to_driver
from distpool.wire.channel import Channel, PeerUnreachable
from distpool.wire.links import LinkUp, Patience

if TYPE_CHECKING:
    from distpool.wire.security import Keys
from distpool.worker import context as worker_context

#: How long a scheduler may take to answer.
CONNECT_TIMEOUT_S = 30.0

T = TypeVar("T")


def wait_for_answer(
    channel: Channel,
    kind: type[T],
    address: str,
    timeout_s: float = CONNECT_TIMEOUT_S,
    ask_again: Callable[[], None] | None = None,
    is_answer: Callable[[T], bool] = lambda message: True,
) -> tuple[T, list[Any]]:
    """The scheduler's message of this kind, and those that came before it.

    :param ask_again: the scheduler is known to exist and is waited for, whatever says that it cannot be reached now;
        this is called when it can be after all, since what was sent before may be lost.
    :param is_answer: whether a message of the kind is the one that is waited for.
    :raises ConnectError: when the scheduler refuses, or none answers.
    """
    began = time.monotonic()
    patience = Patience(timeout_s)
    others: list[Any] = []
    failed = False
    while (left_s := began + (timeout_s if ask_again else patience.lasts_s) - time.monotonic()) > 0:
        for _, frames in channel.receive(left_s):
            message = codec.decode_from_scheduler_at_driver(frames[0])
            if isinstance(message, kind) and is_answer(message):
                return message, others
            if isinstance(message, scheduler_to_driver.Refused):
                if message.ended:
                    worker_context.end_process(message.reason)
                raise ConnectError(f"the cluster at {address} refused this program: {message.reason}")
            others.append(message)
        while channel.link_events:
            event = channel.link_events.popleft()
            patience.note(event)
            if ask_again is not None and failed and isinstance(event, LinkUp):
                ask_again()
            failed = not isinstance(event, LinkUp)
    lasted_s = timeout_s if ask_again else patience.lasts_s
    raise ConnectError(f"no answer from the cluster at {address} within {lasted_s:g} s: {patience.reason}")


def ask_status(address: str, timeout_s: float = CONNECT_TIMEOUT_S) -> scheduler_to_driver.ClusterStatus:
    """What is there and who uses it.

    :raises ConnectError: when no scheduler answers there.
    """
    token = find_token(address)
    return _ask_status(token.address, token.keys, lambda channel: dial(channel, token.address), timeout_s)


def ask_own_status(root: str, timeout_s: float) -> scheduler_to_driver.ClusterStatus | None:
    """The same of a scheduler that serves one program of this user on this machine.

    :param root: the folder with its sockets.
    :returns: None when no such scheduler answers there.
    """
    endpoint = scheduler_endpoint(root)
    try:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.connect(endpoint.removeprefix("ipc://"))
        return _ask_status(endpoint, None, lambda channel: channel.connect(endpoint, SCHEDULER), timeout_s)
    except (OSError, ConnectError):
        return None


def _ask_status(
    address: str, keys: Keys | None, connect: Callable[[Channel], None], timeout_s: float
) -> scheduler_to_driver.ClusterStatus:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    channel = Channel(context, b"d-status-" + secrets.token_hex(6).encode(), keys)
    try:
        channel.watch_links(channel.wake)
        connect(channel)
        channel.send(SCHEDULER, (codec.encode(driver_to_scheduler.StatusWanted(0)),))
        return wait_for_answer(channel, scheduler_to_driver.ClusterStatus, address, timeout_s)[0]
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
