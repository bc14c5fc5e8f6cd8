"""``mpi://``: the ranks that ``mpirun`` or ``srun`` started are the nodes, but for rank 0, which is the program.

The ranks run already; so nothing is started, only told to whom they belong.  Orders go through files of mode 0600 in a
folder that all ranks see, and so do the answers: MPI itself is not needed for that, and what it sends is not encrypted.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from distpool.node import machine
from distpool.node.statefolder import state_folder, write_private
from distpool.provision.address import Engine
from distpool.provision.interface import Machine, NodeType, Phase, ProvisionError
from distpool.provision.local import last_line
from distpool.wire.security import Token

#: For rank, number of ranks and ranks on this machine: what launchers call them.
_RANK = ("OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID")
_SIZE = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_NTASKS", "SLURM_NPROCS")
_LOCAL_SIZE = ("OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS", "SLURM_NTASKS_PER_NODE")
_JOB = ("PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid", "PMI_JOBID")
#: Tells the program where the orders go, and how many ranks there are.
FOLDER_VARIABLE, SIZE_VARIABLE = "DISTPOOL_MPI_FOLDER", "DISTPOOL_MPI_SIZE"
_LOOK_S = 0.1
#: How long ranks may take to show up, and nodes to end.
_GATHER_S, _END_S = 60.0, 20.0


def number(names: Sequence[str], environment: Mapping[str, str] = os.environ) -> int | None:
    """What a launcher says, if one does."""
    return next((int(text) for name in names if (text := environment.get(name, "")).isdigit()), None)


def place(environment: Mapping[str, str] = os.environ) -> tuple[int, int]:
    """Rank, and number of ranks; (0, 1) when no launcher started this process."""
    rank, size = number(_RANK, environment), number(_SIZE, environment)
    return (0, 1) if rank is None or size is None else (rank, size)


def common_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """The folder that all ranks of this job name in the same way, and other jobs do not."""
    given = environment.get(FOLDER_VARIABLE)
    if given:
        return Path(given)
    job = next((environment[name] for name in _JOB if environment.get(name)), "")
    step = ".".join(environment.get(name, "") for name in ("SLURM_JOB_ID", "SLURM_STEP_ID")).strip(".")
    safe = "".join(letter if letter.isalnum() else "-" for letter in f"{job}-{step}".strip("-"))
    return state_folder() / f"mpi-{safe}"


@dataclass(frozen=True, kw_only=True)
class MPI(Engine):
    """The ranks of this job; the program is started with ``mpirun python -m distpool.mpi program.py``."""

    scheme: ClassVar[str] = "mpi"

    def usual_nodes(self) -> int:
        """All ranks but the program's own."""
        return max(1, int(os.environ.get(SIZE_VARIABLE, "2")) - 1)

    def near(self) -> str:
        """The machine of a rank that is not on this one, if there is one."""
        folder, deadline = Path(os.environ.get(FOLDER_VARIABLE, "/nonexistent")), time.monotonic() + _GATHER_S
        while len(found := list(folder.glob("*.host"))) < self.usual_nodes() and folder.is_dir():
            if time.monotonic() > deadline:
                break  # its order is not taken, and that will be said
            time.sleep(_LOOK_S)
        hosts = sorted({path.read_text().strip() for path in found} - {socket.gethostname()})
        return hosts[0] if hosts else ""

    def provisioner(self, token: Token) -> MPIProvisioner:
        """See ``Engine``."""
        folder = os.environ.get(FOLDER_VARIABLE)
        if not folder:
            raise ProvisionError(
                "this program was not started as rank 0 of several: mpirun -n 4 python -m distpool.mpi program.py",
                hopeless=True,
            )
        return MPIProvisioner(self, token, Path(folder), int(os.environ[SIZE_VARIABLE]))


