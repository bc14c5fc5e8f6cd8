"""Hosts of their own on this machine: each has network, host name, process ids, shared memory and temporary files to
itself.

They are namespaces of the kernel, joined by a bridge that lives in a namespace as well: nothing of the machine's own
network is touched, and everything goes when the processes that hold them end.  Needs root and ``ip`` from iproute2.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
#: Few, since the laptop's gateway listens on all of them.
WORKER_PORTS = "47100-47115"
#: Python and these tests.
_SHARED = (Path(sys.prefix), ROOT)
_NAMESPACES = ("--net", "--mount", "--uts", "--pid")
#: The minor version of Python here.
HERE = f"{sys.version_info[0]}.{sys.version_info[1]}"
_TOOLS = ("ip", "tc", "unshare", "nsenter", "mount")


def other_python() -> tuple[str, str]:
    """A Python of another minor version that can run distpool, beside the one that runs this; and its version."""
    question = "import sys, zmq, msgspec; print('%d.%d' % sys.version_info[:2])"
    for candidate in sorted(Path(sys.prefix).parent.glob("*/bin/python")):
        asked = subprocess.run([candidate, "-c", question], capture_output=True, text=True)
        if asked.returncode == 0 and asked.stdout.strip() != HERE:
            return str(candidate), asked.stdout.strip()
    return "", ""


def missing() -> str:
    """Why there can be no hosts here; empty if there can."""
    if os.geteuid() != 0:
        return "hosts as namespaces need root"
    absent = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if absent:
        return f"not installed: {', '.join(absent)}"
    probe = subprocess.run(["unshare", *_NAMESPACES, "--fork", "true"], capture_output=True, text=True)
    return "" if not probe.returncode else f"namespaces cannot be made: {probe.stderr.strip()}"


def _own_tmp(shared: Sequence[Path]) -> str:
    """Shell commands that give a host its own ``/tmp``, in which it still finds what it shares with this machine."""
    commands = ["mount -t tmpfs tmpfs /mnt"]
    for path in {path.resolve() for path in shared}:
        if path.is_relative_to("/tmp"):
            inside = shlex.quote(f"/mnt/{path.relative_to('/tmp')}")
            commands += [f"mkdir -p {inside}", f"mount --bind {shlex.quote(str(path))} {inside}"]
    return "; ".join([*commands, "mount --move /mnt /tmp"])


class Host:
    """One of them.

    :param shared: folders that it sees though they are in ``/tmp`` (a virtual environment made for one run, say).
    :ivar address: on the bridge.
    """

    def __init__(self, name: str, address: str, shared: Sequence[Path] = _SHARED) -> None:
        self.name = name
        self.address = address
        own_tmp = _own_tmp(shared)
        setup = f"set -e; hostname {name}; mount -t tmpfs tmpfs /dev/shm; {own_tmp}; ip link set lo up; echo up; "
        setup += "exec cat"  # until this process ends, however it does
        self._holder = subprocess.Popen(
            ["unshare", *_NAMESPACES, "--fork", "--kill-child", "--mount-proc", "sh", "-c", setup],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == "up\n"
        #: Of the process that holds the namespaces.
        self.pid = int(Path(f"/proc/{self._holder.pid}/task/{self._holder.pid}/children").read_text())

    def command(self, *words: str) -> list[str]:
        """What to run from outside to run ``words`` there."""
        return ["nsenter", "-t", str(self.pid), *_NAMESPACES, *words]

    def popen(self, *words: str, **options: Any) -> subprocess.Popen[str]:
        """Begin a command there."""
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "HOME": "/tmp",
            "TMPDIR": "/tmp",
            "XDG_STATE_HOME": "/tmp/state",
            "PYTHONDONTWRITEBYTECODE": "1",
            **options.pop("env", {}),
        }
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "cwd": "/", **options}
        # A session of its own, so that ``end`` finds all of it.
        return subprocess.Popen(self.command(*words), env=environment, text=True, start_new_session=True, **options)

    def kill_all(self) -> None:
        """Kill every process there, as if the machine had failed; its address stays."""
        subprocess.run(self.command("sh", "-c", "kill -9 -1"), capture_output=True, timeout=20)

    @staticmethod
    def end(process: subprocess.Popen[str]) -> str:
        """End a command that does not end by itself, with the processes that it has started; returns what it printed
        and was not read."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        try:
            return process.communicate(timeout=5)[0] or ""
        except subprocess.TimeoutExpired as late:
            # Something that has left the session still has the pipe.
            return (late.stdout or b"").decode(errors="replace")

    def run(self, *words: str, text: str = "", status: int | None = 0, **options: Any) -> str:
        """Run a command there; returns what it printed, errors included unless they are asked for apart."""
        options.setdefault("stderr", subprocess.STDOUT)
        process = self.popen(*words, stdin=subprocess.PIPE, **options)
        try:
            output, _ = process.communicate(text, timeout=50)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{words} on {self.name} did not end:\n{self.end(process)}") from None
        assert status is None or process.returncode == status, f"{words} on {self.name}: {process.returncode}\n{output}"
        return output

    def distpool(self, *words: str, **options: Any) -> str:
        """Run the command line there."""
        return self.run(sys.executable, "-m", "distpool", *words, **options)

    def write(self, path: str, text: str) -> None:
        """Make a file there."""
        self.run("sh", "-c", f"umask 077; mkdir -p $(dirname {path}); cat > {path}", text=text)

    def close(self) -> None:
        """End it; processes that run there must have ended."""
        self._holder.kill()
        self._holder.communicate()


