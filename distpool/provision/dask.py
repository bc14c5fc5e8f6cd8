"""``dask://``: nodes inside of tasks of a Dask cluster that run for as long as the node is needed, one on each worker.

A node takes one thread of the worker that holds it, and offers as many CPUs as the worker has threads.  Tasks and their
data do not pass through Dask.
"""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from distpool.provision import holder
from distpool.provision.address import Engine, option
from distpool.provision.interface import Machine, NodeType, Phase, ProvisionError
from distpool.provision.reach import require_listener
from distpool.wire.resources import Shape
from distpool.wire.security import Token

#: How long Dask's scheduler may take to answer, and nodes to end when the program does.
_CONNECT_S, _END_S = 20.0, 20.0


@dataclass(frozen=True, kw_only=True)
class Dask(Engine):
    """Long-running tasks on the workers of a Dask cluster."""

    scheme: ClassVar[str] = "dask"
    target: ClassVar[str] = "scheduler"

    scheduler: str = option("", str, "Dask's scheduler as `host:8786`; default: what Dask's configuration says")
    python: str = option("", str, "the Python to run nodes with; default: the one that runs Dask's worker")

    def near(self) -> str:
        """The scheduler's machine."""
        return self.scheduler.rpartition(":")[0]

    def provisioner(self, token: Token) -> DaskProvisioner:
        """See ``Engine``."""
        return DaskProvisioner(self, token)


@dataclass(slots=True)
class _Task:
    worker: str
    future: Any
    #: what the task has said: ``begun``, ``joined``
    said: str = ""


