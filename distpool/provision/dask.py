"""``dask://``: nodes inside of tasks of a Dask cluster that run for as long as the node is needed, one on each worker.

A node takes one thread of the worker that holds it, and offers as many CPUs as the worker has threads.  Tasks and their
data do not pass through Dask.
"""

from __future__ import annotations

import secrets
from collections import Counter
from dataclasses import dataclass
from typing import Any, ClassVar

from distpool.provision import holder
from distpool.provision.address import Engine, option
from distpool.provision.base import BaseProvisioner, agent_words
from distpool.provision.interface import Machine, Phase, ProvisionError
from distpool.provision.reach import require_listener
from distpool.wire.security import Token

#: How long Dask's scheduler may take to answer.
_CONNECT_S = 20.0


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


@dataclass(slots=True, eq=False)
class _Task:
    """A node's; it is submitted when there is a worker for it."""

    worker: str = ""
    future: Any = None
    #: what the task has said: ``begun``, ``joined``
    said: str = ""


class DaskProvisioner(BaseProvisioner[_Task]):
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
        # A node is as large as the smallest worker unless the address says otherwise.
        super().__init__(engine.node_type(start_s=5.0, cpus=float(min(self._workers().values(), default=1))))

    def request(self, node: str) -> _Task:
        """See ``BaseProvisioner``."""
        task = _Task()
        self._place(node, task)
        return task

    def refresh(self) -> None:
        """See ``BaseProvisioner``; those that wait may have a worker now."""
        for node, task in self.handles.items():
            if task.future is None:
                self._place(node, task)

    def look(self, node: str, task: _Task) -> Machine | None:
        """See ``BaseProvisioner``."""
        workers = self._workers()
        if task.future is None:
            why = f"each of {len(workers)} workers has a node already" if workers else "it has no worker"
            return self.seen(Phase.QUEUED, f"in Dask ({why})")
        status = task.future.status
        if status == "finished":
            return None
        if status == "error":
            return self.failed(str(task.future.exception()))
        if task.worker not in workers or status in ("lost", "cancelled"):
            return self.failed(f"Dask's worker {task.worker} is lost")
        if not task.said:
            return self.seen(Phase.QUEUED, "in Dask (its workers are busy)")
        return self.seen(Phase.RUNNING if task.said == "joined" else Phase.STARTING)

    def end(self, node: str, task: _Task) -> None:
        """See ``BaseProvisioner``."""
        if not self.has_ended(task):
            self._client.run(holder.end_in_dask, task.future.key, workers=[task.worker], wait=False)

    def has_ended(self, task: _Task) -> bool:
        """See ``BaseProvisioner``."""
        return task.future is None or task.future.done() or task.worker not in self._workers()

    def kill(self, task: _Task) -> None:
        """Its turn in Dask has not come."""
        task.future.cancel()

    def tidy(self, task: _Task) -> None:
        """See ``BaseProvisioner``."""
        if task.future is not None:
            task.future.release()

    def close(self) -> None:
        """See ``Provisioner``; leaves the Dask cluster."""
        super().close()
        self._client.close()

    # -- within -------------------------------------------------------------------------------------------------

    def _place(self, node: str, task: _Task) -> None:
        """Submit it if there is a worker without a node, on a machine that has the fewest."""
        taken = {other.worker for other in self.held()}
        free = [worker for worker in self._workers() if worker not in taken]
        if not free:
            return
        used = Counter(map(_host, taken))
        task.worker = min(free, key=lambda worker: used[_host(worker)])
        words = tuple(agent_words(node, self.kind.capacity, "--until-eof", "--token-file", "-"))
        name = f"{self._topic}-{node}-{secrets.token_hex(2)}"
        task.future = self._client.submit(
            holder.hold_in_dask, name, node, self._engine.python, words, self._token, self._topic,
            key=name, pure=False, workers=[task.worker], retries=0,
        )  # fmt: skip

    def _workers(self) -> dict[str, int]:
        """Workers by address, and how many threads each has."""
        known = self._client.scheduler_info(n_workers=-1)["workers"]
        return {address: facts["nthreads"] for address, facts in known.items()}

    def _on_said(self, event: tuple[float, tuple[str, str]]) -> None:
        """Called in a thread of the client's."""
        name, word = event[1]
        for task in [*self.handles.values()]:
            if task.future is not None and task.future.key == name:
                task.said = word


def _host(address: str) -> str:
    return address.rpartition("://")[2].rpartition(":")[0]