class Lan:
    """Hosts on one bridge: ``10.77.0.1``, ``10.77.0.2``, ..."""

    def __init__(self, names: list[str], shared: Sequence[Path] = ()) -> None:
        self.hosts: list[Host] = []
        self.bridge = Host("bridge", "")
        try:
            self._make(names, (*_SHARED, *shared))
        except BaseException:
            self.close()
            raise

    def _make(self, names: list[str], shared: Sequence[Path]) -> None:
        self._ip(self.bridge, "link", "add", "lan", "type", "bridge")
        self._ip(self.bridge, "link", "set", "lan", "up")
        self.hosts += [Host(name, f"10.77.0.{number}", shared) for number, name in enumerate(names, 1)]
        for number, host in enumerate(self.hosts, 1):
            port = f"port{number}"
            self._ip(self.bridge, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", str(host.pid))
            self._ip(self.bridge, "link", "set", port, "master", "lan", "up")
            self._ip(host, "address", "add", f"{host.address}/24", "dev", "eth0")
            self._ip(host, "link", "set", "eth0", "up")
            self._ip(host, "route", "add", "default", "dev", "eth0")

    def pull_plug(self, host: Host) -> None:
        """Take a host's link down: what is sent to it and by it is lost without a word."""
        self._ip(self.bridge, "link", "set", f"port{self.hosts.index(host) + 1}", "down")

    def put_plug(self, host: Host) -> None:
        """Take it up again."""
        self._ip(self.bridge, "link", "set", f"port{self.hosts.index(host) + 1}", "up")

    def slow_down(self, host: Host, rate: str) -> None:
        """Let no more than ``rate`` through (as ``tc`` writes it), in either direction."""
        limit = ("root", "tbf", "rate", rate, "burst", "32kb", "latency", "300ms")
        for where, device in ((host, "eth0"), (self.bridge, f"port{self.hosts.index(host) + 1}")):
            self._run(where, "tc", "qdisc", "replace", "dev", device, *limit)

    def speed_up(self, host: Host) -> None:
        """No longer ``slow_down``."""
        for where, device in ((host, "eth0"), (self.bridge, f"port{self.hosts.index(host) + 1}")):
            self._run(where, "tc", "qdisc", "delete", "dev", device, "root")

    @contextlib.contextmanager
    def bad_cable(self, host: Host, lost: float, delay_s: float) -> Iterator[None]:
        """Delay the packets of a host in either direction, and lose a share of them."""
        port = f"port{self.hosts.index(host) + 1}"
        program = str(Path(__file__).with_name("lossy.py"))
        self._ip(self.bridge, "link", "add", "plug", "type", "veth", "peer", "name", "socket")
        self._ip(self.bridge, "link", "set", port, "nomaster")
        self._ip(self.bridge, "link", "set", "socket", "master", "lan", "up")
        self._ip(self.bridge, "link", "set", "plug", "up")
        # What comes to the cable from either side.
        for where, interface in ((host, "eth0"), (self.bridge, "socket")):
            self._run(where, sys.executable, program, "plain", interface)
        words = ["nsenter", "-t", str(self.bridge.pid), "--net", sys.executable, program, "between", port, "plug"]
        cable = subprocess.Popen([*words, str(lost), str(delay_s)], stdout=subprocess.PIPE, text=True)
        try:
            assert cable.stdout is not None
            assert cable.stdout.readline() == "up\n"
            yield
        finally:
            cable.kill()
            cable.communicate()
            self._ip(self.bridge, "link", "delete", "plug")
            self._ip(self.bridge, "link", "set", port, "master", "lan", "up")

    def close(self) -> None:
        """End them all."""
        for host in [*self.hosts, self.bridge]:
            host.close()

    @classmethod
    def _ip(cls, host: Host, *words: str) -> None:
        cls._run(host, "ip", *words)

    @staticmethod
    def _run(host: Host, *words: str) -> None:
        # With the process ids of this test, by which other networks are named.
        command = ["nsenter", "-t", str(host.pid), "--net", *words]
        done = subprocess.run(command, capture_output=True, text=True)
        assert not done.returncode, f"{command}: {done.stderr}"


class Laptop:
    """A host that can call the hosts of a ``Lan`` at their addresses, and that none of them can call: it hangs on a
    gateway that takes calls in one direction (see ``one_way``)."""

    def __init__(self, lan: Lan) -> None:
        self.gateway = Host("gateway", "")
        self.host = Host("laptop", "10.77.0.200")
        ip = lan._ip
        ip(self.gateway, "link", "add", "inside", "type", "veth", "peer", "name", "eth0", "netns", str(self.host.pid))
        ip(self.host, "address", "add", f"{self.host.address}/24", "dev", "eth0")
        ip(self.host, "link", "set", "eth0", "up")
        addresses = [host.address for host in lan.hosts]
        for address in addresses:
            ip(self.gateway, "address", "add", f"{address}/24", "dev", "inside")
        ip(self.gateway, "link", "set", "inside", "up")
        program = str(Path(__file__).with_name("one_way.py"))
        caller = lan.bridge
        ip(caller, "address", "add", "10.77.0.100/24", "dev", "lan")
        # With the network of the gateway and the process ids of this test: it must find the bridge's.
        words = ["nsenter", "-t", str(self.gateway.pid), "--net", sys.executable, program, str(caller.pid)]
        self._relay = subprocess.Popen([*words, WORKER_PORTS, *addresses], stdout=subprocess.PIPE, text=True)
        assert self._relay.stdout is not None
        assert self._relay.stdout.readline() == "up\n"

    def close(self) -> None:
        """End it; processes that run there must have ended."""
        self._relay.kill()
        self._relay.communicate()
        self.host.close()
        self.gateway.close()


@contextlib.contextmanager
def cluster(*names: str, num_cpus: int = 2, env: Mapping[str, str] | None = None) -> Iterator[tuple[Lan, Laptop]]:
    """Hosts of which the first is the head and the others have joined it, and one that is no node and has the token in
    ``/tmp/cluster.token``."""
    with contextlib.ExitStack() as cleanup:
        lan = Lan([*names])
        cleanup.callback(lan.close)
        laptop = Laptop(lan)
        cleanup.callback(laptop.close)
        offer = ("--num-cpus", str(num_cpus), "--worker-ports", WORKER_PORTS)
        token = cleanup.enter_context(nodes(lan.hosts, *offer, env=env))
        laptop.host.write("/tmp/cluster.token", token)
        yield lan, laptop


@contextlib.contextmanager
def nodes(
    hosts: Sequence[Host], *offer: str, python: str = sys.executable, env: Mapping[str, str] | None = None
) -> Iterator[str]:
    """Nodes of one cluster on these hosts, of which the first is the head; gives its token."""
    environment = dict(env or {})
    command = (python, "-m", "distpool")
    started: list[Host] = []
    try:
        head = hosts[0]
        head.run(*command, "start", "--head", "--port", "47000", *offer, *_own(head), env=environment)
        started.append(head)
        token = head.run("cat", f"/tmp/state/distpool/clusters/{head.address}:47000.token")
        for host in hosts[1:]:
            join = (*command, "start", "--join", *offer, *_own(host))
            # By turns in the ways that there are.
            if len(started) % 2:
                host.run(*join, "--token-file", "-", text=token, env=environment)
            else:
                host.run(*join, env={**environment, "DISTPOOL_TOKEN": token.strip()})
            started.append(host)
        yield token
    finally:
        for host in reversed(started):
            host.run(*command, "stop", status=None, env=environment)


def _own(host: Host) -> tuple[str, str]:
    """Each host has a resource of its own name, by which tasks can be sent to it."""
    return "--resources", f"{host.name}=100"
