"""Messages to bytes and back.

Each role decodes what its peers may send, and nothing else: the decoder is chosen by the *authenticated* peer's role,
never by the message.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Any

import msgspec

#: Raised by one whenever a message changes in a way that an older peer would misread.
PROTOCOL = 4
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"

encode = msgspec.msgpack.Encoder().encode


def decoder(message_type: Any) -> msgspec.msgpack.Decoder[Any]:
    """A decoder for one arrow's ``Message`` union."""
    return msgspec.msgpack.Decoder(message_type)


Decode = Callable[["bytes | memoryview"], Any]
decode_from_driver_at_scheduler: Decode
decode_from_scheduler_at_driver: Decode
decode_from_operator_at_scheduler: Decode
decode_from_scheduler_at_operator: Decode
decode_from_agent_at_scheduler: Decode
decode_from_scheduler_at_agent: Decode
decode_from_worker_at_agent: Decode
decode_from_driver_at_worker: Decode
decode_from_worker_at_driver: Decode


def __getattr__(name: str) -> Decode:
    """The decoders are made when they are first asked for: no process needs them all, and each takes a while."""
    sender, found, receiver = name.removeprefix("decode_from_").partition("_at_")
    if not found or name not in __annotations__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    arrow = importlib.import_module(f"distpool.wire.{sender}_to_{receiver}")
    decode: Decode = decoder(arrow.Message).decode
    globals()[name] = decode
    return decode
