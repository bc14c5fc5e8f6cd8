"""Nodes as steps of the Slurm allocation that the program runs in: one on each of its machines."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from msgspec import structs

from distpool.provision.interface import Machine, NodeType, Phase, ProvisionError
from distpool.provision.slurm import KeyFolder, Slurm, agent_words, environment_of_jobs, hostnames, run
from distpool.wire.security import Token

#: How long a step may take to end before its ``srun`` is killed.
_END_S = 20.0


@dataclass(slots=True)
class _Step:
    host: str
    process: subprocess.Popen[bytes]


class StepProvisioner:
    """Starts an agent with ``srun`` on each machine, beside whatever else runs there.

    :raises ProvisionError: when the allocation is not known any more.
    """

    def __init__(self, engine: Slurm, token: Token) -> None:
        self._engine = engine
        self._job = os.environ["SLURM_JOB_ID"]
        hosts = hostnames(os.environ["SLURM_JOB_NODELIST"])
        counts = cpus_per_host(os.environ.get("SLURM_JOB_CPUS_PER_NODE", ""))
        #: host → CPUs of the allocation there
        self._hosts = dict(zip(hosts, counts or [1] * len(hosts), strict=True))
        kind = engine.node_type(start_s=5.0)
        if engine.cpus is None:
            kind = replace(kind, capacity=structs.replace(kind.capacity, num_cpus=float(min(self._hosts.values()))))
        self._kind = kind
        self._keys = KeyFolder(engine.folder, token)
        self._steps: dict[str, _Step] = {}
        self._released: list[_Step] = []

    def node_types(self) -> Sequence[NodeType]:
        """See ``Provisioner``."""
        return (self._kind,)

    def start(self, node: str, node_type: str) -> None:
        """See ``Provisioner``."""
        if node_type != self._kind.name:
            raise ProvisionError(f"there is no type {node_type!r}; there is {self._kind.name}")
        if node in self._steps:
            return
        used = {step.host for step in self._steps.values()}
        host = next((host for host in self._hosts if host not in used), None)
        if host is None or len(self._steps) >= self._kind.most:
            raise ProvisionError(f"allocation {self._job} has {len(self._hosts)} machines, and {len(used)} are used")
        cpus = self._hosts[host] if self._engine.cpus is None else self._engine.cpus
        command = [
            "srun",
            f"--jobid={self._job}",
            "--nodes=1",
            "--ntasks=1",
            f"--nodelist={host}",
            "--overlap",
            f"--job-name={node}",
        ]
        command += [f"--cpus-per-task={cpus:g}", "--unbuffered", "--quiet"]
        with open(self._keys.log(node), "ab") as log:
            process = subprocess.Popen(
                [*command, *agent_words(self._engine, node, self._keys.give(node))],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment_of_jobs(),
                start_new_session=True,  # Ctrl-C is for the program
            )
        self._steps[node] = _Step(host, process)

    def release(self, node: str) -> None:
        """See ``Provisioner``."""
        step = self._steps.pop(node, None)
        if step is not None:
            self._end(node, step)
            self._keys.forget(node)
            self._released.append(step)

    def list(self) -> Mapping[str, Machine]:
        """See ``Provisioner``."""
        self._released = [step for step in self._released if step.process.poll() is None]
        for node, step in list(self._steps.items()):
            if step.process.poll() == 0:
                del self._steps[node]
        return {node: self._machine(node, step) for node, step in self._steps.items()}

    def close(self) -> None:
        """End all steps, and wait until they have ended."""
        for node in list(self._steps):
            self.release(node)
        deadline = time.monotonic() + _END_S
        for step in self._released:
            try:
                step.process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                step.process.kill()
                step.process.wait()
        self._keys.remove()

    def _end(self, node: str, step: _Step) -> None:
        """Have the agent end in order: ``srun`` would answer a signal of ours by killing it."""
        found: list[str] = []
        with contextlib.suppress(ProvisionError):
            text = run("squeue", "--noheader", "--steps", f"--jobs={self._job}", "--format=%i|%j")
            found = [line.partition("|")[0] for line in text.splitlines() if line.partition("|")[2] == node]
            for number in found:
                run("scancel", "--quiet", "--signal=TERM", number)
        if not found:
            step.process.terminate()  # it has not begun

    def _machine(self, node: str, step: _Step) -> Machine:
        code = step.process.returncode
        if code is None:
            return Machine(self._kind.name, Phase.RUNNING if self._keys.has_joined(node) else Phase.STARTING)
        how = f"with status {code}" if code > 0 else f"by signal {-code}"
        reason = f"the step on {step.host} ended {how}{self._keys.last_words(node)}"
        return Machine(self._kind.name, Phase.FAILED, reason)


def cpus_per_host(text: str) -> list[int]:
    """CPUs of each machine of an allocation from ``2(x3),4``, as Slurm writes it."""
    counts: list[int] = []
    for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", text):
        counts += [int(count)] * int(times or 1)
    return counts