class DaskProvisioner:
    """Submits a task for each node, to a worker that has none.

    :raises ProvisionError: when there is no Dask, or its scheduler does not answer.
    """

    def __init__(self, engine: Dask, token: Token) -> None:
        try:
            import cloudpickle
            import distributed
        except ImportError as error:
            text = f"Dask is not installed here ({error}): pip install 'distpool[dask]'"
            raise ProvisionError(text, hopeless=True) from error
        self._engine = engine
        self._token = holder.Secret(token.line())
        if engine.scheduler:
            require_listener(
                engine.scheduler.rpartition("://")[2], "Dask's scheduler", "dask scheduler listens at 8786"
            )
        try:
            self._client: Any = distributed.Client(
                engine.scheduler or None, timeout=_CONNECT_S, set_as_default=False, name="distpool"
            )
        except (OSError, ValueError) as error:
            text = f"Dask's scheduler {engine.scheduler or '(of its configuration)'} does not answer: {error}"
            raise ProvisionError(text, hopeless=True) from error
        cloudpickle.register_pickle_by_value(holder)
        self._topic = f"distpool-{secrets.token_hex(4)}"
        self._client.subscribe_topic(self._topic, self._on_said)
        self._kind = self._node_type()
        self._tasks: dict[str, _Task] = {}
        #: those that no worker was free for
        self._queued: list[str] = []
        self._released: list[_Task] = []

    def node_types(self) -> Sequence[NodeType]:
        """See ``Provisioner``."""
        return (self._kind,)

    def start(self, node: str, node_type: str) -> None:
        """See ``Provisioner``."""
        if node_type != self._kind.name:
            raise ProvisionError(f"there is no type {node_type!r}; there is {self._kind.name}")
        if node in self._tasks or node in self._queued:
            return
        if len(self._tasks) + len(self._queued) >= self._kind.most:
            raise ProvisionError(f"there are {self._kind.most} tasks, which is the most")
        self._queued.append(node)
        self._place()

    def release(self, node: str) -> None:
        """See ``Provisioner``."""
        if node in self._queued:
            self._queued.remove(node)
        task = self._tasks.pop(node, None)
        if task is not None:
            self._end(task)

    def list(self) -> Mapping[str, Machine]:
        """See ``Provisioner``."""
        self._released = [task for task in self._released if not task.future.done()]
        self._place()
        workers = self._workers()
        found = {node: self._machine(task, workers) for node, task in self._tasks.items()}
        for node in [node for node, machine in found.items() if machine is None]:
            del self._tasks[node]
        waiting = Machine(self._kind.name, Phase.QUEUED, f"in Dask (each of {len(workers)} workers has a node already)")
        return {**{node: machine for node, machine in found.items() if machine}, **dict.fromkeys(self._queued, waiting)}

    def close(self) -> None:
        """End all, wait until they have ended, and leave the Dask cluster."""
        for node in [*self._tasks, *self._queued]:
            self.release(node)
        deadline = time.monotonic() + _END_S
        while any(not task.future.done() for task in self._released) and time.monotonic() < deadline:
            time.sleep(0.02)
        for task in self._released:
            task.future.cancel()  # those whose turn in Dask had not come
        self._client.close()

    # -- within -------------------------------------------------------------------------------------------------

    def _workers(self) -> dict[str, int]:
        """Workers by address, and how many threads each has."""
        known = self._client.scheduler_info(n_workers=-1)["workers"]
        return {address: facts["nthreads"] for address, facts in known.items()}

    def _node_type(self) -> NodeType:
        """A node is as large as the smallest worker unless the address says otherwise."""
        kind = self._engine.node_type(start_s=5.0)
        shape = kind.capacity
        least = float(min(self._workers().values(), default=1))
        shape = Shape(shape.num_cpus if shape.num_cpus >= 0 else least, shape.num_gpus, shape.memory_bytes)
        return replace(kind, capacity=shape)

    def _place(self) -> None:
        """Give those that wait a worker each, on machines that have the fewest nodes."""
        taken = {task.worker for task in [*self._tasks.values(), *self._released]}
        while self._queued:
            free = [worker for worker in self._workers() if worker not in taken]
            if not free:
                return
            used = Counter(_host(worker) for worker in taken)
            worker = min(free, key=lambda worker: used[_host(worker)])
            taken.add(worker)
            node = self._queued.pop(0)
            shape = self._kind.capacity
            words = ["--num-cpus", f"{shape.num_cpus:g}"]
            words += ["--num-gpus", f"{shape.num_gpus:g}"] if shape.num_gpus >= 0 else []
            words += ["--memory-bytes", str(shape.memory_bytes)] if shape.memory_bytes >= 0 else []
            name = f"{self._topic}-{node}-{secrets.token_hex(2)}"
            future = self._client.submit(
                holder.hold_in_dask, name, node, self._engine.python, tuple(words), self._token, self._topic,
                key=name, pure=False, workers=[worker], retries=0,
            )  # fmt: skip
            self._tasks[node] = _Task(worker, future)

    def _end(self, task: _Task) -> None:
        if not task.future.done() and task.worker in self._workers():
            self._released.append(task)
            self._client.run(holder.end_in_dask, task.future.key, workers=[task.worker], wait=False)
        else:
            task.future.release()

    def _machine(self, task: _Task, workers: Mapping[str, int]) -> Machine | None:
        name = self._kind.name
        status = task.future.status
        if status == "finished":
            return None
        if status == "error":
            return Machine(name, Phase.FAILED, str(task.future.exception()))
        if task.worker not in workers or status in ("lost", "cancelled"):
            return Machine(name, Phase.FAILED, f"Dask's worker {task.worker} is lost")
        if not task.said:
            return Machine(name, Phase.QUEUED, "in Dask (its workers are busy)")
        return Machine(name, Phase.RUNNING if task.said == "joined" else Phase.STARTING)

    def _on_said(self, event: tuple[float, tuple[str, str]]) -> None:
        """Called in a thread of the client's."""
        name, word = event[1]
        for task in [*self._tasks.values()]:
            if task.future.key == name:
                task.said = word


def _host(address: str) -> str:
    return address.rpartition("://")[2].rpartition(":")[0]
