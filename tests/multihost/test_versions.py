"""Hosts on which not all is of the same version: one line says so, and names both sides."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.multihost.hosts import HERE, ROOT, Host, Lan, missing, nodes, other_python

if missing():
    pytest.skip(f"no hosts of their own: {missing()}", allow_module_level=True)

pytestmark = [pytest.mark.watchdog(120), pytest.mark.leaks("processes", "descriptors")]

_LIBRARY = "__version__ = {!r}\n\nclass Value:\n    pass\n"


@pytest.fixture(scope="module")
def hosts() -> Iterator[tuple[Host, Host]]:
    """A node that has version 1.0 of a library, and a host for programs that has 2.0."""
    lan = Lan(["alpha", "program"], [Path(sys.prefix).parent])
    with contextlib.closing(lan):
        alpha, program = lan.hosts
        alpha.write("/tmp/site-packages/differs.py", _LIBRARY.format("1.0"))
        program.write("/tmp/site-packages/differs.py", _LIBRARY.format("2.0"))
        environment = {"PYTHONPATH": f"{ROOT}:/tmp/site-packages"}
        with nodes([alpha], "--num-cpus", "2", env=environment) as token:
            program.write("/tmp/cluster.token", token)
            yield alpha, program


def test_a_library_of_another_version_is_said_once(hosts: tuple[Host, Host]) -> None:
    source = """
import differs
from distpool import DistExecutor

def take(value):
    return type(value).__name__

if __name__ == "__main__":
    with DistExecutor(1) as executor:
        print(list(executor.map(take, [differs.Value() for _ in range(5)])))
"""
    program = hosts[1]
    program.write("/tmp/program.py", source)
    environment = {"DISTPOOL_ADDRESS": "/tmp/cluster.token", "PYTHONPATH": f"{ROOT}:/tmp/site-packages"}
    said = program.run(sys.executable, "/tmp/program.py", env=environment).splitlines()
    assert said.count("['Value', 'Value', 'Value', 'Value', 'Value']") == 1
    about = [line for line in said if "differs" in line]
    assert len(about) == 1, said
    assert "differs is 2.0 where the program runs, and 1.0 on alpha" in about[0]


def test_another_python_is_refused_as_node_and_as_program(hosts: tuple[Host, Host]) -> None:
    python, version = other_python()
    if not python:
        pytest.skip(f"no Python but {HERE} beside this one that has what distpool needs")
    program = hosts[1]
    join = program.run(python, "-m", "distpool", "start", "--join", "--token-file", "/tmp/cluster.token", status=1)
    refusals = [line for line in join.splitlines() if "refused" in line]
    assert len(refusals) == 1, join
    assert f"the node runs Python {version}, " in refusals[0]
    assert f"the cluster Python {HERE}, " in refusals[0]
    environment = {"DISTPOOL_ADDRESS": "/tmp/cluster.token"}
    words = (python, "-c", "import distpool; distpool.cpu_count()")
    last = program.run(*words, env=environment, status=1).splitlines()[-1]
    assert f"this program runs Python {version}, the cluster's workers run {HERE}" in last
