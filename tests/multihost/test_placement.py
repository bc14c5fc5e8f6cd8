"""What programs ask for, and from whom, on two hosts with two CPUs and two (make-believe) GPUs each."""

from __future__ import annotations

import ast
import contextlib
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.multihost.hosts import Host, Lan, missing, nodes

if missing():
    pytest.skip(f"no hosts of their own: {missing()}", allow_module_level=True)

pytestmark = [pytest.mark.watchdog(240), pytest.mark.leaks("processes", "descriptors")]


@pytest.fixture(scope="module")
def lan() -> Iterator[Lan]:
    """Two nodes, and a host for programs."""
    lan = Lan(["alpha", "beta", "program"])
    with contextlib.closing(lan):
        environment = {"CUDA_VISIBLE_DEVICES": "4,5", "DISTPOOL_SPARE_WORKERS": "0"}
        with nodes(lan.hosts[:2], "--num-cpus", "2", env=environment) as token:
            lan.hosts[2].write("/tmp/cluster.token", token)
            yield lan


@pytest.fixture
def program(lan: Lan) -> Host:
    return lan.hosts[2]


def begin(host: Host) -> subprocess.Popen[str]:
    """What was written there last."""
    environment = {"DISTPOOL_ADDRESS": "/tmp/cluster.token"}
    return host.popen(sys.executable, "/tmp/project/program.py", env=environment, stdin=subprocess.PIPE)


def run(host: Host, source: str) -> list[Any]:
    """What it printed, line by line."""
    host.write("/tmp/project/program.py", source)
    process = begin(host)
    try:
        output, errors = process.communicate(timeout=100)
    finally:
        host.end(process)
    assert process.returncode == 0, errors
    return [ast.literal_eval(line) for line in output.splitlines()]


def test_each_call_sees_the_gpus_that_it_was_given_and_no_others(program: Host) -> None:
    source = """
import os, socket
from multiprocessing import Manager
from distpool import DistExecutor

def look(all_there):
    all_there.wait()
    return socket.gethostname(), os.environ["CUDA_VISIBLE_DEVICES"]

if __name__ == "__main__":
    with Manager() as manager, DistExecutor(4) as executor:
        all_there = manager.Barrier(4)
        calls = [executor.with_options(num_gpus=1).submit(look, all_there) for _ in range(4)]
        print(sorted(call.result() for call in calls))
        print([executor.submit(os.environ.get, "CUDA_VISIBLE_DEVICES").result()])
"""
    assert run(program, source) == [[("alpha", "4"), ("alpha", "5"), ("beta", "4"), ("beta", "5")], [""]]


def test_a_gang_spans_hosts(program: Host) -> None:
    source = """
import socket
import distpool
from distpool import DistExecutor

def part():
    me = distpool.gang()
    return me.rank, me.size, me.local_size, socket.gethostname()

if __name__ == "__main__":
    with DistExecutor(4) as executor:
        parts = executor.with_options(gang=4).submit(part).result()
    print([part[:3] for part in parts])
    print(sorted({part[3] for part in parts}))
"""
    assert run(program, source) == [[(rank, 4, 2) for rank in range(4)], ["alpha", "beta"]]


@pytest.mark.parametrize(
    ("wish", "words"), [("num_gpus=3", "GPU"), ("num_cpus=64", "CPU"), ("resources={'licence': 1}", "licence")]
)
def test_what_no_host_could_ever_give_is_refused_at_once(program: Host, wish: str, words: str) -> None:
    source = f"""
from distpool import DistExecutor

if __name__ == "__main__":
    with DistExecutor(100) as executor:
        try:
            executor.with_options({wish}).submit(abs, 1).result()
        except Exception as error:
            print((type(error).__name__, str(error)))
"""
    ((name, message),) = run(program, source)
    assert name == "InfeasibleError", message
    assert words in message
    assert "the cluster has 1 node with 2 CPUs, 2 GPUs" in message, message


def test_two_programs_share_the_hosts_and_the_one_that_stays_gets_all(lan: Lan, program: Host) -> None:
    source = """
import sys, threading, time
from distpool import DistExecutor

if __name__ == "__main__":
    stop = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.readline(), stop.set()), daemon=True).start()
    with DistExecutor() as executor:
        while not stop.is_set():
            list(executor.map(time.sleep, [0.01] * 40))
"""

    def workers() -> list[int]:
        """Of each program."""
        rows = re.findall(r"process \d+ on program .* (\d+) +\d+$", lan.hosts[0].distpool("status"), re.MULTILINE)
        return sorted(map(int, rows))

    program.write("/tmp/project/program.py", source)
    first, second = begin(program), begin(program)
    try:
        while workers() != [2, 2]:
            assert (first.poll(), second.poll()) == (None, None)
        first.communicate("\n", timeout=60)
        assert first.returncode == 0
        while workers() != [4]:
            assert second.poll() is None
        second.communicate("\n", timeout=60)
        while workers():
            pass
    finally:
        program.end(first)
        program.end(second)


def test_a_module_that_was_changed_is_sent_again(program: Host) -> None:
    """Also within one program, to the workers of its next pool."""
    program.write("/tmp/project/mine/__init__.py", "")
    program.write("/tmp/project/mine/part.py", "def f():\n    return 'before'\n")
    source = """
import importlib, pathlib, sys
sys.dont_write_bytecode = True
from distpool import DistExecutor
import mine.part

def call():
    with DistExecutor(2) as executor:
        return executor.submit(mine.part.f).result()

if __name__ == "__main__":
    first = call()
    pathlib.Path(mine.part.__file__).write_text("def f():\\n    return 'after the change'\\n")
    importlib.reload(mine.part)
    print([first, call()])
"""
    assert run(program, source) == [["before", "after the change"]]
    assert run(program, source) == [["after the change"] * 2]
