"""``mpi://``: the ranks that ``mpirun`` or ``srun`` started are the nodes, but for rank 0, which is the program.

The ranks run already; so nothing is started, only told to whom they belong.  Orders go through files of mode 0600 in a
folder that all ranks see, and so do the answers: MPI itself is not needed for that, and what it sends is not encrypted.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

from distpool.errors import ConnectError
from distpool.node.statefolder import state_folder, write_private
from distpool.provision.address import Engine
from distpool.provision.base import BaseProvisioner, agent_words, last_line
from distpool.provision.interface import Machine, Phase, ProvisionError
from distpool.provision.keyfolder import hold, is_abandoned
from distpool.wire.security import Token

#: For rank, number of ranks and ranks on this machine: what launchers call them.
_RANK = ("OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID")
_SIZE = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_NTASKS", "SLURM_NPROCS")
LOCAL_SIZE = ("OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS", "SLURM_NTASKS_PER_NODE")
_JOB = ("PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid", "PMI_JOBID")
#: In the folder: rank 0 holds it for as long as it lives.
OPEN = "open"
#: Tells the program where the orders go, and how many ranks there are.
FOLDER_VARIABLE, SIZE_VARIABLE = "DISTPOOL_MPI_FOLDER", "DISTPOOL_MPI_SIZE"
LOOK_S = 0.1
#: How long ranks may take to show up.
GATHER_S = 60.0


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
        folder, deadline = Path(os.environ.get(FOLDER_VARIABLE, "/nonexistent")), time.monotonic() + GATHER_S
        while len(found := list(folder.glob("*.host"))) < self.usual_nodes() and folder.is_dir():
            if time.monotonic() > deadline:
                break  # its order is not taken, and that will be said
            time.sleep(LOOK_S)
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


class _Rank(NamedTuple):
    number: int
    node: str


class MPIProvisioner(BaseProvisioner[_Rank]):
    """Gives orders to ranks.

    :param folder: of the orders.
    :param size: how many ranks there are.
    """

    def __init__(self, engine: MPI, token: Token, folder: Path, size: int) -> None:
        super().__init__(engine.node_type(start_s=5.0))
        self._engine = engine
        self._token = token
        self._folder = folder
        #: least recently used first
        self._free = list(range(1, size))

    def request(self, node: str) -> _Rank:
        """See ``BaseProvisioner``."""
        if not self._free:
            raise ProvisionError("all ranks are nodes already")
        rank = _Rank(self._free.pop(0), node)
        self._path(node, "exit").unlink(missing_ok=True)
        words = agent_words(node, self._engine.capacity(), "--until-eof", "--token-file", "-")
        write_private(self._order(rank), "\n".join([self._token.line(), node, *words]).encode())
        return rank

    def look(self, node: str, rank: _Rank) -> Machine | None:
        """See ``BaseProvisioner``."""
        code = self._read(node, "exit")
        if code == "0":
            return None
        if code:
            why = last_line(str(self._path(node, "log"))) or f"it ended with exit status {code}"
            return self.failed(f"rank {rank.number}: {why}")
        if f"Node {node} joined" in self._read(node, "log"):
            return self.seen(Phase.RUNNING)
        if self._path(node, "log").exists():
            return self.seen(Phase.STARTING)
        return self.seen(Phase.QUEUED, "until their ranks take orders")

    def end(self, node: str, rank: _Rank) -> None:
        """See ``BaseProvisioner``."""
        self._order(rank).unlink(missing_ok=True)

    def has_ended(self, rank: _Rank) -> bool:
        """See ``BaseProvisioner``; a rank that had not come so far never saw the order."""
        unseen = not self._path(rank.node, "log").exists()
        return unseen or bool(self._read(rank.node, "exit")) or self._is_orphaned()

    def tidy(self, rank: _Rank) -> None:
        """See ``BaseProvisioner``."""
        self._free.append(rank.number)

    def close(self) -> None:
        """See ``Provisioner``; the folder is rank 0's, unless that was killed."""
        super().close()
        if self._is_orphaned():
            shutil.rmtree(self._folder, ignore_errors=True)

    # -- within -------------------------------------------------------------------------------------------------

    def _is_orphaned(self) -> bool:
        """Whether rank 0 was killed; then the launcher ends the others."""
        return is_abandoned(self._folder / OPEN)

    def _order(self, rank: _Rank) -> Path:
        return self._folder / f"{rank.number}.order"

    def _path(self, node: str, what: str) -> Path:
        return self._folder / f"{node}.{what}"

    def _read(self, node: str, what: str) -> str:
        try:
            return self._path(node, what).read_text(errors="replace").strip()
        except OSError:
            return ""


# -- the folder --------------------------------------------------------------------------------------------------------


def open_folder(folder: Path) -> int:
    """Rank 0 begins; what jobs have left is removed: one of the same name, and those whose rank 0 was killed here.

    :returns: the descriptor by which others see that rank 0 lives.
    :raises ConnectError: when it holds something else.
    """
    if folder.is_dir() and any(folder.iterdir()) and not (folder / OPEN).exists():
        raise ConnectError(f"{folder} is not empty: name a folder with {FOLDER_VARIABLE} that may be made and removed")
    shutil.rmtree(folder, ignore_errors=True)
    for other in folder.parent.glob("mpi-*"):
        with contextlib.suppress(OSError):
            # Locks of other machines are not seen on every file system.
            if (other / OPEN).read_text() == socket.gethostname() and is_abandoned(other / OPEN):
                shutil.rmtree(other, ignore_errors=True)
    folder.mkdir(mode=0o700, parents=True)
    being_made = folder / f".{OPEN}"
    life = hold(being_made)
    os.write(life, socket.gethostname().encode())
    being_made.rename(folder / OPEN)
    return life


def close_folder(folder: Path, size: int) -> None:
    """Rank 0 ends, and with it the others; those that have not begun yet must see that there was something to begin."""
    deadline = time.monotonic() + GATHER_S
    while len(list(folder.glob("*.host"))) < size - 1 and time.monotonic() < deadline:
        time.sleep(LOOK_S / 2)
    shutil.rmtree(folder, ignore_errors=True)
