"""What may befall a cluster of hosts: its processes are killed or stopped, its links are cut; drawn from a seed."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tests.multihost.hosts import WORKER_PORTS, Host, Lan

Undo = tuple[float, Callable[[], None]]


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
    :param token: of the cluster.
    """

    def __init__(self, seed: int, lan: Lan, restart_program: Callable[[], None], token: str) -> None:
        self.random = random.Random(seed)
        self.counts: Counter[str] = Counter()
        self._lan = lan
        self._restart_program = restart_program
        self._token = token
        self._undo: list[Undo] = []
        self._cut: set[str] = set()
        self._down: set[str] = set()

    def strike(self, now: float) -> str:
        """One fault; returns what it was."""
        kinds: list[tuple[str, int, Callable[[float], str]]] = [
            ("worker killed", 6, self._kill_worker),
            ("worker stopped for a while", 2, self._stop_worker),
            ("node process killed", 2, self._kill_node),
            ("node process stopped for a while", 1, self._stop_node),
            ("scheduler killed and restarted", 1, self._kill_head),
            ("link cut for a while", 3, self._cut_link),
            ("program killed", 1, self._kill_program),
        ]
        [(kind, _, strike)] = self.random.choices(kinds, [weight for _, weight, _ in kinds])
        what = strike(now)
        if what:
            self.counts[kind] += 1
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

    def _stop(self, host: Host, pids: list[int], seconds: float, now: float) -> str:
        pid = self._kill(pids, signal.SIGSTOP)
        if not pid:
            return ""

        def go_on() -> None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

        self._undo.append((now + seconds, go_on))
        return f"{host.name} {pid} for {seconds:.1f} s"

    def _stop_worker(self, now: float) -> str:
        host = self._some_host()
        return self._stop(host, workers(host), self.random.choice([0.5, 3.0, 15.0]), now)

    def _stop_node(self, now: float) -> str:
        host = self._some_host()
        if host.name in self._down:
            return ""
        return self._stop(host, agents(host), self.random.choice([0.5, 3.0, 15.0]), now)

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
            host.distpool("start", "--head", "--port", "47000", *offer)
        elif host.name in self._cut:
            # It could not reach the head, and would say so and end.
            self._undo.append((0.0, lambda: self._start(host)))
            return
        else:
            process = host.popen(
                sys.executable, "-m", "distpool", "start", "--join", "--token-file", "-", *offer, stdin=-1
            )
            process.communicate(self._token, timeout=60)
            if process.returncode:
                # The head may be away at this moment.
                self._undo.append((0.0, lambda: self._start(host)))
                return
        self._down.discard(host.name)

    def _cut_link(self, now: float) -> str:
        host = self._some_host()
        if host.name in self._cut:
            return ""
        seconds = self.random.choice([0.5, 3.0, 14.0])
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

    @property
    def mended(self) -> bool:
        """Whether nothing waits to be undone."""
        return not self._undo
