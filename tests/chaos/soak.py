"""Runs programs on the hosts, lets faults strike, and looks at what has become of everything."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from tests.chaos.faults import Faults, agents, processes, workers
from tests.multihost.hosts import Host, Lan, cluster

#: How long everything may take to end, and to be gone, when no more faults strike.
_CALM_S = 240.0
_SETTLE_S = 60.0
#: Of a node: less memory than its tasks want at times, so that results go to disk and tasks give way.
_NODE_ENV = {"DISTPOOL_STORE_BYTES": str(64 << 20), "DISTPOOL_MEMORY_LIMIT_BYTES": str(600 << 20)}


class _Program:
    """One that runs on a host; what it says goes to files, so that nothing waits for a reader.

    They are appended to, since reader and writer share the position in them.
    """

    def __init__(self, host: Host, seed: int) -> None:
        self.host = host
        self.errors = tempfile.TemporaryFile("a+")
        self.output = tempfile.TemporaryFile("a+")
        self.process = host.popen(
            sys.executable,
            "-X",
            "faulthandler",
            "-m",
            "tests.chaos.load",
            str(seed),
            env={"DISTPOOL_ADDRESS": "/tmp/cluster.token"},
            stdin=subprocess.PIPE,
            stdout=self.output,
            stderr=self.errors,
        )

    def facts(self) -> dict[str, Any]:
        """The last that it said."""
        return self._said()[-1]

    def rounds(self) -> set[tuple[float, float]]:
        """When its rounds began and ended."""
        return {tuple(facts["round"]) for facts in self._said() if "round" in facts}

    def pid(self) -> int:
        """Its process in the host, and not the one that entered it; 0 if there is none."""
        found = (pid for pid, process in processes(self.host).items() if "tests.chaos.load" in process.words)
        return next(found, 0)

    def _said(self) -> list[dict[str, Any]]:
        self.output.seek(0)
        lines = [line for line in self.output if line.startswith("{") and line.endswith("}\n")]
        return [json.loads(line) for line in lines] or [{"tasks": 0}]

    def last_words(self) -> str:
        """The end of what it wrote to standard error."""
        self.errors.seek(0)
        return self.errors.read()[-3000:]

    def close(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            assert self.process.stdin is not None
            self.process.stdin.close()
        self.errors.close()
        self.output.close()


class Soak:
    """One run.

    :param every_s: seconds between two faults, on average.
    :ivar problems: what should not have been; empty when all is well.
    """

    def __init__(self, seed: int, drivers: int, every_s: float, say: Callable[[str], None]) -> None:
        self.seed = seed
        self.problems: list[str] = []
        self.tasks = 0
        self.worst_s = 0.0
        self.faults: list[tuple[float, str]] = []
        self.errors: Counter[str] = Counter()
        #: When rounds of programs began and ended.
        self._rounds: list[tuple[float, float]] = []
        self._random = random.Random(seed)
        self._drivers = drivers
        self._every_s = every_s
        self._say = say
        self._programs: list[_Program] = []

    def run(self, seconds: float) -> None:
        """For so long, and until what was started has ended."""
        self._say(f"seed {self.seed}")
        with cluster("alpha", "beta", "gamma", env=_NODE_ENV) as (lan, laptop):
            token = laptop.host.run("cat", "/tmp/cluster.token")
            places = [laptop.host, *lan.hosts[1:]]
            for host in places[1:]:
                host.write("/tmp/cluster.token", token)
            seed = self._random.getrandbits(32)
            faults = Faults(seed, lan, self._replace_program, self._a_program, token, _NODE_ENV)
            try:
                for number in range(self._drivers):
                    self._begin(places[number % len(places)])
                self._strike(faults, seconds)
                self._end_programs()
                self._look(lan)
            finally:
                faults.undo(float("inf"))
                self.faults = faults.struck
                for program in self._programs:
                    program.process.kill()
                    program.process.wait()
                    program.close()
            for host in lan.hosts:
                host.distpool("stop", status=None)
            self._expect_nothing(lan)

    def report(self) -> list[str]:
        """The figures.

        A program has recovered from a fault when what it was waiting for as the fault struck is there: the time that
        takes includes that for which the fault lasts, and the rest of the round's own work.
        """
        lines = [f"{self.tasks} tasks done; the longest that a program waited for a result: {self.worst_s:.1f} s"]
        lines.append("faults, and the seconds until those whom they met had what they were waiting for:")
        every: list[float] = []
        for kind, count in sorted(Counter(kind for _, kind in self.faults).items()):
            times = self._recoveries(kind)
            every += times
            half = f"median {statistics.median(times):.1f}, worst {max(times):.1f}" if times else "-"
            lines.append(f"{count:5} x {kind}: {half}")
        lines.append(f"{len(every)} recoveries, the worst after {max(every, default=0.0):.1f} s")
        lines.append(f"{len(self.faults)} faults; wrong, lost, hung or left: {len(self.problems)}")
        return lines + self.problems

    def _recoveries(self, kind: str) -> list[float]:
        return [
            ended - struck
            for struck, what in self.faults
            if what == kind
            for began, ended in self._rounds
            if began <= struck < ended
        ]

    # -- programs -----------------------------------------------------------------------------------------------

    def _begin(self, host: Host) -> None:
        self._programs.append(_Program(host, self._random.getrandbits(32)))

    def _a_program(self) -> tuple[int, int]:
        program = self._random.choice(self._programs)
        return program.pid(), program.process.pid

    def _replace_program(self) -> None:
        program = self._random.choice(self._programs)
        if pid := program.pid():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                os.kill(program.process.pid, signal.SIGCONT)
        program.process.wait(60)
        self._count(program)
        self._programs.remove(program)
        program.close()
        self._begin(program.host)

    def _count(self, program: _Program) -> None:
        facts = program.facts()
        where = program.host.name
        self.tasks += facts["tasks"]
        self._rounds += program.rounds()
        self.worst_s = max(self.worst_s, facts.get("worst_s", 0.0))
        self.errors.update(facts.get("errors", {}))
        self.problems += [f"wrong, on {where}: {line}" for line in facts.get("wrong", ())]
        self.problems += [f"hung, on {where}: {line}" for line in facts.get("hung", ())]
        self.problems += [f"lost, on {where}: {count} x {line}" for line, count in facts.get("errors", {}).items()]

    # -- what happens -------------------------------------------------------------------------------------------

    def _strike(self, faults: Faults, seconds: float) -> None:
        began = said = time.monotonic()
        next_fault = began + self._random.expovariate(1 / self._every_s)
        while (now := time.monotonic()) < began + seconds:
            faults.undo(now)
            if now >= next_fault:
                next_fault = now + self._random.expovariate(1 / self._every_s)
                self._say(f"{now - began:7.1f} s  {faults.strike(now)}")
            if now - said > 30:
                said = now
                counts = [program.facts()["tasks"] for program in self._programs]
                self._say(f"{now - began:7.1f} s  tasks of the programs that run: {counts}")
            for program in self._programs:
                if program.process.poll() is not None:
                    self.problems.append(f"ended by itself on {program.host.name}: {program.last_words()}")
                    self._count(program)
                    self._programs.remove(program)
                    program.close()
                    self._begin(program.host)
                    break
            time.sleep(0.05)
        # Until everything is mended: what is put off for a moment may be put off again.
        deadline = time.monotonic() + _SETTLE_S
        while not faults.mended and time.monotonic() < deadline:
            faults.undo(float("inf"))

    def _end_programs(self) -> None:
        for program in self._programs:
            assert program.process.stdin is not None
            program.process.stdin.close()
        deadline = time.monotonic() + _CALM_S
        for program in self._programs:
            try:
                program.process.wait(max(1.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                self.problems.append(f"hung: the program on {program.host.name} does not end")
            else:
                if program.process.returncode:
                    self.problems.append(f"failed, on {program.host.name}: {program.last_words()}")
            self._count(program)

    # -- what is left -------------------------------------------------------------------------------------------

    def _look(self, lan: Lan) -> None:
        """The cluster, when nobody uses it any more."""
        head = lan.hosts[0]

        def busy() -> str:
            status = head.distpool("status", status=None)
            return "" if "0 of 6 CPUs in use" in status and "PROGRAM" not in status else status

        left = _settle(busy)
        if left:
            self.problems.append(f"left: the cluster is not idle:\n{left}")
        for host in lan.hosts:
            if len(agents(host)) != 1:
                self.problems.append(f"left: {len(agents(host))} node processes on {host.name}")
            many = _settle(lambda host=host: str(len(workers(host))) if len(workers(host)) > 2 else "")
            if many:
                self.problems.append(f"left: {many} workers on {host.name}, two are kept as spares")

    def _expect_nothing(self, lan: Lan) -> None:
        """The hosts, when all nodes have been stopped."""
        for host in lan.hosts:
            left = _settle(lambda host=host: " ".join(map(str, processes(host))))
            if left:
                self.problems.append(f"left: processes {left} on {host.name}")
            files = _settle(
                lambda host=host: host.run("sh", "-c", "ls -d /dev/shm/* /tmp/distpool* 2>/dev/null", status=None)
            )
            if files:
                self.problems.append(f"left: files on {host.name}: {files}")


def _settle(left: Callable[[], str]) -> str:
    """What is still there after a while."""
    deadline = time.monotonic() + _SETTLE_S
    while (found := left()) and time.monotonic() < deadline:
        time.sleep(0.2)
    return found
