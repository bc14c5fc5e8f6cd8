"""What the ranks other than 0 do: they take orders from ``mpi://`` (see ``mpi``) to be a node, or to be one no more."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from distpool.node import machine
from distpool.node.statefolder import write_private
from distpool.provision.mpi import FOLDER_VARIABLE, GATHER_S, LOCAL_SIZE, LOOK_S, OPEN, number

#: How long a node may take to end before it is killed.
_END_S = 15.0


def serve(folder: Path, rank: int, python: str = "") -> int:
    """Take orders until the folder is gone; what a rank other than 0 does.

    :param python: runs the node; default: this one.
    :returns: the exit status: 0, or 1 when there never was a folder.
    """
    deadline = time.monotonic() + GATHER_S
    while not (folder / OPEN).exists():
        if time.monotonic() > deadline:
            print(
                f"distpool: rank {rank} sees no orders in {folder}: does rank 0 run, and do all ranks share it? "
                f"{FOLDER_VARIABLE} names another folder",
                file=sys.stderr,
            )
            return 1
        time.sleep(LOOK_S)
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
        time.sleep(LOOK_S)
    return 0


def _read_order(folder: Path, rank: int) -> str:
    try:
        return (folder / f"{rank}.order").read_text()
    except OSError:
        return ""


def _obey(folder: Path, rank: int, order: str, python: str) -> None:
    """Be a node for as long as the order stands."""
    token, node, *words = order.split("\n")
    words += [] if "--num-cpus" in words else ["--num-cpus", str(own_cpus())]
    try:
        log = os.open(folder / f"{node}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:
        return
    with subprocess.Popen([python, *words], stdin=subprocess.PIPE, stdout=log, stderr=log, text=True) as process:
        os.close(log)
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(f"{token}\n")
            process.stdin.flush()
        while process.poll() is None and _read_order(folder, rank) == order:
            time.sleep(LOOK_S)
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
    return cpus if bound else max(1, cpus // (number(LOCAL_SIZE, environment) or 1))
