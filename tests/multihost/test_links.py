"""Links that go down for longer and for shorter than anybody waits, and come back; slow links; bad cables.

What takes long happens at the same time, and the tests ask about it afterwards."""

from __future__ import annotations

import ast
import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.multihost.hosts import Host, Lan, missing, nodes

if missing():
    pytest.skip(f"no hosts of their own: {missing()}", allow_module_level=True)

pytestmark = [pytest.mark.watchdog(240), pytest.mark.leaks("processes", "descriptors")]

#: Work that goes on until a line comes; then: whether each future has its own result, whether it was settled once, and
#: how many there were.  Then another pool uses the same host.  Tasks from number 0 on leave a line where they run.
_STEADY = """
import socket, sys, threading, time
from distpool import DistExecutor

def work(x):
    if x >= 0:
        with open("/tmp/ran-NAME", "a") as file:
            file.write(f"{x}\\n")
    time.sleep(0.05)
    return x, socket.gethostname()

def pool_on_gamma():
    while True:
        executor = DistExecutor(6)
        if "gamma" in {host for _, host in executor.map(work, range(-60, 0))}:
            return executor
        executor.shutdown()

if __name__ == "__main__":
    settled, futures, stopped = [], [], threading.Event()
    threading.Thread(target=lambda: (sys.stdin.readline(), stopped.set()), daemon=True).start()
    with pool_on_gamma() as executor:
        print("ready", flush=True)
        while not stopped.is_set():
            future = executor.submit(work, len(futures))
            future.add_done_callback(lambda future: settled.append(future.result()[0]))
            futures.append(future)
            time.sleep(0.02)
        right = [future.result()[0] for future in futures] == list(range(len(futures)))
    print([right, sorted(settled) == list(range(len(futures))), len(futures)], flush=True)
    pool_on_gamma().shutdown()
"""
_LARGE = """
import os
from distpool import DistExecutor

def measure(data):
    with open("/tmp/ran-large", "a") as file:
        file.write("1\\n")
    return len(data), os.getpid()

if __name__ == "__main__":
    with DistExecutor(1) as executor:
        before = executor.submit(measure, b"").result()
        size, pid = executor.submit(measure, os.urandom(3_000_000)).result()
        print([size, pid == before[1]])
"""


class Story(NamedTuple):
    """What happened to programs: their last line, and how often the tasks of one ran.

    :ivar cut_off: nodes were cut off from this one, and came back.
    :ivar away: this one was cut off itself, and came back.
    :ivar slow: had a slow link and a large argument, from before until after that.
    :ivar nodes_meanwhile: of which the cluster knew.
    """

    cut_off: list[list[int]]
    away: list[list[int]]
    slow: list[list[int]]
    ran_slow: int
    nodes_meanwhile: str


def begin(host: Host, name: str, source: str) -> subprocess.Popen[str]:
    host.write(f"/tmp/{name}.py", source.replace("NAME", name))
    return host.popen(sys.executable, f"/tmp/{name}.py", env={"DISTPOOL_ADDRESS": "/tmp/cluster.token"}, stdin=-1)


def ready(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n", process.communicate()


def rest(process: subprocess.Popen[str]) -> list[Any]:
    output, errors = process.communicate("\n", timeout=120)
    assert process.returncode == 0, errors
    return [ast.literal_eval(text) for text in output.splitlines()]


def count(lan: Lan, name: str) -> int:
    """How many tasks of it have run.  Asked while a link is down for a moment: without a command on the hosts."""
    files = [Path(f"/proc/{host.pid}/root/tmp/ran-{name}") for host in lan.hosts[:3]]
    return sum(file.read_text().count("\n") for file in files if file.exists())


def wait_for(lan: Lan, words: str) -> str:
    while words not in (status := lan.hosts[0].distpool("status")):
        pass
    return status


@pytest.fixture(scope="module")
def lan() -> Iterator[Lan]:
    """Three nodes, and three hosts for programs."""
    lan = Lan(["alpha", "beta", "gamma", "delta", "epsilon", "zeta"])
    with contextlib.closing(lan), nodes(lan.hosts[:3], "--num-cpus", "6") as token:
        for host in lan.hosts[3:]:
            host.write("/tmp/cluster.token", token)
        yield lan


def test_a_link_that_is_down_for_a_moment_costs_nothing(lan: Lan) -> None:
    gamma, delta = lan.hosts[2], lan.hosts[3]
    program = begin(delta, "short", _STEADY)
    try:
        ready(program)
        lan.pull_plug(gamma)
        soon = time.monotonic() + 2  # half of what anybody waits: a busy machine gets less done until then
        while count(lan, "short") < 60 and time.monotonic() < soon:
            pass
        lan.put_plug(gamma)
        ((right, once, tasks),) = rest(program)
        assert right
        assert once
        assert count(lan, "short") == tasks, "some ran twice"
    finally:
        delta.end(program)


@pytest.fixture(scope="module")
def story(lan: Lan) -> Iterator[Story]:
    gamma, delta, epsilon, zeta = lan.hosts[2:]
    lan.slow_down(zeta, "4mbit")
    programs = [begin(delta, "cut_off", _STEADY), begin(epsilon, "away", _STEADY)]
    try:
        for program in programs:
            ready(program)
        slow = begin(zeta, "large", _LARGE)
        programs.append(slow)
        lan.pull_plug(gamma)
        lan.pull_plug(epsilon)
        status = wait_for(lan, "2 nodes")
        while "epsilon" in lan.hosts[0].distpool("status"):
            pass
        lan.put_plug(gamma)
        lan.put_plug(epsilon)
        wait_for(lan, "3 nodes")
        told = [rest(program) for program in programs]
        yield Story(*told, count(lan, "large"), status)
    finally:
        for host, program in zip((delta, epsilon, zeta), programs, strict=False):
            host.end(program)


def test_a_map_goes_on_while_nodes_are_lost_and_uses_them_when_they_are_back(story: Story) -> None:
    ((right, once, tasks),) = story.cut_off
    assert right
    assert once
    assert tasks > 100


def test_a_program_that_was_cut_off_goes_on_when_it_is_back(story: Story) -> None:
    ((right, once, tasks),) = story.away
    assert right
    assert once
    assert tasks > 100


def test_a_slow_link_is_not_taken_for_a_dead_one(story: Story) -> None:
    """The argument is under way for longer than anybody may be silent."""
    assert story.slow == [[3_000_000, True]]
    assert story.ran_slow == 2, "it was sent again"
    assert "zeta" in story.nodes_meanwhile, "its program was given up"


def test_afterwards_nothing_is_held(lan: Lan, story: Story) -> None:
    assert "PROGRAM" not in wait_for(lan, "0 of 18 CPUs in use")


def test_packets_that_are_late_or_lost_change_nothing(lan: Lan) -> None:
    program = """
import numpy as np
from distpool import DistExecutor

def make(n):
    return np.arange(n)

if __name__ == "__main__":
    with DistExecutor(6) as executor:
        print([int(array[-1]) for array in executor.map(make, [10, 100_000, 20] * 4)])
"""
    delta = lan.hosts[3]
    with lan.bad_cable(delta, lost=0.02, delay_s=0.01):
        process = begin(delta, "lossy", program)
        try:
            assert rest(process) == [[9, 99_999, 19] * 4]
        finally:
            delta.end(process)
    assert "3 nodes" in lan.hosts[0].distpool("status")
