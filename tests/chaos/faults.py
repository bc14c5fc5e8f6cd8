"""What may befall a cluster of hosts: its processes are killed or stopped, its links are cut, slow or lossy, its nodes
leave and come; drawn from a seed."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tests.multihost.hosts import WORKER_PORTS, Host, Lan

Undo = tuple[float, Callable[[], None]]

#: How long the order to drain a node may take to be given, and after which time it is given again: it may have been
#: lost on its way from a scheduler that was killed.
_DRAIN_S = 20.0
_NODES_HERE = "from distpool.node import statefolder; print(*[node.node for node in statefolder.running_nodes()])"


class Process:
    """One of a host, by the process id that it has outside."""

    def __init__(self, pid: int) -> None:
        folder = Path(f"/proc/{pid}")
        self.pid = pid
        self.words = folder.joinpath("cmdline").read_bytes().decode(errors="replace").split("\0")
        # Fields after the command, which stands in parentheses and may hold anything.
        fields = folder.joinpath("stat").read_text().rsplit(")", 1)[1].split()
        self.state, self.parent, self.threads = fields[0], int(fields[1]), int(fields[17])
        self.space = os.readlink(folder / "ns/pid")


def processes(host: Host) -> dict[int, Process]:
    """All of a host but the one that holds its namespaces; the dead that nobody has waited for are none."""
    space = os.readlink(f"/proc/{host.pid}/ns/pid")
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != host.pid:
            with contextlib.suppress(OSError):
                process = Process(int(name))
                if process.space == space and process.state not in "XZ" and process.words != [""]:
                    found[process.pid] = process
    return found


def agents(host: Host) -> list[int]:
    """The node processes of a host; on the head, that is the scheduler as well."""
    found = _of_nodes(host)
    return [pid for pid, process in found.items() if process.parent not in found]


def workers(host: Host) -> list[int]:
    """The workers of a host: what a zygote forked and has threads by now."""
    found = _of_nodes(host)
    return [pid for pid, process in found.items() if process.parent in found and process.threads > 1]


def _of_nodes(host: Host) -> dict[int, Process]:
    found = processes(host)
    return {pid: process for pid, process in found.items() if any("node/__main__" in word for word in process.words)}


class Faults:
    """Strikes once per call.

    :param restart_program: kills one of the programs and starts another.
    :param a_program: the process ids of one of the programs: its own, and that of ``nsenter``, which stops with it.
    :param token: of the cluster.
    :param env: of its nodes.
    :ivar struck: each fault that did strike: when, and of which kind.
    """

    def __init__(
        self,
        seed: int,
        lan: Lan,
        restart_program: Callable[[], None],
        a_program: Callable[[], tuple[int, int]],
        token: str,
        env: Mapping[str, str],
    ) -> None:
        self.random = random.Random(seed)
        self.struck: list[tuple[float, str]] = []
        self._lan = lan
        self._restart_program = restart_program
        self._a_program = a_program
        self._token = token
        self._env = env
        self._undo: list[Undo] = []
        self._cut: set[str] = set()
        self._slow: set[str] = set()
        #: The host that has a bad cable; there is one such cable.
        self._lossy = ""
        self._down: set[str] = set()

    def strike(self, now: float) -> str:
        """One fault; returns what it was."""
        kinds: list[tuple[str, int, Callable[[float], str]]] = [
            ("worker killed", 6, self._kill_worker),
            ("worker stopped for a while", 2, self._stop_worker),
            ("node process killed", 2, self._kill_node),
            ("node process stopped for a while", 1, self._stop_node),
            ("scheduler killed and restarted", 1, self._kill_head),
            ("node drained, and another joins", 2, self._drain),
            ("link cut for a while", 3, self._cut_link),
            ("link slow for a while", 2, self._slow_link),
            ("link lossy for a while", 2, self._bad_cable),
            ("program killed", 1, self._kill_program),
            ("program stopped for a while", 1, self._stop_program),
        ]
        [(kind, _, strike)] = self.random.choices(kinds, [weight for _, weight, _ in kinds])
        what = strike(now)
        if what:
            self.struck.append((now, kind))
        return f"{kind}: {what or 'none there'}"

    def undo(self, now: float) -> None:
        """Mend what is due; with ``now`` infinite, everything."""
        due = [each for each in self._undo if each[0] <= now]
        self._undo = [each for each in self._undo if each[0] > now]
        for _, action in sorted(due, key=lambda each: each[0]):
            action()

    def _some_host(self) -> Host:
        return self.random.choice(self._lan.hosts)

    def _kill(self, pids: list[int], number: int) -> int:
        """Signal one of these; 0 when there is none."""
        if not pids:
            return 0
        pid = self.random.choice(sorted(pids))
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return 0
        return pid

    def _kill_worker(self, now: float) -> str:
        host = self._some_host()
        return f"{host.name} {pid}" if (pid := self._kill(workers(host), signal.SIGKILL)) else ""

    def _stop(self, where: str, pids: list[int], now: float, also: Sequence[int] = ()) -> str:
        pid = self._kill(pids, signal.SIGSTOP)
        if not pid:
            return ""
        seconds = self._while()

        def go_on() -> None:
            for each in (pid, *also):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(each, signal.SIGCONT)

        self._undo.append((now + seconds, go_on))
        return f"{where} {pid} for {seconds:g} s"

    def _while(self) -> float:
        """Shorter and longer than anybody waits for a sign of life."""
        return self.random.choice([0.5, 3.0, 15.0])

    def _stop_worker(self, now: float) -> str:
        host = self._some_host()
        return self._stop(host.name, workers(host), now)

    def _stop_node(self, now: float) -> str:
        host = self._some_host()
        if host.name in self._down:
            return ""
        return self._stop(host.name, agents(host), now)

    def _kill_node(self, now: float) -> str:
        return self._lose(self.random.choice(self._lan.hosts[1:]), now)

    def _kill_head(self, now: float) -> str:
        return self._lose(self._lan.hosts[0], now)

    def _lose(self, host: Host, now: float) -> str:
        if host.name in self._down or not self._kill(agents(host), signal.SIGKILL):
            return ""
        self._down.add(host.name)
        seconds = self.random.choice([0.0, 2.0, 12.0])
        self._undo.append((now + seconds, lambda: self._start(host)))
        return f"{host.name}, again after {seconds:g} s"

    def _start(self, host: Host) -> None:
        offer = ("--num-cpus", "2", "--worker-ports", WORKER_PORTS)
        if host is self._lan.hosts[0]:
            host.distpool("start", "--head", "--port", "47000", *offer, env=self._env)
        elif host.name in self._cut:
            # It could not reach the head, and would say so and end.
            self._undo.append((0.0, lambda: self._start(host)))
            return
        else:
            join = (sys.executable, "-m", "distpool", "start", "--join", "--token-file", "-", *offer)
            process = host.popen(*join, stdin=subprocess.PIPE, env=self._env)
            process.communicate(self._token, timeout=60)
            if process.returncode:
                # The head may be away at this moment.
                self._undo.append((0.0, lambda: self._start(host)))
                return
        self._down.discard(host.name)

    def _drain(self, now: float) -> str:
        host = self.random.choice(self._lan.hosts[1:])
        if host.name in self._down or not self._order_to_leave(host):
            return ""
        self._down.add(host.name)
        ordered = now

        def join_when_it_has_left() -> None:
            nonlocal ordered
            now = time.monotonic()
            if not agents(host):
                self._start(host)
                return
            if now > ordered + _DRAIN_S:
                ordered = now
                self._order_to_leave(host)
            self._undo.append((now + 0.5, join_when_it_has_left))

        self._undo.append((now + 0.5, join_when_it_has_left))
        return host.name

    def _order_to_leave(self, host: Host) -> bool:
        names = host.run(sys.executable, "-c", _NODES_HERE).split()
        words = (sys.executable, "-m", "distpool", "drain", "--address", "/tmp/cluster.token", *names)
        process = self._lan.hosts[1].popen(*words)
        try:
            process.communicate(timeout=_DRAIN_S)
        except subprocess.TimeoutExpired:
            host.end(process)
        return bool(names) and process.returncode == 0

    def _slow_link(self, now: float) -> str:
        host = self._some_host()
        if host.name in self._slow:
            return ""
        seconds, rate = self._while(), self.random.choice(["2mbit", "20mbit"])
        self._slow.add(host.name)
        self._lan.slow_down(host, rate)

        def mend() -> None:
            self._slow.discard(host.name)
            self._lan.speed_up(host)

        self._undo.append((now + seconds, mend))
        return f"{host.name} {rate} for {seconds:g} s"

    def _bad_cable(self, now: float) -> str:
        host = self._some_host()
        if self._lossy or host.name in self._cut:
            return ""
        seconds, lost = self._while(), self.random.choice([0.02, 0.1])
        self._lossy = host.name
        cable = contextlib.ExitStack()
        cable.enter_context(self._lan.bad_cable(host, lost, delay_s=0.01))

        def mend() -> None:
            self._lossy = ""
            cable.close()

        self._undo.append((now + seconds, mend))
        return f"{host.name} {lost:.0%} for {seconds:g} s"

    def _cut_link(self, now: float) -> str:
        host = self._some_host()
        if host.name in self._cut or host.name == self._lossy:
            return ""
        seconds = self._while()
        self._cut.add(host.name)
        self._lan.pull_plug(host)

        def mend() -> None:
            self._cut.discard(host.name)
            self._lan.put_plug(host)

        self._undo.append((now + seconds, mend))
        return f"{host.name} for {seconds:g} s"

    def _kill_program(self, now: float) -> str:
        self._restart_program()
        return "one"

    def _stop_program(self, now: float) -> str:
        pid, entered = self._a_program()
        return self._stop("one,", [pid] if pid else [], now, [entered])

    @property
    def mended(self) -> bool:
        """Whether nothing waits to be undone."""
        return not self._undo
