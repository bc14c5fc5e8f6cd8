"""Where a suite's tests run: on this machine, each with a node of its own, or as programs of a cluster."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from compat_tests.runner.interpreter import Interpreter

#: What a target is called when its tests are programs of a cluster.
SUFFIX = "-hosts"
_CPUS_PER_HOST = 8
#: How long the cluster may take to notice that a program was killed.
_GIVEN_UP_S = 60.0
_HOMES = {"HOME": "/tmp", "TMPDIR": "/tmp", "XDG_STATE_HOME": "/tmp/state"}

#: How a command is run there, and with which environment.
Site = tuple[Callable[[Sequence[str]], list[str]], Mapping[str, str]]
Place = Callable[[Mapping[str, str], Interpreter, Sequence[Path]], contextlib.AbstractContextManager[Site]]


class LeftBehind(AssertionError):
    """The cluster still has something of a program that has ended."""


@contextlib.contextmanager
def here(environment: Mapping[str, str], interpreter: Interpreter, shared: Sequence[Path]) -> Iterator[Site]:
    """This machine."""
    yield list, environment


def no_hosts() -> str:
    """Why there can be no cluster of hosts here; empty if there can."""
    from tests.multihost.hosts import missing

    return missing()


@contextlib.contextmanager
def three_hosts(environment: Mapping[str, str], interpreter: Interpreter, shared: Sequence[Path]) -> Iterator[Site]:
    """A host beside a cluster of three others, all with network, host name, processes and files of their own.  The
    nodes see the suite as the tests do.

    :param shared: folders that all of them see; tests are collected in the first.
    :raises LeftBehind: when at the end somebody still uses the cluster.
    """
    from tests.multihost.hosts import Lan, nodes

    lan = Lan(["one", "two", "three", "program"], (*shared, interpreter.path.parent.parent))
    with contextlib.closing(lan):
        members, program = lan.hosts[:3], lan.hosts[3]
        python = str(interpreter.path)
        with nodes(members, "--num-cpus", str(_CPUS_PER_HOST), python=python, env=environment) as token:
            program.write("/tmp/cluster.token", token)
            yield (
                # Entering a host leads to its root.
                lambda words: program.command("env", f"--chdir={shared[0]}", *words),
                {**environment, **_HOMES, "DISTPOOL_ADDRESS": "/tmp/cluster.token"},
            )
            deadline = time.monotonic() + _GIVEN_UP_S
            while "PROGRAM" in (status := members[0].run(python, "-m", "distpool", "status", env=dict(environment))):
                if time.monotonic() < deadline:
                    continue
                raise LeftBehind(f"all tests have ended, and the cluster still has a program:\n{status}")
