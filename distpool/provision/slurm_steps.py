"""Nodes as steps of the Slurm allocation that the program runs in: one on each of its machines."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from dataclasses import dataclass

from distpool.provision.base import BaseProvisioner
from distpool.provision.interface import Machine, Phase, ProvisionError
from distpool.provision.keyfolder import KeyFolder
from distpool.provision.slurm import Slurm, cancel, environment_of_jobs, hostnames, node_words, run
from distpool.wire.security import Token


@dataclass(slots=True)
class _Step:
    host: str
    process: subprocess.Popen[bytes]


class StepProvisioner(BaseProvisioner[_Step]):
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
        super().__init__(engine.node_type(start_s=5.0, cpus=float(min(self._hosts.values()))))
        self._keys = KeyFolder(engine.folder, "slurm", token, cancel)

    def request(self, node: str) -> _Step:
        """See ``BaseProvisioner``."""
        used = {step.host for step in self.handles.values()}
        host = next((host for host in self._hosts if host not in used), None)
        if host is None:
            raise ProvisionError(f"allocation {self._job} has {len(self._hosts)} machines, and all are used")
        cpus = self._hosts[host] if self._engine.cpus is None else self._engine.cpus
        command = ["srun", f"--jobid={self._job}", "--nodes=1", "--ntasks=1", f"--nodelist={host}", "--overlap"]
        command += [f"--job-name={node}", f"--cpus-per-task={cpus:g}", "--unbuffered", "--quiet"]
        with open(self._keys.log(node), "ab") as log:
            process = subprocess.Popen(
                [*command, *node_words(self._engine, node, self._keys.give(node))],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment_of_jobs(),
                start_new_session=True,  # Ctrl-C is for the program
            )
        return _Step(host, process)

    def look(self, node: str, step: _Step) -> Machine | None:
        """See ``BaseProvisioner``."""
        code = step.process.poll()
        if code is None:
            return self.seen(Phase.RUNNING if self._keys.has_joined(node) else Phase.STARTING)
        if code == 0:
            return None
        how = f"with status {code}" if code > 0 else f"by signal {-code}"
        return self.failed(f"the step on {step.host} ended {how}{self._keys.last_words(node)}")

    def end(self, node: str, step: _Step) -> None:
        """Have the agent end in order: ``srun`` would answer a signal of ours by killing it."""
        self._keys.forget(node)
        if step.process.poll() is not None:
            return
        found: list[str] = []
        with contextlib.suppress(ProvisionError):
            text = run("squeue", "--noheader", "--steps", f"--jobs={self._job}", "--format=%i|%j")
            found = [line.partition("|")[0] for line in text.splitlines() if line.partition("|")[2] == node]
            for number in found:
                run("scancel", "--quiet", "--signal=TERM", number)
        if not found:
            step.process.terminate()  # it has not begun

    def has_ended(self, step: _Step) -> bool:
        """See ``BaseProvisioner``."""
        return step.process.poll() is not None

    def kill(self, step: _Step) -> None:
        """See ``BaseProvisioner``."""
        step.process.kill()

    def close(self) -> None:
        """See ``Provisioner``."""
        super().close()
        self._keys.remove()


def cpus_per_host(text: str) -> list[int]:
    """CPUs of each machine of an allocation from ``2(x3),4``, as Slurm writes it."""
    counts: list[int] = []
    for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", text):
        counts += [int(count)] * int(times or 1)
    return counts
