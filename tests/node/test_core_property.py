"""The agent core under any order of messages of scheduler and workers, said any number of times: the books balance, and
in the end nothing runs that nobody wants."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from distpool.node.core import SIGKILL
from distpool.node.events import (
    ForkFailed,
    ForkWorker,
    SchedulerSaid,
    SignalWorker,
    TimePassed,
    WorkerForked,
    WorkerProcessExited,
    WorkerSaid,
)
from distpool.wire import scheduler_to_agent as to_agent
from distpool.wire import worker_to_agent as from_worker
from tests.node.test_core import ONE, Agent

_LEASES = ("l1", "l2", "l3")


class AgentMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.agent = Agent(spares=1, heartbeat_s=2.0)
        #: names of workers whose fork is under way, and of those that run, by process id
        self.forking = list(self.agent.core.workers)  # the spare
        self.running: dict[int, str] = {}
        self.killed: set[int] = set()
        self.heard: list[Any] = []
        self.pids = 100

    def do(self, effects: list[Any]) -> None:
        for effect in effects:
            if isinstance(effect, ForkWorker):
                self.forking.append(effect.worker)
            elif isinstance(effect, SignalWorker):
                assert self.running.get(effect.pid) == effect.worker, "a signal to somebody else's process"
                if effect.signal == SIGKILL:
                    self.killed.add(effect.pid)

    def hear(self, event: Any) -> None:
        self.heard.append(event)
        self.do(self.agent.handle(event))

    @rule(lease=st.sampled_from(_LEASES), what=st.integers(0, 3), grace_s=st.sampled_from([0.0, 5.0]))
    def lease(self, lease: str, what: int, grace_s: float) -> None:
        if what < 2:
            self.hear(SchedulerSaid(to_agent.StartWorker(lease, "p", "d", ONE, 1)))
        else:
            self.hear(SchedulerSaid(to_agent.StopWorker(lease, grace_s, terminate=what == 3)))

    @rule(
        message=st.sampled_from(
            [to_agent.AgentWelcome("c"), to_agent.HelloWanted(), to_agent.Drain(), to_agent.SiteAt("a", "b", "c")]
        )
    )
    def scheduler_says(self, message: Any) -> None:
        self.hear(SchedulerSaid(message))

    @precondition(lambda self: self.forking)
    @rule(fails=st.booleans())
    def forked(self, fails: bool) -> None:
        name = self.forking.pop(0)
        self.pids += 1
        if fails:
            self.do(self.agent.handle(ForkFailed(name, "no memory")))
        else:
            self.running[self.pids] = name
            self.do(self.agent.handle(WorkerForked(name, self.pids)))

    @rule(data=st.data(), what=st.integers(0, 4))
    def worker_says(self, data: st.DataObject, what: int) -> None:
        """What one of them says of itself, or somebody who is none."""
        name = data.draw(st.sampled_from([*self.running.values(), *self.forking, "nobody"]))
        own = [pid for pid, worker in self.running.items() if worker == name]
        pid = data.draw(st.sampled_from(own or [*self.running, 0]))  # or another's
        if not pid:
            return
        message: Any = (
            from_worker.WorkerStarted(name, f"ipc://{name}", pid),
            from_worker.WorkerBlocked(name),
            from_worker.WorkerUnblocked(name),
            from_worker.ModulesImported(("numpy",)),
            from_worker.TaskRuns(name, 0.5, True),
        )[what]
        self.hear(WorkerSaid(name, message))

    @precondition(lambda self: self.heard)
    @rule(data=st.data())
    def said_again(self, data: st.DataObject) -> None:
        """As of another time, which of all orders there are gives any."""
        self.do(self.agent.handle(data.draw(st.sampled_from(self.heard))))

    @precondition(lambda self: self.running)
    @rule(data=st.data(), code=st.sampled_from([0, 1, -9]))
    def ends(self, data: st.DataObject, code: int) -> None:
        self.end(data.draw(st.sampled_from(sorted(self.running))), code)

    def end(self, pid: int, code: int) -> None:
        del self.running[pid]
        self.killed.discard(pid)
        self.do(self.agent.handle(WorkerProcessExited(pid, code)))

    @rule(passed_s=st.sampled_from([0.01, 0.5, 200.0]))
    def time(self, passed_s: float) -> None:
        self.agent.now += passed_s
        self.do(self.agent.handle(TimePassed()))

    @invariant()
    def as_many_as_are_wanted(self) -> None:
        workers = self.agent.core.workers
        assert set(workers) == {*self.forking, *self.running.values()}
        leases = [worker.lease.lease for worker in workers.values() if worker.lease is not None]
        assert len(leases) == len(set(leases)) <= len(_LEASES)

    def teardown(self) -> None:
        """The scheduler wants nothing any more: nothing goes on but the spare."""
        for lease in _LEASES:
            self.do(self.agent.handle(SchedulerSaid(to_agent.StopWorker(lease, 0.0))))
        for _ in range(10):
            while self.forking:
                self.forked(False)
            for pid, name in list(self.running.items()):
                self.do(self.agent.handle(WorkerSaid(name, from_worker.WorkerStarted(name, "ipc://w", pid))))
            self.time(0.2)
            for pid in list(self.killed):
                self.end(pid, -9)
        assert all(worker.lease is None for worker in self.agent.core.workers.values())
        assert len(self.running) <= 1


TestAgent = AgentMachine.TestCase
TestAgent.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)
