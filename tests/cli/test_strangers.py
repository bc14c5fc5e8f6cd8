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
import psutil
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


#: Works until a line comes, and says then whether it was interrupted: its tasks have their number as result.
_WORKS = """
import sys, threading, time
from distpool import DistExecutor

def work(x):
    open("/dev/null").close()
    time.sleep(0.01)
    return x

if __name__ == "__main__":
    stop, done = threading.Event(), []
    threading.Thread(target=lambda: (sys.stdin.readline(), stop.set()), daemon=True).start()
    with DistExecutor(1) as executor:
        once = executor.with_options(max_retries=0)
        while not stop.is_set():
            done.append(once.submit(work, len(done)).result())
            if len(done) == 1:
                print("works", flush=True)
    print(done == list(range(len(done))))
"""


class Running:
    """A head and another node, and a program that works all the time.

    :ivar doors: where one may knock: the port on which a process of each kind listens, and its process id.
    """

    def __init__(self, command: Command) -> None:
        self.command = command
        self.address = command.start_head()
        command("start", "--join", self.address, "--num-cpus", "1")
        self.began = time.monotonic()
        environment = {**command.environment, "DISTPOOL_ADDRESS": self.address}
        self.program = subprocess.Popen(
            [sys.executable, "-c", _WORKS], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.program.stdout is not None
        assert self.program.stdout.readline() == "works\n"
        port = int(self.address.rpartition(":")[2])
        self.doors: dict[str, tuple[int, int]] = {}
        for node in self._nodes():
            for process in (psutil.Process(node.pid), *psutil.Process(node.pid).children(recursive=True)):
                for listening in _listening(process):
                    kind = "scheduler" if listening == port else "agent" if process.pid == node.pid else "worker"
                    self.doors[kind] = listening, process.pid
        assert set(self.doors) == {"scheduler", "agent", "worker"}

    def _nodes(self) -> list[NodeFile]:
        files = (self.command.folder / "distpool" / "nodes").glob("*.json")
        found = [msgspec.json.decode(path.read_bytes(), type=NodeFile) for path in files]
        assert len(found) == 2
        return found

    def memory_bytes(self) -> dict[int, int]:
        """Of each node process (on the head, scheduler and agent in one) and the worker, without what it shares with
        others."""
        found = {}
        for pid in {*(node.pid for node in self._nodes()), self.doors["worker"][1]}:
            match = re.search(r"RssAnon:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
            assert match is not None
            found[pid] = int(match[1]) << 10
        return found

    def growth_bytes(self, before: dict[int, int]) -> int:
        """Of the process that grew most."""
        return max(now - before[pid] for pid, now in self.memory_bytes().items())

    def log_is_readable(self) -> None:
        """Each node says one line about strangers now, and one in each minute in which there are more."""
        logs = (self.command.folder / "distpool" / "logs").glob("*.log")
        lines = [path.read_text().count("did not authenticate") for path in logs]
        assert sum(lines) >= 1
        assert max(lines) <= 1 + (time.monotonic() - self.began) // 60

    def end(self) -> None:
        """The program must not have noticed anything."""
        output, _ = self.program.communicate("\n", timeout=60)
        assert output == "True\n"
        self.command("stop")

    def runs_programs(self) -> None:
        program = "from distpool import DistExecutor\nwith DistExecutor(2) as e:\n    print(sum(e.map(abs, range(9))))"
        environment = {**self.command.environment, "DISTPOOL_ADDRESS": self.address}
        words = [sys.executable, "-c", program]
        assert subprocess.run(words, env=environment, capture_output=True, text=True, timeout=100).stdout == "36\n"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    command = Command(tmp_path_factory.mktemp("strangers") / "state")
    running = None
    try:
        with descriptors(512):  # fewer than there will be strangers: what listens must see to it that it has more
            running = Running(command)
        yield running
    finally:
        if running is not None:
            running.end()
        else:
            command("stop")


def _listening(process: psutil.Process) -> list[int]:
    connections = getattr(process, "net_connections", None) or process.connections
    return [connection.laddr.port for connection in connections("tcp") if connection.status == psutil.CONN_LISTEN]


@pytest.fixture(params=["scheduler", "agent", "worker"])
def port(cluster: Running, request: pytest.FixtureRequest) -> int:
    return cluster.doors[request.param][0]


@contextlib.contextmanager
def descriptors(most: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, most), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_thousand_half_open_connections_cost_little(cluster: Running, port: int) -> None:
    cluster.runs_programs()
    before = cluster.memory_bytes()
    with descriptors(8192), contextlib.ExitStack() as strangers:
        for _ in range(STRANGERS):
            stranger = strangers.enter_context(socket.create_connection(("127.0.0.1", port)))
            stranger.sendall(_greeting()[:11])
        cluster.runs_programs()
        assert cluster.growth_bytes(before) < STRANGERS * BYTES_PER_CONNECTION + NOISE_BYTES
    cluster.log_is_readable()


def test_noise_leaves_nothing_behind(cluster: Running, port: int) -> None:
    rng = random.Random(3)

    def make_noise() -> None:
        for _ in range(500):
            noise = bytearray(_greeting() + b"\x04\xc8\x05HELLO" + rng.randbytes(194))
            for _ in range(rng.randrange(4)):
                noise[rng.randrange(len(noise))] = rng.randrange(256)
            kept = rng.choice((noise, noise[: rng.randrange(len(noise))], rng.randbytes(4096)))
            with socket.create_connection(("127.0.0.1", port)) as stranger, contextlib.suppress(OSError):
                stranger.sendall(kept)

    make_noise()
    cluster.runs_programs()
    before = cluster.memory_bytes()
    for _ in range(4):
        make_noise()
    cluster.runs_programs()
    assert cluster.growth_bytes(before) < NOISE_BYTES
    cluster.log_is_readable()
