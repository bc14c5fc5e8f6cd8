"""Run a program under ``mpirun`` or ``srun``: ``mpirun -n 4 python -m distpool.mpi program.py ...``.

Rank 0 runs the program; the other ranks are nodes, which its calls go to.  The program needs no change, and no MPI.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys

from distpool.errors import ConnectError
from distpool.provision import mpi, mpi_ranks

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)  # before there is a child, which may do little


def main(words: list[str] | None = None) -> int:
    """Run ``python -m distpool.mpi``.

    :param words: the program and its arguments (``-m module`` and ``-c code`` as with Python); default: ``sys.argv``.
    :returns: the exit status.
    """
    words = sys.argv[1:] if words is None else words
    if not words or words[0] in ("-h", "--help"):
        print("usage: mpirun -n N python -m distpool.mpi PROGRAM [ARGUMENT...]   (or -m MODULE, or -c CODE)")
        return 0 if words else 2
    rank, size = mpi.place()
    folder = mpi.common_folder()
    if rank:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the launcher passes it to all; the nodes end with the program
        return mpi_ranks.serve(folder, rank)
    if size == 1:
        return _run(words, {})
    try:
        life = mpi.open_folder(folder)
    except (ConnectError, OSError) as error:
        print(f"distpool: no folder for the orders to the other ranks: {error}", file=sys.stderr)
        return 1
    try:
        given = {mpi.FOLDER_VARIABLE: str(folder), mpi.SIZE_VARIABLE: str(size)}
        return _run(words, {"DISTPOOL_ADDRESS": os.environ.get("DISTPOOL_ADDRESS") or "mpi://", **given})
    finally:
        mpi.close_folder(folder, size)
        os.close(life)


def _run(words: list[str], further: dict[str, str]) -> int:
    """The program, as a process of its own that ends as it would have ended alone."""
    environment = {**os.environ, **further}
    # A launcher that kills its ranks knows of this process only; the program must not go on without it.
    process = subprocess.Popen([sys.executable, *words], env=environment, preexec_fn=_end_with_parent)  # noqa: PLW1509 - no threads
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda caught, _: process.send_signal(caught))
    while True:
        try:
            code = process.wait()
        except KeyboardInterrupt:
            continue  # it has it as well
        return code if code >= 0 else 128 - code


def _end_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)


if __name__ == "__main__":
    sys.exit(main())
