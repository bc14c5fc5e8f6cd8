"""Messages to bytes and back.

Each role decodes what its peers may send, and nothing else: the decoder is chosen by the *authenticated* peer's role,
never by the message.
"""

from __future__ import annotations

import platform
from typing import Any

import msgspec

from distpool.wire import (
    agent_to_scheduler,
    driver_to_scheduler,
    driver_to_worker,
    operator_to_scheduler,
    scheduler_to_agent,
    scheduler_to_driver,
    scheduler_to_operator,
    worker_to_agent,
    worker_to_driver,
)

#: Raised by one whenever a message changes in a way that an older peer would misread.
PROTOCOL = 1
PYTHON = ".".join(platform.python_version_tuple()[:2])

encode = msgspec.msgpack.Encoder().encode


class ProtocolError(Exception):
    """A peer sent what its role may not send, or what is no message at all."""


def decoder(message_type: Any) -> msgspec.msgpack.Decoder[Any]:
    """A decoder for one arrow's ``Message`` union."""
    return msgspec.msgpack.Decoder(message_type)


decode_from_driver_at_scheduler = decoder(driver_to_scheduler.Message).decode
decode_from_scheduler_at_driver = decoder(scheduler_to_driver.Message).decode
decode_from_operator_at_scheduler = decoder(operator_to_scheduler.Message).decode
decode_from_scheduler_at_operator = decoder(scheduler_to_operator.Message).decode
decode_from_agent_at_scheduler = decoder(agent_to_scheduler.Message).decode
decode_from_scheduler_at_agent = decoder(scheduler_to_agent.Message).decode
decode_from_worker_at_agent = decoder(worker_to_agent.Message).decode
decode_from_driver_at_worker = decoder(driver_to_worker.Message).decode
decode_from_worker_at_driver = decoder(worker_to_driver.Message).decode
