"""What another engine's process does to be a node: it runs the agent as a process of its own, and holds it.

Ray and Dask carry this module to their processes by value, so it needs nothing but the standard library, and distpool
has to be installed for the Python that the agent runs with, and not for the engine's.  The agent ends when its standard
input does: with the process that holds it, however that ends.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import deque

#: How long an agent may take to end before it is killed.
END_S = 15.0
#: The engines limit these to what one of their own tasks may use; distpool shares CPUs among its workers itself.
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class Secret(str):
    """Text that engines do not show, in logs of failed calls for example."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "<secret>"


class Holder:
    """See the module's description.

    :param node: its name.
    :param python: the Python to run it with; empty: the one that runs here.
    :param words: what stands behind the Python; the agent reads its token from standard input, and ends with that.
    :param token: the cluster's.
    """

    def __init__(self, node: str, python: str, words: tuple[str, ...], token: Secret) -> None:
        self._node = node
        self._token = token
        self._command = [python or sys.executable, *words]
        self._process: subprocess.Popen[str] | None = None
        self._lines: deque[str] = deque(maxlen=20)
        self._ended = False

    def start(self) -> None:
        """Run the agent, and return when it is part of the cluster.

        :raises RuntimeError: when it ends before that, with its last words.
        """
        if self._ended:
            raise RuntimeError("the agent was ended before it had begun")
        environment = {name: value for name, value in os.environ.items() if name not in _THREADS}
        process = self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            errors="replace", env=environment,
        )  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(f"{self._token}\n")
            process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended already, and has said why
        if self._ended:
            self.end()
        for line in process.stdout:
            self._lines.append(line.strip())
            if line.startswith(f"Node {self._node} joined"):
                return
        self._fail(process)

    def wait(self) -> None:
        """Return when the agent has ended in order; it must have been started.

        :raises RuntimeError: when it ends in another way, with its last words.
        """
        process = self._process
        assert process is not None
        assert process.stdout is not None
        for line in process.stdout:
            self._lines.append(line.strip())
        if process.wait() and not self._ended:
            self._fail(process)

    def end(self) -> None:
        """End the agent; may be called from another thread, and before it is started."""
        self._ended = True
        process = self._process
        if process is None:
            return
        assert process.stdin is not None
        try:
            process.stdin.close()
        except OSError:
            pass  # it has ended
        try:
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            process.kill()

    def _fail(self, process: subprocess.Popen[str]) -> None:
        code = process.wait()
        how = f"with exit status {code}" if code >= 0 else f"by signal {-code}"
        said = f"; its last words: {self._lines[-1]}" if self._lines else " and said nothing"
        raise RuntimeError(f"the agent ended {how}{said}")


def hold_in_dask(task: str, node: str, python: str, words: tuple[str, ...], token: Secret, topic: str) -> None:
    """A task of Dask's that is a node until that ends, and says how far it has come.

    :param task: its name, which no other has.
    """
    from distributed import get_worker

    worker = get_worker()
    holder = Holder(node, python, words, token)
    worker.__dict__.setdefault("distpool_nodes", {})[task] = holder
    if task in worker.__dict__.get("distpool_ended", ()):
        return
    try:
        worker.log_event(topic, (task, "begun"))
        holder.start()
        worker.log_event(topic, (task, "joined"))
        holder.wait()
    finally:
        del worker.distpool_nodes[task]


async def end_in_dask(task: str, dask_worker: object) -> None:
    """Run by Dask on a worker, beside its tasks: end a node that it holds, or is about to."""
    import threading

    dask_worker.__dict__.setdefault("distpool_ended", set()).add(task)
    holder = dask_worker.__dict__.get("distpool_nodes", {}).get(task)
    if holder is not None:
        threading.Thread(target=holder.end).start()  # the worker goes on meanwhile
