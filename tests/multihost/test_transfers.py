"""Objects travel from host to host: not through the program's, once per host, as a tree, and on after an interruption.

What crosses a host's link is what its interface has counted.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.multihost.hosts import Host, Lan, Laptop, cluster, missing

if missing():
    pytest.skip(f"no hosts of their own: {missing()}", allow_module_level=True)

pytestmark = [pytest.mark.watchdog(300), pytest.mark.leaks("processes", "descriptors")]

_MB = 1_000_000

#: What all programs here begin with.
_COMMON = """
import socket, sys, time
import numpy as np
import distpool
from distpool import DistExecutor

def make(n):
    return np.arange(float(n))

def where(x, pause_s=0.0):
    time.sleep(pause_s)
    return socket.gethostname(), float(x[-1])

def at(host):
    return distpool.options(resources={host: 1})

"""


@pytest.fixture(scope="module")
def both() -> Iterator[tuple[Lan, Laptop]]:
    names = ("alpha", "beta", "gamma", "delta")
    with cluster(*names) as found:
        yield found


@pytest.fixture
def lan(both: tuple[Lan, Laptop]) -> Lan:
    return both[0]


@pytest.fixture
def laptop(both: tuple[Lan, Laptop]) -> Host:
    return both[1].host


def counted(host: Host) -> tuple[int, int]:
    """Bytes that its interface has received and sent."""
    lines = Path(f"/proc/{host.pid}/net/dev").read_text().splitlines()
    fields = next(line for line in lines if line.strip().startswith("eth0:")).partition(":")[2].split()
    return int(fields[0]), int(fields[8])


class Program:
    """It prints a line where the test shall look, and goes on when told."""

    def __init__(self, laptop: Host, source: str) -> None:
        laptop.write("/tmp/transfers.py", _COMMON + source)
        environment = {"DISTPOOL_ADDRESS": "/tmp/cluster.token"}
        self._process = laptop.popen(sys.executable, "-u", "/tmp/transfers.py", env=environment, stdin=-1)

    def line(self) -> object:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise AssertionError(self._process.communicate()[1])
        return ast.literal_eval(line)

    def go_on(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def end(self) -> None:
        _, errors = self._process.communicate("\n\n\n", timeout=100)
        assert self._process.returncode == 0, errors

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def programs() -> Iterator[list[Program]]:
    running: list[Program] = []
    yield running
    for program in running:
        program.kill()


def test_a_result_is_used_elsewhere_once_per_host_and_not_through_the_program(
    lan: Lan, laptop: Host, programs: list[Program]
) -> None:
    alpha, beta = lan.hosts[:2]
    program = Program(
        laptop,
        """
if __name__ == "__main__":
    with DistExecutor(4) as executor:
        with at("alpha"):
            made = executor.submit(make, 4_000_000)
        with at("beta"):
            executor.submit(abs, 1).result()
        distpool.wait([made])
        print(repr("made"))
        sys.stdin.readline()
        with at("beta"):
            used = [executor.submit(where, made) for _ in range(20)]
        print({future.result() for future in used})
        sys.stdin.readline()
        print(float(made.result()[-1]))
""",
    )
    programs.append(program)
    assert program.line() == "made"
    before = counted(laptop), counted(alpha), counted(beta)
    program.go_on()
    assert program.line() == {("beta", 3_999_999.0)}
    after = counted(laptop), counted(alpha), counted(beta)
    assert after[0][0] - before[0][0] < 2 * _MB, "the object came to the program"
    assert after[1][1] - before[1][1] >= 32 * _MB
    assert after[2][0] - before[2][0] < 40 * _MB, "the object went to the host more than once"
    program.go_on()
    assert program.line() == 3_999_999.0
    assert counted(laptop)[0] - after[0][0] >= 32 * _MB
    program.end()


def test_many_hosts_get_an_object_as_a_tree(lan: Lan, laptop: Host, programs: list[Program]) -> None:
    program = Program(
        laptop,
        """
if __name__ == "__main__":
    with DistExecutor(8) as executor:
        names = ("alpha", "beta", "gamma", "delta")
        for name in names:
            with at(name):
                executor.submit(abs, 1).result()
        ref = distpool.put(make(4_000_000))
        print(repr("made"))
        sys.stdin.readline()
        used = []
        for name in names:
            with at(name):
                used.append(executor.submit(where, ref))
        print({future.result() for future in used})
