"""Strangers at the ports of a running cluster: its processes stay as they are, and its log stays readable."""

from __future__ import annotations

import contextlib
import random
import re
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from distpool.node.statefolder import NodeFile
from tests.cli.test_cluster import Command
from tests.wire.test_security import _greeting

pytestmark = [pytest.mark.watchdog(180), pytest.mark.leaks("processes", "descriptors")]

STRANGERS = 1000
#: What a connection may cost that has said nothing yet: buffers of ZeroMQ and what manages them.
BYTES_PER_CONNECTION = 16 << 10
#: What memory may differ by for no reason: the allocator's arenas.
NOISE_BYTES = 4 << 20


class Running:
    """A head and another node."""

    def __init__(self, command: Command) -> None:
        self.command = command
        self.address = command.start_head()
        command("start", "--join", self.address, "--num-cpus", "1")
        self.began = time.monotonic()

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    def memory_bytes(self) -> dict[str, int]:
        """Of each node process (on the head, scheduler and agent in one), without what it shares with others."""
        files = (self.command.folder / "distpool" / "nodes").glob("*.json")
        found = {}
        for path in files:
            node = msgspec.json.decode(path.read_bytes(), type=NodeFile)
            status = Path(f"/proc/{node.pid}/status").read_text()
            match = re.search(r"RssAnon:\s+(\d+) kB", status)
            assert match is not None
            found[node.node] = int(match[1]) << 10
        assert len(found) == 2
        return found

    def growth_bytes(self, before: dict[str, int]) -> int:
        """Of the process that grew most."""
        return max(now - before[node] for node, now in self.memory_bytes().items())

    def log_is_readable(self) -> None:
        """One line about strangers now, and one in each minute in which there are more."""
        logs = (self.command.folder / "distpool" / "logs").glob("*.log")
        lines = sum(path.read_text().count("did not authenticate") for path in logs)
        assert 1 <= lines <= 1 + (time.monotonic() - self.began) // 60

    def runs_programs(self) -> None:
        program = "from distpool import DistExecutor\nwith DistExecutor(2) as e:\n    print(sum(e.map(abs, range(9))))"
        environment = {**self.command.environment, "DISTPOOL_ADDRESS": self.address}
        words = [sys.executable, "-c", program]
        assert subprocess.run(words, env=environment, capture_output=True, text=True, timeout=100).stdout == "36\n"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    command = Command(tmp_path_factory.mktemp("strangers") / "state")
    try:
        yield Running(command)
    finally:
        command("stop")


@contextlib.contextmanager
def many_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_thousand_half_open_connections_cost_little(cluster: Running) -> None:
    cluster.runs_programs()
    before = cluster.memory_bytes()
    with many_descriptors(), contextlib.ExitStack() as strangers:
        for _ in range(STRANGERS):
            stranger = strangers.enter_context(socket.create_connection(("127.0.0.1", cluster.port)))
            stranger.sendall(_greeting()[:11])
        cluster.runs_programs()
        assert cluster.growth_bytes(before) < STRANGERS * BYTES_PER_CONNECTION + NOISE_BYTES
    cluster.log_is_readable()


def test_noise_leaves_nothing_behind(cluster: Running) -> None:
    rng = random.Random(3)

    def make_noise() -> None:
        for _ in range(500):
            noise = bytearray(_greeting() + b"\x04\xc8\x05HELLO" + rng.randbytes(194))
            for _ in range(rng.randrange(4)):
                noise[rng.randrange(len(noise))] = rng.randrange(256)
            kept = rng.choice((noise, noise[: rng.randrange(len(noise))], rng.randbytes(4096)))
            with socket.create_connection(("127.0.0.1", cluster.port)) as stranger, contextlib.suppress(OSError):
                stranger.sendall(kept)

    make_noise()
    cluster.runs_programs()
    before = cluster.memory_bytes()
    for _ in range(4):
        make_noise()
    cluster.runs_programs()
    assert cluster.growth_bytes(before) < NOISE_BYTES
    cluster.log_is_readable()
