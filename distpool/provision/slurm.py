"""Nodes as jobs of a Slurm cluster: one job per node, or one step per node inside of an allocation.

The cluster's key travels in a file of mode 0600 in a folder that the machines share; scripts, command lines and
environments of jobs name the file only, since operators, accounting or other users may see those.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from distpool.node import statefolder
from distpool.provision.address import Engine, duration, option, words
from distpool.provision.interface import Machine, NodeType, Phase, Provisioner, ProvisionError
from distpool.wire.security import Token

#: How long one of Slurm's commands may take; its controller answers late when it is busy.
COMMAND_S = 60.0
#: How long jobs may take to end when the program does.
_END_S = 25.0
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


class SlurmProvisioner:
    """Submits a job for each node.

    All jobs have one name, by which they are found: also one that ``sbatch`` submitted before it failed to say so.

    :raises ProvisionError: when there is no Slurm here.
    """

    def __init__(self, engine: Slurm, token: Token) -> None:
        self._engine = engine
        self._kind = engine.node_type(start_s=15.0)
        self._token = token
        self._keys = KeyFolder(engine.folder, token)
        #: of all jobs
        self._mine = (f"--name={self._keys.name}", f"--user={os.getuid()}")
        #: node → job, and when it was submitted
        self._jobs: dict[str, tuple[str, float]] = {}
        #: job → state, reason and machine, as Slurm last said
        self._queue: dict[str, tuple[str, str, str]] = {}
        self._asked_at = 0.0

    def node_types(self) -> Sequence[NodeType]:
        """See ``Provisioner``."""
        return (self._kind,)

    def start(self, node: str, node_type: str) -> None:
        """See ``Provisioner``."""
        if node_type != self._kind.name:
            raise ProvisionError(f"there is no type {node_type!r}; there is {self._kind.name}")
        if node in self._jobs:
            return
        if len(self._jobs) >= self._kind.most:
            raise ProvisionError(f"there are {len(self._jobs)} jobs, which is the most")
        job = run("sbatch", *self._words(node), text=self._script(node)).partition(";")[0].strip()
        self._jobs[node] = job, time.monotonic()

    def release(self, node: str) -> None:
        """See ``Provisioner``."""
        job, _ = self._jobs.pop(node, ("", 0.0))
        if job:
            self._keys.forget(node)
            with contextlib.suppress(ProvisionError):  # it may have ended by itself
                run("scancel", "--quiet", job)

    def list(self) -> Mapping[str, Machine]:
        """See ``Provisioner``; Slurm is asked now and then only, since all of a site's users share one controller."""
        if self._jobs and time.monotonic() >= self._asked_at + self._engine.ask:
            self._ask()
        found = {node: self._machine(node, job, since) for node, (job, since) in self._jobs.items()}
        for node in [node for node, machine in found.items() if machine is None]:
            del self._jobs[node]
            self._keys.forget(node)
        return {node: machine for node, machine in found.items() if machine is not None}

    def close(self) -> None:
        """Cancel all jobs, and wait until they have ended."""
        deadline = time.monotonic() + _END_S
        pause_s = 0.1
        with contextlib.suppress(ProvisionError):  # no controller: the jobs end by themselves
            run("scancel", "--quiet", *self._mine)
            while run("squeue", "--noheader", *self._mine) and time.monotonic() < deadline:
                time.sleep(pause_s)
                pause_s = min(2.0, 2 * pause_s)
        self._jobs.clear()
        self._keys.remove()

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
        return f"#!/bin/sh\nexec {shlex.join(agent_words(self._engine, node, self._keys.give(node)))}\n"

    def _ask(self) -> None:
        now = time.monotonic()
        with contextlib.suppress(ProvisionError):  # its controller is away: what was known goes on to be
            text = run("squeue", "--noheader", *self._mine, "--states=all", "--format=%i|%T|%r|%N")
            self._queue = {}
            for line in text.splitlines():
                job, state, reason, machine = line.split("|")
                self._queue[job] = state, reason, machine
            self._asked_at = now

    def _machine(self, node: str, job: str, since: float) -> Machine | None:
        if job not in self._queue:
            known = since >= self._asked_at
            gone = f"job {job} has ended: Slurm does not know it any more{self._keys.last_words(node)}"
            phase, reason = (Phase.QUEUED, "in Slurm") if known else (Phase.FAILED, gone)
            return Machine(self._kind.name, phase, reason)
        state, reason, machine = self._queue[job]
        if state == "COMPLETED":
            return None
        if state in _WAITING:
            if reason in _NEVER:
                return Machine(self._kind.name, Phase.FAILED, f"job {job} cannot start: {reason}", hopeless=True)
            return Machine(self._kind.name, Phase.QUEUED, f"in Slurm ({reason if state == 'PENDING' else state})")
        if state in _STARTING:
            return Machine(self._kind.name, Phase.STARTING)
        if state == "RUNNING" or state in _ENDING:
            return Machine(self._kind.name, Phase.RUNNING if self._keys.has_joined(node) else Phase.STARTING)
        reason = "" if reason in ("", "None") else f", {reason}"
        ended = f"job {job} ended{f' on {machine}' if machine else ''}: {state}{reason}{self._keys.last_words(node)}"
        return Machine(self._kind.name, Phase.FAILED, ended)


