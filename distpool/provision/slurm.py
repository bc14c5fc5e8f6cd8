"""Nodes as jobs of a Slurm cluster: one job per node, or one step per node inside of an allocation.

The cluster's key travels in a file of mode 0600 in a folder that the machines share; scripts, command lines and
environments of jobs name the file only, since operators, accounting or other users may see those.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

from msgspec import structs

from distpool.provision.address import Engine, duration, option, words
from distpool.provision.base import BaseProvisioner, agent_words
from distpool.provision.interface import Machine, Phase, Provisioner, ProvisionError
from distpool.provision.keyfolder import KeyFolder
from distpool.wire.security import Token

#: How long one of Slurm's commands may take; its controller answers late when it is busy.
COMMAND_S = 60.0
#: Reasons for which a job never starts, unless an administrator or another address changes something.
_NEVER = {
    "AccountNotAllowed",
    "BadConstraints",
    "InvalidAccount",
    "InvalidQOS",
    "PartitionConfig",
    "PartitionNodeLimit",
    "PartitionTimeLimit",
    "QOSNotAllowed",
}
_STARTING, _ENDING = ("CONFIGURING",), ("COMPLETING", "STAGE_OUT")
_WAITING = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT", "SUSPENDED", "RESV_DEL_HOLD")
#: What ``sbatch`` says when the same will be refused again.
_HOPELESS = re.compile(
    "invalid|unrecognized|not available|not permitted|not allowed|more processors|denied", re.IGNORECASE
)


@dataclass(frozen=True, kw_only=True)
class Slurm(Engine):
    """Jobs that ``sbatch`` submits; inside of an allocation, and without options of jobs, steps on its nodes."""

    scheme: ClassVar[str] = "slurm"

    partition: str = option("", str, "the partition of the jobs")
    account: str = option("", str, "the account that is charged")
    qos: str = option("", str, "the jobs' quality of service")
    time: str = option("", str, "how long a job may run, as `sbatch --time` has it: `2:00:00`")
    constraint: str = option("", str, "features that machines must have")
    sbatch: tuple[str, ...] = option((), words, "further options of `sbatch`: `reservation=mine,nice=100`")
    folder: str = option("", str, "a folder that the machines share, for key and logs; default: the state folder")
    python: str = option("", str, "the Python to run there; default: the program's")
    ask: float = option(5.0, duration, "the queue is looked at so often at most")

    def submits(self) -> bool:
        """Whether it submits jobs, and does not use the allocation that the program runs in."""
        return "SLURM_JOB_ID" not in os.environ or bool(self.job_options())

    def job_options(self) -> list[str]:
        """The words for ``sbatch`` that an address has given."""
        names = ("partition", "account", "qos", "time", "constraint")
        given = [f"--{name}={value}" for name in names if (value := getattr(self, name))]
        return given + [f"--{text}" for text in self.sbatch]

    def usual_nodes(self) -> int:
        """All of the allocation."""
        return 1 if self.submits() else int(os.environ.get("SLURM_JOB_NUM_NODES", "1"))

    def near(self) -> str:
        """The controller's host, or the first of the allocation's."""
        if not self.submits():
            return os.environ.get("SLURM_JOB_NODELIST", "") and hostnames(os.environ["SLURM_JOB_NODELIST"])[0]
        found = re.search(
            r"^SlurmctldHost\[0\]\s*= ([^\s(]+)(?:\((\S+)\))?", run("scontrol", "show", "config"), re.MULTILINE
        )
        return (found[2] or found[1]) if found else ""

    def provisioner(self, token: Token) -> Provisioner:
        """See ``Engine``."""
        if self.submits():
            return SlurmProvisioner(self, token)
        from distpool.provision.slurm_steps import StepProvisioner

        return StepProvisioner(self, token)


class _Job(NamedTuple):
    number: str
    #: when it was submitted
    since: float


class SlurmProvisioner(BaseProvisioner[_Job]):
    """Submits a job for each node.

    All jobs have one name, by which they are found: also one that ``sbatch`` submitted before it failed to say so.

    :raises ProvisionError: when there is no Slurm here.
    """

    END_S = 25.0

    def __init__(self, engine: Slurm, token: Token) -> None:
        super().__init__(engine.node_type(start_s=15.0))
        self._engine = engine
        self._keys = KeyFolder(engine.folder, "slurm", token, cancel)
        #: job → state, reason and machine, as Slurm last said
        self._queue: dict[str, tuple[str, str, str]] = {}
        self._asked_at = 0.0

    def request(self, node: str) -> _Job:
        """See ``BaseProvisioner``."""
        number = run("sbatch", *self._words(node), text=self._script(node)).partition(";")[0].strip()
        return _Job(number, time.monotonic())

    def end(self, node: str, job: _Job) -> None:
        """See ``BaseProvisioner``."""
        self._keys.forget(node)
        with contextlib.suppress(ProvisionError):  # it may have ended by itself
            run("scancel", "--quiet", job.number)

    def close(self) -> None:
        """Cancel all jobs at once, and wait until they have ended."""
        deadline = time.monotonic() + self.END_S
        pause_s = 0.1
        with contextlib.suppress(ProvisionError):  # no controller: the jobs end by themselves
            cancel(self._keys.name)
            while run("squeue", "--noheader", *mine(self._keys.name)) and time.monotonic() < deadline:
                time.sleep(pause_s)
                pause_s = min(2.0, 2 * pause_s)
        self.handles.clear()
        self._keys.remove()

    def refresh(self) -> None:
        """Look at the queue; now and then only, since all of a site's users share one controller."""
        now = time.monotonic()
        if not self.handles or now < self._asked_at + self._engine.ask:
            return
        with contextlib.suppress(ProvisionError):  # its controller is away: what was known goes on to be
            text = run("squeue", "--noheader", *mine(self._keys.name), "--states=all", "--format=%i|%T|%r|%N")
            self._queue = {}
            for line in text.splitlines():
                job, state, reason, machine = line.split("|")
                self._queue[job] = state, "" if reason == "None" else reason, machine
            self._asked_at = now

    def look(self, node: str, job: _Job) -> Machine | None:
        """See ``BaseProvisioner``."""
        if job.number not in self._queue:
            if job.since >= self._asked_at:
                return self.seen(Phase.QUEUED, "in Slurm")
            gone = f"job {job.number} has ended: Slurm does not know it any more{self._keys.last_words(node)}"
            return self.failed(gone)
        state, reason, machine = self._queue[job.number]
        if state == "COMPLETED":
            return None
        if state in _WAITING:
            if reason in _NEVER:
                return self.failed(f"job {job.number} cannot start: {reason}", hopeless=True)
            why = reason if state == "PENDING" else state
            return self.seen(Phase.QUEUED, f"in Slurm ({why})" if why else "in Slurm")
        if state in _STARTING:
            return self.seen(Phase.STARTING)
        if state == "RUNNING" or state in _ENDING:
            return self.seen(Phase.RUNNING if self._keys.has_joined(node) else Phase.STARTING)
        why = f"{state}{f', {reason}' if reason else ''}{self._keys.last_words(node)}"
        return self.failed(f"job {job.number} ended{f' on {machine}' if machine else ''}: {why}")

    # -- within -------------------------------------------------------------------------------------------------

    def _words(self, node: str) -> Sequence[str]:
        engine = self._engine
        given = [f"--job-name={self._keys.name}", f"--comment=distpool node {node}", f"--output={self._keys.log(node)}"]
        given += ["--parsable", "--nodes=1", "--ntasks=1", "--no-requeue", "--open-mode=append"]
        # Whole machines, unless the address says what a node shall have.
        given += ["--exclusive"] if engine.cpus is None else [f"--cpus-per-task={engine.cpus:g}"]
        if engine.gpus:
            given.append(f"--gres=gpu:{engine.gpus:g}")
        if engine.memory is not None or engine.cpus is None:
            given.append(f"--mem={(engine.memory or 0) >> 20}M")
        return given + engine.job_options()

    def _script(self, node: str) -> str:
        return f"#!/bin/sh\nexec {shlex.join(node_words(self._engine, node, self._keys.give(node)))}\n"


