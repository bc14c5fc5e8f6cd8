"""The agent's decisions: which process runs which lease, when it is told to end, what is loaded ahead of time.

No I/O, no clock, no randomness: ``handle(event, now)`` returns what must be done.  ``agent`` is the shell around it.

A *worker* is a process, named when it is forked; a *lease* is what the scheduler knows.  A worker that is forked for a
lease has its name.  A *spare* is forked ahead of time under a name of its own and waits for the first lease that comes.
A *generation* is a zygote with a set of modules loaded; workers are forked from the newest that is ready.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from distpool.node.events import (
    Effect,
    Evacuate,
    Evacuated,
    Event,
    ForkFailed,
    ForkWorker,
    GenerationEnded,
    GenerationReady,
    IdleTimeSeen,
    MemorySampled,
    NodeStarted,
    SampleMemory,
    SchedulerSaid,
    SignalWorker,
    StandsFor,
    TimePassed,
    ToScheduler,
    WorkerForked,
    WorkerProcessExited,
    WorkerSaid,
)
from distpool.node.generations import Generations
from distpool.node.kernel_kills import KernelKills
from distpool.node.memory_core import NODE, MemoryCore
from distpool.node.memory_policy import MemoryPolicy
from distpool.node.reasons import describe_exit
from distpool.node.spares import Spares
from distpool.node.state import TRANSITIONS, Worker, WorkerState
from distpool.wire import agent_to_scheduler, scheduler_to_agent, worker_to_agent

SIGKILL, SIGTERM = 9, 15
#: A worker that has not reported by then will not.
_START_TIMEOUT_S = 120.0


class AgentCore:
    """See the module's description.

    :param hello: what the node is and has; its leases are filled in.
    :param spares: how many spare workers to keep.
    :param heartbeat_s: how often to tell the scheduler that the node lives; None in its own process.
    :param preload: whether modules that workers came to import are loaded ahead of time.
    :param incarnation: is part of the names of spares.  A worker's name is its routing id, so where a node may come
        back under its name, this must tell one from the other.
    :param memory: how memory is watched; None: it is not.
    """

    def __init__(
        self,
        hello: agent_to_scheduler.AgentHello,
        spares: int = 0,
        heartbeat_s: float | None = None,
        preload: bool = True,
        incarnation: str = "",
        memory: MemoryPolicy | None = None,
    ) -> None:
        self._hello = hello
        # The node is part of their names: a driver has workers of several.
        self._spares = Spares(spares, f"{hello.node}-{incarnation}x")
        self._heartbeat_s = heartbeat_s
        #: why the node must end
        self.refused = ""
        #: the cluster that it belongs to, once that has said so
        self.cluster = ""
        self._workers: dict[str, Worker] = {}
        self._by_lease: dict[str, Worker] = {}
        self._by_pid: dict[int, Worker] = {}
        self._heartbeat_at: float | None = None
        self._generations = Generations(preload=preload)
        self._memory = MemoryCore(memory, hello.capacity.num_cpus) if memory is not None else None
        self._kernel_kills = KernelKills()
        self._now = 0.0
        self._effects: list[Effect] = []
        self._on: dict[type, Callable[[Any], None]] = {
            NodeStarted: self._on_node_started,
            SchedulerSaid: self._on_scheduler_said,
            WorkerSaid: self._on_worker_said,
            WorkerForked: self._on_worker_forked,
            ForkFailed: self._on_fork_failed,
            WorkerProcessExited: self._on_worker_process_exited,
            GenerationReady: self._on_generation_ready,
            GenerationEnded: self._on_generation_ended,
            IdleTimeSeen: lambda event: self._effects.extend(self._generations.on_idle_time(event.idle_s, self._now)),
            MemorySampled: self._on_memory_sampled,
            Evacuated: self._on_evacuated,
            StandsFor: self._on_stands_for,
            TimePassed: lambda event: None,
        }

    # -- the interface ------------------------------------------------------------------------------------------

    def handle(self, event: Event, now: float) -> list[Effect]:
        """What must be done because of ``event``."""
        self._now = now
        effects = self._effects = []
        self._on[type(event)](event)
        self._on_time(now)
        return effects

    def next_deadline(self) -> float | None:
        """When ``TimePassed`` is due."""
        deadlines = [worker.kill_at for worker in self._workers.values() if worker.kill_at is not None]
        others = [self._spares.fill_at, self._heartbeat_at, self._generations.next_deadline()]
        if self._memory is not None:
            others.append(self._memory.next_deadline())
        deadlines += [at for at in others if at is not None]
        return min(deadlines, default=None)

    @property
    def workers(self) -> dict[str, Worker]:
        """By name."""
        return self._workers

    def check_invariants(self) -> None:
        """For tests."""
        counts = dict.fromkeys(self._generations.workers, 0)
        for name, worker in self._workers.items():
            assert worker.name == name
            assert worker.state is not WorkerState.GONE
            counts[worker.generation] += 1
            assert worker.pid == 0 or self._by_pid[worker.pid] is worker
            assert worker.lease is None or self._by_lease[worker.lease.lease] is worker
            assert worker.state is not WorkerState.STOPPING or worker.kill_at is not None or worker.killed
        assert counts == self._generations.workers
        assert self._generations.current in counts
        assert len(self._by_pid) == sum(1 for worker in self._workers.values() if worker.pid)
        assert len(self._by_lease) == sum(1 for worker in self._workers.values() if worker.lease is not None)

    # -- the scheduler ------------------------------------------------------------------------------------------

    def _on_node_started(self, event: NodeStarted) -> None:
        self._say_hello()
        self._spares.fill_soon(self._now)

    def _say_hello(self) -> None:
        # Workers that have not reported yet are left out: a scheduler that does not know them has no use for them.
        leases = tuple(
            worker.live_lease(worker.lease)
            for worker in self._workers.values()
            if worker.lease is not None and worker.state in (WorkerState.LISTENING, WorkerState.BLOCKED)
        )
        self._tell(msgspec.structs.replace(self._hello, leases=leases))
        if self._heartbeat_s is not None:
            self._heartbeat_at = self._now + self._heartbeat_s

    def _on_scheduler_said(self, event: SchedulerSaid) -> None:
        message = event.message
        if isinstance(message, scheduler_to_agent.StartWorker):
            self._start(message)
        elif isinstance(message, scheduler_to_agent.StopWorker):
            worker = self._by_lease.get(message.lease)
            if worker is not None:
                self._stop(worker, message.grace_s, message.terminate)
        elif isinstance(message, scheduler_to_agent.HelloWanted):
            self._say_hello()
        elif isinstance(message, scheduler_to_agent.Drain):
            self._hello = msgspec.structs.replace(self._hello, draining=True)
            self._tell(agent_to_scheduler.Draining())
        elif isinstance(message, scheduler_to_agent.Retire):
            self._retire(message)
        elif isinstance(message, scheduler_to_agent.AgentWelcome):
            self.cluster = message.cluster
        elif isinstance(message, scheduler_to_agent.AgentRefused):
            self.refused = message.reason
        elif isinstance(message, scheduler_to_agent.ClusterEnds):
            self.refused = "the cluster was stopped"

    def _retire(self, message: scheduler_to_agent.Retire) -> None:
        if not self._hello.site_endpoint:
            self._on_evacuated(Evacuated(""))
        else:
            self._effects.append(Evacuate(message.successor, message.site_endpoint))

    def _on_evacuated(self, event: Evacuated) -> None:
        if not event.ok:
            self._tell(agent_to_scheduler.SuccessorFailed(event.successor))
            return
        self._tell(agent_to_scheduler.AgentGoodbye(event.successor))
        self.refused = "the node was drained"

    def _on_stands_for(self, event: StandsFor) -> None:
        self._hello = msgspec.structs.replace(self._hello, stands_for=event.nodes)

    def _start(self, message: scheduler_to_agent.StartWorker) -> None:
        if message.lease in self._by_lease:
            return
        self._spares.on_lease_asked(self._workers.values(), self._now)
        worker = self._spares.take(self._workers.values(), self._generations.current)
        if worker is None:
            worker = self._fork(message.lease)
        worker.lease = message
        self._by_lease[message.lease] = worker
        if worker.state is WorkerState.LISTENING:
            self._ready(worker)

    def _stop(self, worker: Worker, grace_s: float, terminate: bool, finding: str = "", shortage: str = "") -> None:
        if worker.state is not WorkerState.STOPPING:
            self._move(worker, WorkerState.STOPPING)
            worker.kill_at = None
            worker.finding = finding
            worker.shortage = shortage
        if worker.killed:
            return
        kill_at = self._now + max(0.0, grace_s)
        worker.kill_at = kill_at if worker.kill_at is None else min(worker.kill_at, kill_at)
        if terminate and not worker.terminate:
            worker.terminate = True
            if worker.pid:
                self._effects.append(SignalWorker(worker.name, worker.pid, SIGTERM))

    # -- workers ------------------------------------------------------------------------------------------------

    def _fork(self, name: str) -> Worker:
        worker = self._workers[name] = Worker(name, self._generations.current)
        worker.kill_at = self._now + _START_TIMEOUT_S
        self._generations.workers[worker.generation] += 1
        self._effects.append(ForkWorker(name, self._generations.current))
        return worker

    def _on_worker_forked(self, event: WorkerForked) -> None:
        worker = self._workers.get(event.worker)
        if worker is None or worker.pid or event.pid in self._by_pid:
            return  # gone; or said before; or its end, which another zygote tells, has not been heard yet
        worker.pid = event.pid
        self._by_pid[event.pid] = worker
        if worker.state is WorkerState.FORKING:
            self._move(worker, WorkerState.BOOTING)
            self._see_whether_it_listens(worker)
        elif worker.terminate:
            self._effects.append(SignalWorker(worker.name, worker.pid, SIGTERM))

    def _see_whether_it_listens(self, worker: Worker) -> None:
        # Its own word may be faster than the zygote's, but which process it is only the zygote knows for certain.
        said = worker.started
        if worker.state is not WorkerState.BOOTING or said is None or said.pid != worker.pid:
            return
        self._move(worker, WorkerState.LISTENING)
        worker.kill_at = None
        worker.endpoint = said.endpoint
        if worker.lease is None:
            self._spares.on_started()
        else:
            self._ready(worker)

    def _on_fork_failed(self, event: ForkFailed) -> None:
        worker = self._workers.get(event.worker)
        if worker is not None:
            self._gone(worker, 1, f"the worker could not be forked: {event.reason}")

    def _on_worker_said(self, event: WorkerSaid) -> None:
        worker = self._workers.get(event.worker)
        message = event.message
        if worker is None:
            return
        if isinstance(message, worker_to_agent.WorkerStarted):
            worker.started = message
            self._see_whether_it_listens(worker)
        elif isinstance(message, worker_to_agent.WorkerBlocked):
            if worker.state is WorkerState.LISTENING and worker.lease is not None:
                self._move(worker, WorkerState.BLOCKED)
                self._note_blocked(worker, True)
                self._tell(agent_to_scheduler.LeaseBlocked(worker.lease.lease))
        elif isinstance(message, worker_to_agent.WorkerUnblocked):
            if worker.state is WorkerState.BLOCKED and worker.lease is not None:
                self._move(worker, WorkerState.LISTENING)
                self._note_blocked(worker, False)
                self._tell(agent_to_scheduler.LeaseUnblocked(worker.lease.lease))
        elif isinstance(message, worker_to_agent.ModulesImported):
            self._generations.learn(message.names, self._now)
        elif self._memory is not None and isinstance(message, worker_to_agent.TaskRuns):
            self._memory.on_task_runs(worker.name, self._now - message.for_s, message.retriable)
        elif self._memory is not None and isinstance(message, worker_to_agent.TaskEnded):
            self._memory.on_task_ended(worker.name)

    def _note_blocked(self, worker: Worker, blocked: bool) -> None:
        if self._memory is not None:
            self._memory.on_blocked(worker.name, blocked)

    def _ready(self, worker: Worker) -> None:
        assert worker.lease is not None
        if self._memory is not None:
            self._memory.on_lease_began(worker.name, int(worker.lease.shape.memory_bytes), self._now)
        self._tell(agent_to_scheduler.WorkerReady(worker.lease.lease, worker.routing_id, worker.endpoint, worker.pid))

    def _on_worker_process_exited(self, event: WorkerProcessExited) -> None:
        worker = self._by_pid.get(event.pid)
        if worker is None:
            return
        wanted = worker.finding or worker.killed or worker.terminate or not event.exit_code
        if worker.state is WorkerState.STOPPING and wanted:
            reason = worker.finding
        else:  # also when its driver has noticed sooner
            started = worker.state is not WorkerState.BOOTING
            reason = describe_exit(event.exit_code, started=started)
            self._kernel_kills.on_count(event.kernel_kills, self._now)
            if event.exit_code == -SIGKILL and self._kernel_kills.explain_death(self._now):
                reason += "; the kernel's out-of-memory killer was at work at that moment"
                worker.shortage = NODE
        self._gone(worker, event.exit_code, reason, event.stderr_tail, event.peak_rss_bytes)

    def _gone(
        self, worker: Worker, exit_code: int, reason: str, stderr_tail: str = "", peak_rss_bytes: int = 0
    ) -> None:
        stopping = worker.state is WorkerState.STOPPING
        self._move(worker, WorkerState.GONE)
        del self._workers[worker.name]
        self._by_pid.pop(worker.pid, None)
        if self._memory is not None:
            self._memory.on_gone(worker.name, self._now)
        self._generations.workers[worker.generation] -= 1
        if worker.lease is not None:
            del self._by_lease[worker.lease.lease]
            self._tell(
                agent_to_scheduler.WorkerExited(
                    worker.lease.lease, worker.pid, exit_code, reason, stderr_tail, peak_rss_bytes, worker.shortage
                )
            )
        elif not stopping:
            self._spares.on_died(self._now)
        self._effects += self._generations.end_unused()

    def _move(self, worker: Worker, new: WorkerState) -> None:
        if new not in TRANSITIONS[worker.state]:
            raise AssertionError(f"worker {worker.name} cannot go from {worker.state.value} to {new.value}")
        worker.state = new

    # -- generations --------------------------------------------------------------------------------------------

    def _on_generation_ready(self, event: GenerationReady) -> None:
        self._effects += self._generations.on_ready(event, self._now)
        self._spares.fill_soon(self._now)

    def _on_generation_ended(self, event: GenerationEnded) -> None:
        # Its workers died with it.  Number 0 is replaced by the shell under the same number.
        for worker in [worker for worker in self._workers.values() if worker.generation == event.generation]:
            self._gone(worker, -SIGKILL, "the process from which the worker was forked was killed")
        self._generations.on_ended(event, self._now)

    # -- memory -------------------------------------------------------------------------------------------------

    def _on_memory_sampled(self, event: MemorySampled) -> None:
        assert self._memory is not None
        self._kernel_kills.on_count(event.sample.kernel_kills, self._now)
        if (verdict := self._memory.on_sample(event.sample, self._now)) is not None:
            self._stop(self._workers[verdict.worker], 0.0, False, verdict.finding, verdict.shortage)

    def _look_at_memory(self, memory: MemoryCore, now: float) -> None:
        if memory.due(now):
            workers = {worker.name: worker.pid for worker in self._by_lease.values() if worker.pid}
            self._effects.append(SampleMemory(workers, memory.wants_consumers))

    # -- time ---------------------------------------------------------------------------------------------------

    def _on_time(self, now: float) -> None:
        self._effects += self._generations.on_time(now)
        if self._memory is not None:
            self._look_at_memory(self._memory, now)
        if self._spares.fill_at is not None and self._spares.fill_at <= now:
            outdated, names = self._spares.fill(self._workers.values(), self._generations.current)
            for worker in outdated:
                self._stop(worker, 0.0, terminate=False)
            for name in names:
                self._fork(name)
        for worker in self._workers.values():
            if worker.kill_at is not None and worker.kill_at <= now:
                self._kill(worker)
        if self._heartbeat_s is not None and self._heartbeat_at is not None and self._heartbeat_at <= now:
            self._heartbeat_at = now + self._heartbeat_s
            self._tell(agent_to_scheduler.AgentHeartbeat(0))

    def _kill(self, worker: Worker) -> None:
        if worker.state is not WorkerState.STOPPING:
            self._stop(worker, 0.0, False, f"the worker did not report within {_START_TIMEOUT_S:g} s of its start")
        if not worker.pid:
            worker.kill_at = self._now + 0.05  # its process is still being made
            return
        self._effects.append(SignalWorker(worker.name, worker.pid, SIGKILL))
        worker.killed = True
        worker.kill_at = None

    def _tell(self, message: agent_to_scheduler.Message) -> None:
        self._effects.append(ToScheduler(message))