class KeyFolder:
    """The file with the key, and logs, where the machines of the cluster can read and write them.

    It is locked for as long as the program lives: whoever comes next on this machine takes away what a program left
    that was killed, with the jobs that still wait in the queue for it.

    :param folder: that the machines share; empty: the state folder.
    """

    def __init__(self, folder: str, token: Token) -> None:
        base = Path(folder).expanduser().absolute() if folder else statefolder.state_folder() / "slurm"
        owner = f"distpool-{socket.gethostname()}-"
        self.name = f"{owner}{secrets.token_hex(4)}"
        self._folder = base / self.name
        self._folder.mkdir(mode=0o700, parents=True)
        self._line = f"{token.line()}\n".encode()
        self._joined: set[str] = set()
        self._lock = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with contextlib.suppress(OSError):  # not every file system can
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Locks of other machines are not seen on every file system.
        for other in base.glob(f"{owner}*"):
            if other != self._folder and _is_abandoned(other / "lock"):
                with contextlib.suppress(ProvisionError):
                    run("scancel", "--quiet", f"--name={other.name}", f"--user={os.getuid()}")
                    shutil.rmtree(other, ignore_errors=True)

    def give(self, node: str) -> Path:
        """A file of a node's own with the key; without it, one that was released before it began cannot join."""
        path = self._folder / f"{node}.token"
        statefolder.write_private(path, self._line)
        return path

    def log(self, node: str) -> Path:
        """Where a node's output goes."""
        return self._folder / f"{node}.log"

    def has_joined(self, node: str) -> bool:
        """Whether a node has said that it is part of the cluster."""
        if node not in self._joined:
            with contextlib.suppress(OSError):  # it has not begun to write
                if f"Node {node} joined" in self.log(node).read_text(errors="replace"):
                    self._joined.add(node)
        return node in self._joined

    def forget(self, node: str) -> None:
        """Another one may come under the same name."""
        self._joined.discard(node)
        for path in (self.log(node), self._folder / f"{node}.token"):
            with contextlib.suppress(OSError):
                path.unlink()

    def last_words(self, node: str) -> str:
        """What a node said before it failed, to be put behind what is known of it."""
        log = self.log(node)
        try:
            said = log.read_text(errors="replace").strip().splitlines()
        except OSError:
            return f" (it wrote no log: do all machines have the folder {log.parent}? folder=... names another)"
        # What Slurm says behind it is known already.
        lines = [line for line in said if not line.startswith(("srun: ", "slurmstepd"))] or said
        return f"; its last words: {lines[-1]}" if lines else "; it said nothing"

    def remove(self) -> None:
        """The program ends; fine to call twice."""
        shutil.rmtree(self._folder, ignore_errors=True)
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def _is_abandoned(lock: Path) -> bool:
    try:
        fd = os.open(lock, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False  # it is being made, or taken away
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


def agent_words(engine: Slurm, node: str, token_file: Path) -> list[str]:
    """The command that runs a node's agent."""
    words = [engine.python or sys.executable, "-m", "distpool", "start", "--join", "--private", "--foreground"]
    words += ["--node", node, "--token-file", str(token_file)]
    if engine.cpus is not None:
        # What was not asked for may be seen all the same where Slurm does not confine jobs, and is somebody else's.
        words += ["--num-cpus", f"{engine.cpus:g}", "--num-gpus", f"{engine.gpus or 0:g}"]
    elif engine.gpus is not None:
        words += ["--num-gpus", f"{engine.gpus:g}"]
    if engine.memory is not None:
        words += ["--memory-bytes", str(engine.memory)]
    return words


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
