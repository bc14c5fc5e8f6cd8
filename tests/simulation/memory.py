"""The memory of a simulated node: what its tasks fill, and what must be true of those that are stopped for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from distpool.node.memory_core import Kind, Sample
from distpool.node.state import WorkerState

if TYPE_CHECKING:
    from distpool.node.core import AgentCore
    from tests.simulation.worker import SimulatedWorker

#: What a node has, what a task fills of it in a second, and what a worker uses by itself.
NODE_BYTES, FILL_BYTES_PER_S, WORKER_BYTES = 4 << 30, 1 << 30, 40 << 20
#: What uses less than this share of the largest is not the reason.
_LARGE = 1 / 4


class NodeMemory:
    """One node's.

    :param processes: process id -> worker.
    :param stopped: the workers that were stopped, of all nodes.
    """

    def __init__(self, name: str, processes: Mapping[int, SimulatedWorker], stopped: set[str]) -> None:
        self._name = name
        self._processes = processes
        self._stopped = stopped

    def look(self, workers: Mapping[str, int]) -> Sample:
        """What the agent sees."""
        used = sum(worker.memory_bytes for worker in self._processes.values())
        assert used < NODE_BYTES, f"the memory of {self._name} is full and nobody was stopped"
        sizes = {name: self._processes[pid].memory_bytes for name, pid in workers.items() if pid in self._processes}
        return Sample((Kind("the machine", NODE_BYTES, NODE_BYTES - used),), sizes)

    def check_stops(self, core: AgentCore) -> None:
        """After the agent has decided: one at a time, and one that is to blame."""
        sizes = {worker.peer: worker.memory_bytes for worker in self._processes.values()}
        for worker in core.workers.values():
            name = f"w-{worker.name}"
            if worker.state is not WorkerState.STOPPING or not worker.shortage or name in self._stopped:
                continue
            others = self._stopped & sizes.keys()
            assert not others, f"{name} is stopped for memory before {others} are gone"
            largest = max(sizes.values())
            assert sizes[name] >= _LARGE * largest, f"{name} is stopped for memory: {sizes[name]} bytes of {largest}"
            self._stopped.add(name)