def node_words(engine: Slurm, node: str, token_file: Path) -> list[str]:
    """The command that runs a node's agent."""
    offer = engine.capacity()
    if engine.cpus is not None:
        # What was not asked for may be seen all the same where Slurm does not confine jobs, and is somebody else's.
        offer = structs.replace(offer, num_gpus=engine.gpus or 0.0)
    return [engine.python or sys.executable, *agent_words(node, offer, "--token-file", str(token_file))]


def mine(name: str) -> tuple[str, str]:
    """What tells the jobs of this name from others'."""
    return f"--name={name}", f"--user={os.getuid()}"


def cancel(name: str) -> None:
    """End all jobs of this name.

    :raises ProvisionError: when Slurm does not answer.
    """
    run("scancel", "--quiet", *mine(name))


def hostnames(node_list: str) -> list[str]:
    """The hosts that Slurm writes as ``n[1-3]``."""
    return run("scontrol", "show", "hostnames", node_list).split()


def run(*command: str, text: str = "") -> str:
    """What one of Slurm's commands says.

    :raises ProvisionError: when it fails, with its own words.
    """
    if shutil.which(command[0]) is None:
        text = f"there is no {command[0]} here: run the program on a machine from which Slurm is used"
        raise ProvisionError(text, hopeless=True)
    try:
        done = subprocess.run(
            command, input=text, capture_output=True, text=True, timeout=COMMAND_S, env=environment_of_jobs()
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ProvisionError(f"{command[0]}: {error}") from error
    if done.returncode:
        said = re.sub(rf"^{command[0]}: (error: )?", "", done.stderr.strip(), flags=re.MULTILINE).replace("\n", "; ")
        raise ProvisionError(f"{command[0]}: {said or done.returncode}", hopeless=bool(_HOPELESS.search(said)))
    return done.stdout.strip()


def environment_of_jobs() -> dict[str, str]:
    """What jobs find in their environment: what the program has, but neither its cluster nor its allocation."""
    drop = re.compile("DISTPOOL_(ADDRESS|TOKEN|TOKEN_FILE)$|SLURM_(?!CONF$)")
    return {name: value for name, value in os.environ.items() if not drop.match(name)}
