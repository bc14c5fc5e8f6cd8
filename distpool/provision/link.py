"""An operator's connection to a cluster's scheduler: one question, one answer."""

from __future__ import annotations

import secrets
import time
from types import TracebackType
from typing import TypeVar

import msgspec
import zmq

from distpool.driver.attach import dial
from distpool.driver.links import SCHEDULER
from distpool.errors import ConnectError
from distpool.node.statefolder import find_token
from distpool.wire import codec, operator_to_scheduler, scheduler_to_operator
from distpool.wire.channel import Channel, PeerUnreachable
from distpool.wire.links import Patience
from distpool.wire.resources import NodeOffer
from distpool.wire.security import Token
from distpool.wire.silence import silence_s

T = TypeVar("T")
#: How long a scheduler may take to answer.
_ANSWER_S = 10.0


class OperatorLink:
    """See the module's description; used by one thread.

    :param address: ``host:port`` of the scheduler, or a token file, or a token.
    :raises ConnectError: when the address or its token is not known.
    """

    def __init__(self, address: str | Token) -> None:
        token = find_token(address) if isinstance(address, str) else address
        self._address = token.address
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._channel = Channel(self._context, b"o-" + secrets.token_hex(6).encode(), token.keys)
        self._channel.watch_links(self._channel.wake)
        try:
            dial(self._channel, token.address)
        except ConnectError:
            self.close()
            raise

    def load(self, offers: tuple[NodeOffer, ...] = ()) -> scheduler_to_operator.ClusterLoad:
        """What is needed and what is idle.

        :param offers: nodes that this operator could start.
        :raises ConnectError: when the scheduler does not answer, or refuses.
        """
        question = operator_to_scheduler.LoadWanted(codec.PROTOCOL, offers)
        return self._ask(question, scheduler_to_operator.ClusterLoad)

    def drain(self, node: str) -> scheduler_to_operator.DrainAnswer:
        """Have a node take no new work, and leave when it has none.  Returns when the node knows, or is given up.

        :raises ConnectError: when the scheduler does not answer, or refuses.
        """
        question = operator_to_scheduler.DrainNode(codec.PROTOCOL, node)
        return self._ask(question, scheduler_to_operator.DrainAnswer, _ANSWER_S + silence_s())

    def close(self) -> None:
        """Say goodbye, and hang up."""
        self._send(operator_to_scheduler.OperatorGoodbye())
        self._channel.close(0.5)
        self._context.destroy(linger=500)

    def __enter__(self) -> OperatorLink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _send(self, message: operator_to_scheduler.Message) -> None:
        try:
            self._channel.send(SCHEDULER, (codec.encode(message),))
        except PeerUnreachable:
            pass  # the answer will be missed

    def _ask(self, question: operator_to_scheduler.Message, kind: type[T], patience_s: float = _ANSWER_S) -> T:
        self._channel.drain()  # an answer that came too late for its question
        self._send(question)
        began = time.monotonic()
        patience = Patience(patience_s)
        while (left_s := began + patience.lasts_s - time.monotonic()) > 0:
            for peer, frames in self._channel.receive(left_s):
                if peer != SCHEDULER or not frames:
                    continue
                try:
                    message = codec.decode_from_scheduler_at_operator(frames[0])
                except msgspec.DecodeError:
                    continue  # no message of its role: as if it had not come
                if isinstance(message, kind):
                    return message
                if isinstance(message, scheduler_to_operator.OperatorRefused):
                    raise ConnectError(f"the cluster at {self._address} refused: {message.reason}")
            while self._channel.link_events:
                patience.note(self._channel.link_events.popleft())
        raise ConnectError(f"no answer from the cluster at {self._address}: {patience.reason}")