class MPIProvisioner:
    """Gives orders to ranks.

    :param folder: of the orders.
    :param size: how many ranks there are.
    """

    def __init__(self, engine: MPI, token: Token, folder: Path, size: int) -> None:
        self._engine = engine
        self._token = token
        self._folder = folder
        self._kind = engine.node_type(start_s=5.0)
        self._free = list(range(1, size))
        self._ranks: dict[str, int] = {}
        self._ending: dict[str, int] = {}

    def node_types(self) -> Sequence[NodeType]:
        """See ``Provisioner``."""
        return (self._kind,)

    def start(self, node: str, node_type: str) -> None:
        """See ``Provisioner``."""
        if node_type != self._kind.name:
            raise ProvisionError(f"there is no type {node_type!r}; there is {self._kind.name}")
        self._reap()
        if node in self._ranks:
            return
        if not self._free or len(self._ranks) >= self._kind.most:
            raise ProvisionError("all ranks are nodes already")
        rank = self._ranks[node] = self._free.pop(0)
        if node in self._ending:
            self._ending.pop(node)
        self._path(node, "exit").unlink(missing_ok=True)
        engine = self._engine
        words = ["--node", node]
        words += ["--num-cpus", f"{engine.cpus:g}"] if engine.cpus is not None else []
        words += ["--num-gpus", f"{engine.gpus:g}"] if engine.gpus is not None else []
        words += ["--memory-bytes", str(engine.memory)] if engine.memory is not None else []
        write_private(self._order(rank), "\n".join([self._token.line(), *words]).encode())

    def release(self, node: str) -> None:
        """See ``Provisioner``."""
        rank = self._ranks.pop(node, None)
        if rank is not None:
            self._order(rank).unlink(missing_ok=True)
            self._ending[node] = rank
            self._reap()

    def list(self) -> Mapping[str, Machine]:
        """See ``Provisioner``."""
        found = {}
        for node, rank in list(self._ranks.items()):
            code = self._read(node, "exit")
            log = str(self._path(node, "log"))
            if code == "0":
                self.release(node)
            elif code:
                why = last_line(log) or f"it ended with exit status {code}"
                found[node] = Machine(self._kind.name, Phase.FAILED, f"rank {rank}: {why}")
            elif f"Node {node} joined" in self._read(node, "log"):
                found[node] = Machine(self._kind.name, Phase.RUNNING)
            elif self._path(node, "log").exists():
                found[node] = Machine(self._kind.name, Phase.STARTING)
            else:
                found[node] = Machine(self._kind.name, Phase.QUEUED, "until their ranks take orders")
        return found

    def close(self) -> None:
        """See ``Provisioner``."""
        for node in list(self._ranks):
            self.release(node)
        deadline = time.monotonic() + _END_S
        while self._ending and time.monotonic() < deadline:
            self._reap()
            time.sleep(_LOOK_S / 2)

    # -- within -------------------------------------------------------------------------------------------------

    def _reap(self) -> None:
        for node, rank in list(self._ending.items()):
            # A rank that had not come so far never saw the order.
            if self._read(node, "exit") or not self._path(node, "log").exists():
                del self._ending[node]
                self._free.append(rank)

    def _order(self, rank: int) -> Path:
        return self._folder / f"{rank}.order"

    def _path(self, node: str, what: str) -> Path:
        return self._folder / f"{node}.{what}"

    def _read(self, node: str, what: str) -> str:
        try:
            return self._path(node, what).read_text(errors="replace").strip()
        except OSError:
            return ""


# -- the other ranks -------------------------------------------------------------------------------------------------


def serve(folder: Path, rank: int, python: str = "") -> int:
    """Take orders until the folder is gone; what a rank other than 0 does.

    :param python: runs the node; default: this one.
    :returns: the exit status: 0, or 1 when there never was a folder.
    """
    deadline = time.monotonic() + _GATHER_S
    while not (folder / "open").exists():
        if time.monotonic() > deadline:
            print(
                f"distpool: rank {rank} sees no orders in {folder}: does rank 0 run, and do all ranks share it? "
                f"{FOLDER_VARIABLE} names another folder",
                file=sys.stderr,
            )
            return 1
        time.sleep(_LOOK_S)
    done = ""
    while folder.exists():
        here = folder / f"{rank}.host"
        if not here.exists():  # in the loop, since the folder may have been one that a job of the same name had left
            with contextlib.suppress(OSError):
                write_private(here, socket.gethostname().encode())
        order = _read_order(folder, rank)
        if order and order != done:
            _obey(folder, rank, order, python or sys.executable)
            done = order
        time.sleep(_LOOK_S)
    return 0


def _read_order(folder: Path, rank: int) -> str:
    try:
        return (folder / f"{rank}.order").read_text()
    except OSError:
        return ""


def _obey(folder: Path, rank: int, order: str, python: str) -> None:
    """Be a node for as long as the order stands."""
    token, *words = order.split("\n")
    node = words[1]
    words += [] if "--num-cpus" in words else ["--num-cpus", str(own_cpus())]
    command = [python, "-m", "distpool", "start", "--join", "--private", "--foreground", "--until-eof"]
    try:
        log = os.open(folder / f"{node}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:
        return
    with subprocess.Popen(
        [*command, "--token-file", "-", *words], stdin=subprocess.PIPE, stdout=log, stderr=log, text=True
    ) as process:
        os.close(log)
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(f"{token}\n")
            process.stdin.flush()
        while process.poll() is None and _read_order(folder, rank) == order:
            time.sleep(_LOOK_S)
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        try:
            code = process.wait(_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
    with contextlib.suppress(OSError):
        write_private(folder / f"{node}.exit", str(code).encode())


def own_cpus(environment: Mapping[str, str] = os.environ) -> int:
    """A rank's share: what it is bound to, or its part of what all on this machine may use alike."""
    cpus = machine.cpu_count(environment)
    bound = cpus < (os.cpu_count() or 1)
    return cpus if bound else max(1, cpus // (number(_LOCAL_SIZE, environment) or 1))


def open_folder(folder: Path) -> None:
    """Rank 0 begins; what a job of the same name left is removed."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700, parents=True)
    (folder / "open").touch(mode=0o600)


def close_folder(folder: Path, size: int) -> None:
    """Rank 0 ends, and with it the others; those that have not begun yet must see that there was something to begin."""
    deadline = time.monotonic() + _GATHER_S
    while len(list(folder.glob("*.host"))) < size - 1 and time.monotonic() < deadline:
        time.sleep(_LOOK_S / 2)
    shutil.rmtree(folder, ignore_errors=True)