""",
    )
    programs.append(program)
    assert program.line() == "made"
    before = counted(laptop)[1]
    program.go_on()
    assert program.line() == {(host.name, 3_999_999.0) for host in lan.hosts}
    sent = counted(laptop)[1] - before
    assert 32 * _MB <= sent < 3 * 36 * _MB, "the program gave it to each host itself"
    program.end()


def test_a_pull_goes_on_after_the_link_was_down(lan: Lan, laptop: Host, programs: list[Program]) -> None:
    beta = lan.hosts[1]
    program = Program(
        laptop,
        """
if __name__ == "__main__":
    with DistExecutor(4) as executor:
        with at("alpha"):
            made = executor.submit(make, 25_000_000)
        with at("beta"):
            executor.submit(abs, 1).result()
        distpool.wait([made])
        print(repr("made"))
        sys.stdin.readline()
        with at("beta"):
            print(executor.submit(where, made).result())
""",
    )
    programs.append(program)
    assert program.line() == "made"
    before = counted(beta)[0]
    program.go_on()
    while counted(beta)[0] - before < 40 * _MB:
        pass  # it is under way
    lan.pull_plug(beta)
    at_break = counted(beta)[0] - before
    try:
        assert at_break < 200 * _MB, "it was there before the link went down"
    finally:
        lan.put_plug(beta)
    assert program.line() == ("beta", 24_999_999.0)
    assert counted(beta)[0] - before < 200 * _MB * 1.12 + 8 * _MB, "it began anew"
    program.end()


def test_copies_are_found_when_their_source_and_then_their_home_is_killed(
    lan: Lan, laptop: Host, programs: list[Program]
) -> None:
    """Takes two hosts away."""
    beta, gamma, delta = lan.hosts[1:]
    program = Program(
        laptop,
        """
if __name__ == "__main__":
    with DistExecutor(8) as executor:
        with at("beta"):
            made = executor.submit(make, 25_000_000)
        with at("gamma"):
            executor.submit(where, made).result()
        with at("delta"):
            executor.submit(abs, 1).result()
        print(repr("made"))
        sys.stdin.readline()
        with at("delta"):
            print(executor.submit(where, made).result())
        sys.stdin.readline()
        with at("alpha"):
            print(executor.submit(where, made).result())
""",
    )
    programs.append(program)
    assert program.line() == "made"
    before, sent_before = counted(delta)[0], counted(gamma)[1]
    program.go_on()
    while counted(delta)[0] - before < 40 * _MB:
        pass  # it is under way
    assert counted(gamma)[1] - sent_before > 30 * _MB, "gamma, which has a copy, is not the source"
    gamma.kill_all()
    assert counted(delta)[0] - before < 200 * _MB, "it was there before its source was killed"
    assert program.line() == ("delta", 24_999_999.0)
    assert counted(delta)[0] - before < 200 * _MB * 1.12 + 8 * _MB, "it began anew"
    beta.kill_all()
    program.go_on()
    # Nobody could make it again: that takes beta.
    assert program.line() == ("alpha", 24_999_999.0)
    program.end()


def test_what_a_drained_node_had_is_still_there(lan: Lan, laptop: Host, programs: list[Program]) -> None:
    """Last: it takes a host away."""
    delta = lan.hosts[3]
    program = Program(
        laptop,
        """
if __name__ == "__main__":
    with DistExecutor(4) as executor:
        with at("delta"):
            made = [executor.submit(make, 1_000_000 + i) for i in range(4)]
        distpool.wait(made, num_returns=4)
    print(repr("made"))
    sys.stdin.readline()
    with DistExecutor(2) as executor:
        print([executor.submit(where, future).result()[1] for future in made])
    print([float(future.result()[-1]) for future in made])
""",
    )
    programs.append(program)
    assert program.line() == "made"
    name = next(word for word in lan.hosts[0].distpool("status").split() if word.startswith("delta-"))
    lan.hosts[0].distpool("drain", name)
    while f"{name} " in lan.hosts[0].distpool("status"):
        pass
    log = delta.run("sh", "-c", f"cat /tmp/state/distpool/logs/{name}.log")
    assert "segments move to node" in log
    program.go_on()
    expected = [999_999.0 + i for i in range(4)]
    assert program.line() == expected
    assert program.line() == expected
    program.end()
