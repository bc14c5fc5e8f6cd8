"""What a node is told when it is started, and where it then listens; known to whoever starts it and to itself."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping

import msgspec

from distpool.errors import ConnectError
from distpool.node.memory_policy import RESERVE_SHARE, MemoryPolicy
from distpool.store.settings import StoreSettings
from distpool.wire.resources import Shape

#: What the node says when it can grant workers; anything else is an error in words.
READY = b"ready"


class MemberConfig(msgspec.Struct, frozen=True):
    """What ``distpool start`` tells a node of a cluster, beside what every node is told.

    :param token: the cluster's, in one line.
    :param head: whether the scheduler runs in this process as well; it then listens where the token says.
    :param bind_host: the address on which workers (and the scheduler) listen.
    :param advertised_host: by which other machines reach this one.
    :param first_port, last_port: workers listen on the first that is free; 0: on any.
    :param capacity: what the node offers; fields that are negative: what the machine has.
    :param working_directory: where tasks start when their driver's folder does not exist here.
    :param foreground: whether the node ends with the process that started it.
    :param log: its log file, or empty.
    :param private: it belongs to one program: commands on this machine do not know of it, and nothing about it is kept.
    """

    token: str
    head: bool
    bind_host: str
    advertised_host: str
    first_port: int
    last_port: int
    capacity: Shape
    working_directory: bytes
    foreground: bool
    log: str = ""
    private: bool = False

    @property
    def orphaned_s(self) -> float:
        """So many seconds without a scheduler, and it ends: a program does not come back, an operator's head may."""
        return 60.0 if self.private else 600.0

    def __repr__(self) -> str:
        return f"<MemberConfig {self.advertised_host}>"  # not the token


class NodeConfig(msgspec.Struct, frozen=True):
    """What the driver tells its node.

    :param import_path: folders of installed packages that the driver can import from, as ``system_text`` has them.
    :param spares: how many spare workers to keep; None: as many as is good for the machine.
    :param worker_module: what workers run; differs in tests only.
    :param store_settings: of its object store.
    :param memory: how its memory is watched.
    :param member: None for a program's private node.
    """

    node: str
    root: str
    store: str
    spill: str
    driver_pid: int
    import_path: list[bytes]
    spares: int | None = None
    preload: bool = True
    worker_module: str = "distpool.worker.main"
    store_settings: StoreSettings = StoreSettings()
    memory: MemoryPolicy = MemoryPolicy()
    member: MemberConfig | None = None


def memory_policy(environment: Mapping[str, str] = os.environ) -> MemoryPolicy:
    """How a node that is started now watches its memory, as ``DISTPOOL_MEMORY_LIMIT_BYTES`` and
    ``DISTPOOL_MEMORY_RESERVE`` say.

    :raises ConnectError: when they cannot be understood.
    """
    limit = _number(environment, "DISTPOOL_MEMORY_LIMIT_BYTES", 0.0, math.inf, "a number of bytes")
    share = _number(environment, "DISTPOOL_MEMORY_RESERVE", RESERVE_SHARE, 0.9, "a share of memory, from 0 to 0.9")
    return MemoryPolicy(int(limit), share)


def _number(environment: Mapping[str, str], name: str, default: float, most: float, what: str) -> float:
    text = environment.get(name, "")
    try:
        value = float(text) if text else default
    except ValueError:
        value = math.nan
    if not 0 <= value <= most or math.isinf(value):
        raise ConnectError(f"{name} must be {what}, not {text!r}")
    return value


def write_config(fd: int, config: NodeConfig) -> None:
    payload = msgspec.msgpack.encode(config)
    os.write(fd, len(payload).to_bytes(4, "big") + payload)


def scheduler_endpoint(root: str) -> str:
    return f"ipc://{root}/s"


def agent_endpoint(root: str) -> str:
    return f"ipc://{root}/a"
