"""The agent core, scenario by scenario."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from distpool.node.core import SIGKILL, AgentCore
from distpool.node.events import (
    EndGeneration,
    Evacuate,
    Evacuated,
    ForkFailed,
    ForkWorker,
    GenerationEnded,
    GenerationReady,
    IdleTimeSeen,
    LookAtIdleTime,
    MakeGeneration,
    MemorySampled,
    NodeStarted,
    SchedulerSaid,
    SignalWorker,
    StandsFor,
    TimePassed,
    ToScheduler,
    WorkerForked,
    WorkerProcessExited,
    WorkerSaid,
)
from distpool.node.memory_core import Sample
from distpool.node.memory_policy import MemoryPolicy
from distpool.node.reasons import describe_exit
from distpool.version import __version__
from distpool.wire import codec
from distpool.wire.agent_to_scheduler import (
    AgentGoodbye,
    AgentHeartbeat,
    AgentHello,
    Draining,
    LeaseBlocked,
    LeaseUnblocked,
    LiveLease,
    SuccessorFailed,
    WorkerExited,
    WorkerReady,
)
from distpool.wire.resources import Shape
from distpool.wire.scheduler_to_agent import AgentRefused, Drain, HelloWanted, Retire, StartWorker, StopWorker
from distpool.wire.worker_to_agent import ModulesImported, WorkerBlocked, WorkerStarted, WorkerUnblocked

ONE = Shape()
HELLO = AgentHello(codec.PROTOCOL, codec.PYTHON, __version__, "n", "host", Shape(4.0), elastic_cpus=True)


class Agent:
    """``now`` is moved by hand; every event is followed by a check of the invariants."""

    def __init__(self, **options: Any) -> None:
        self.core = AgentCore(HELLO, **options)
        self.now = 0.0
        #: How many of the machine's CPUs have nothing to do; None: the system does not say.
        self.idle_cpus: float | None = 1.0
        self._idle_s = self._seen_at = 0.0
        self.handle(NodeStarted())

    def handle(self, event: Any) -> list[Any]:
        effects = self.core.handle(event, self.now)
        self.core.check_invariants()
        if LookAtIdleTime() in effects:
            effects.remove(LookAtIdleTime())
            self._idle_s += (self.idle_cpus or 0.0) * (self.now - self._seen_at)
            self._seen_at = self.now
            effects += self.handle(IdleTimeSeen(None if self.idle_cpus is None else self._idle_s))
        return effects

    def start(self, lease: str = "l") -> list[Any]:
        return self.handle(SchedulerSaid(StartWorker(lease, "p", "d", ONE, 1)))

    def stop(self, lease: str = "l", grace_s: float = 0.0, *, terminate: bool = False) -> list[Any]:
        return self.handle(SchedulerSaid(StopWorker(lease, grace_s, terminate)))

    def forked(self, worker: str = "l", pid: int = 7) -> list[Any]:
        return self.handle(WorkerForked(worker, pid))

    def started(self, worker: str = "l", pid: int = 7) -> list[Any]:
        return self.handle(WorkerSaid(worker, WorkerStarted(worker, f"ipc://{worker}", pid)))

    def running(self, lease: str = "l", pid: int = 7) -> None:
        self.start(lease)
        self.forked(lease, pid)
        self.started(lease, pid)

    def exited(self, pid: int = 7, code: int = 0, peak: int = 0, tail: str = "", kills: int = 0) -> list[Any]:
        return self.handle(WorkerProcessExited(pid, code, peak, tail, kills))

    def time(self, now: float) -> list[Any]:
        self.now = now
        return self.handle(TimePassed())


def test_a_workers_own_word_may_come_before_that_of_its_fork() -> None:
    agent = Agent()
    agent.start()
    assert agent.started() == []
    assert agent.forked() == [ToScheduler(WorkerReady("l", "w-l", "ipc://l", 7))]
    assert agent.started() == []
    [gone] = agent.exited(7, -9)
    assert isinstance(gone.message, WorkerExited)
    assert gone.message.pid == 7


def test_which_process_a_worker_is_only_the_zygote_says() -> None:
    agent = Agent()
    agent.start()
    assert agent.started(pid=8) == [], "said by the one that had this name before"
    assert agent.forked(pid=7) == []
    [signal] = agent.stop()
    assert signal == SignalWorker("l", 7, SIGKILL)


class TestWhatTheKernelKilledForMemory:
    """The kernel counts its kills, and does not say whom."""

    def killed(self, agent: Agent, pid: int, kills: int) -> bool:
        [gone] = agent.exited(pid, -SIGKILL, kills=kills)
        assert ("the kernel's out-of-memory killer" in gone.message.reason) == (gone.message.shortage == "node")
        return bool(gone.message.shortage == "node")

    def test_one_kill_is_one_death(self) -> None:
        agent = Agent()
        for pid in (7, 8, 9):
            agent.running(f"l{pid}", pid)
        assert self.killed(agent, 7, kills=1)
        assert not self.killed(agent, 8, kills=1), "somebody's kill is not the kernel's"
        assert self.killed(agent, 9, kills=2)

    def test_a_worker_that_was_told_to_end_is_not_the_one(self) -> None:
        """The counter rises before the memory is given back; others end sooner."""
        agent = Agent()
        agent.running("large", 7)
        agent.running("unused", 8)
        agent.stop("unused")
        assert not self.killed(agent, 8, kills=1)
        assert self.killed(agent, 7, kills=1)

    def test_kills_of_long_ago_explain_nothing(self) -> None:
        agent = Agent(memory=MemoryPolicy())
        agent.running()
        agent.handle(MemorySampled(Sample((), {}, kernel_kills=2)))
        agent.now = 60.0
        assert not self.killed(agent, 7, kills=2)
        agent.running()
        agent.handle(MemorySampled(Sample((), {}, kernel_kills=3)))
        agent.now = 63.0
        assert self.killed(agent, 7, kills=3), "a look came between the kill and its news"


def test_a_worker_from_start_to_end() -> None:
    agent = Agent()
    assert agent.start() == [ForkWorker("l", 0)]
    assert agent.start() == []  # said twice, done once
    assert agent.forked() == []
    assert agent.started() == [ToScheduler(WorkerReady("l", "w-l", "ipc://l", 7))]
    assert agent.stop(grace_s=2.0) == []
    assert agent.core.next_deadline() == 2.0
    assert agent.exited() == [ToScheduler(WorkerExited("l", 7, 0))]
    assert not agent.core.workers
    assert agent.core.next_deadline() is None


def test_grace_ends_in_a_kill() -> None:
    agent = Agent()
    agent.running()
    assert agent.stop(grace_s=5.0, terminate=True) == [SignalWorker("l", 7, 15)]
    # Somebody has less patience; SIGTERM is not sent twice.
    assert agent.stop(grace_s=1.0, terminate=True) == []
    assert agent.time(1.0) == [SignalWorker("l", 7, 9)]
    assert agent.stop(grace_s=1.0) == []
    assert agent.time(9.0) == []
    assert agent.exited(code=-9) == [ToScheduler(WorkerExited("l", 7, -9))]


def test_a_stop_that_overtakes_the_fork() -> None:
    agent = Agent()
    agent.start()
    assert agent.stop(terminate=True) == []
    assert agent.forked() == [SignalWorker("l", 7, 15)]
    deadline = agent.core.next_deadline()
    assert deadline is not None
    assert agent.time(deadline) == [SignalWorker("l", 7, 9)]
    assert agent.started() == []
    assert agent.exited(code=-9) == [ToScheduler(WorkerExited("l", 7, -9))]


def test_an_unexpected_end_is_explained() -> None:
    agent = Agent()
    agent.running()
    [effect] = agent.exited(code=-11, peak=2**20, tail="Fatal Python error")
    assert (
        effect.message.reason
        == "the worker was ended by SIGSEGV (segmentation fault in native code, or the stack overflowed)"
    )
    assert effect.message.stderr_tail == "Fatal Python error"
    assert effect.message.peak_rss_bytes == 2**20


def test_a_worker_that_never_reports_is_killed() -> None:
    agent = Agent()
    agent.start()
    agent.forked()
    deadline = agent.core.next_deadline()
    assert deadline is not None
    assert agent.time(deadline) == [SignalWorker("l", 7, 9)]
    [effect] = agent.exited(code=-9)
    assert "did not report within" in effect.message.reason


def test_a_fork_that_fails_is_reported() -> None:
    agent = Agent()
    agent.start()
    [effect] = agent.handle(ForkFailed("l", "Resource temporarily unavailable"))
    assert effect.message == WorkerExited("l", 0, 1, "the worker could not be forked: Resource temporarily unavailable")


def test_blocking_is_passed_on_once() -> None:
    agent = Agent()
    agent.running()
    blocked, unblocked = WorkerSaid("l", WorkerBlocked("l")), WorkerSaid("l", WorkerUnblocked("l"))
    assert agent.handle(blocked) == [ToScheduler(LeaseBlocked("l"))]
    assert agent.handle(blocked) == []
    assert agent.handle(unblocked) == [ToScheduler(LeaseUnblocked("l"))]
    assert agent.handle(unblocked) == []


def test_a_hello_again_lists_what_runs() -> None:
    agent = Agent()
    agent.running("a", 1)
    agent.handle(WorkerSaid("a", WorkerBlocked("a")))
    agent.start("b")
    agent.running("c", 3)
    agent.stop("c", 9.0)
    [effect] = agent.handle(SchedulerSaid(HelloWanted()))
    assert effect.message.leases == (LiveLease("a", "p", "d", ONE, 1, "w-a", "ipc://a", 1, True),)


def test_heartbeats_and_refusal() -> None:
    agent = Agent(heartbeat_s=2.0)
    assert agent.core.next_deadline() == 2.0
    assert agent.time(2.0) == [ToScheduler(AgentHeartbeat(0))]
    assert agent.core.next_deadline() == 4.0
    agent.handle(SchedulerSaid(AgentRefused("too old")))
    assert agent.core.refused == "too old"


def test_an_order_to_leave_is_remembered_until_the_objects_are_elsewhere() -> None:
    agent = Agent()
    agent.core._hello = replace(HELLO, site_endpoint="tcp://n:1")
    assert agent.handle(SchedulerSaid(Drain())) == [ToScheduler(Draining())]
    assert agent.handle(SchedulerSaid(Retire("b", "tcp://b:1"))) == [Evacuate("b", "tcp://b:1")]
    assert agent.handle(Evacuated("b", ok=False)) == [ToScheduler(SuccessorFailed("b"))]
    [hello] = agent.handle(SchedulerSaid(HelloWanted()))
    assert hello.message.draining
    assert not agent.core.refused
    assert agent.handle(SchedulerSaid(Retire("c", "tcp://c:1"))) == [Evacuate("c", "tcp://c:1")]
    assert agent.handle(Evacuated("c")) == [ToScheduler(AgentGoodbye("c"))]
    assert "drained" in agent.core.refused


def test_a_hello_again_says_for_whom_the_node_stands() -> None:
    agent = Agent()
    assert agent.handle(StandsFor(("a", "b"))) == []
    [hello] = agent.handle(SchedulerSaid(HelloWanted()))
    assert hello.message.stands_for == ("a", "b")


def _with_spare() -> Agent:
    agent = Agent(spares=1)
    assert [worker.name for worker in agent.core.workers.values()] == ["n-x1"]
    agent.forked("n-x1", 1)
    agent.started("n-x1", 1)
    return agent


def test_a_spare_serves_at_once_and_is_replaced_later() -> None:
    agent = _with_spare()
    assert agent.start("l") == [ToScheduler(WorkerReady("l", "w-n-x1", "ipc://n-x1", 1))]
    assert agent.start("m") == [ForkWorker("m", 0)]
    deadline = agent.core.next_deadline()
    assert deadline is not None
    assert agent.time(deadline) == [ForkWorker("n-x2", 0)]
    # Its lease is told apart from its name.
    assert agent.handle(WorkerSaid("n-x1", WorkerBlocked("n-x1"))) == [ToScheduler(LeaseBlocked("l"))]
    assert agent.stop("l") == [SignalWorker("n-x1", 1, 9)]
    assert agent.exited(1, -9) == [ToScheduler(WorkerExited("l", 1, -9))]


def test_leases_that_follow_each_other_do_not_put_spares_off() -> None:
    agent = _with_spare()
    agent.start("l")
    due = agent.core.next_deadline()
    assert due is not None
    agent.now = due - 0.001
    assert agent.start("m") == [ForkWorker("m", 0)]
    assert agent.time(due) == [ForkWorker("n-x2", 0)]


def test_spares_are_replaced_later_while_the_cores_are_busy_with_nested_work() -> None:
    agent = _with_spare()
    agent.now = 1.0
    agent.start("l")
    agent.handle(WorkerSaid("n-x1", WorkerBlocked("n-x1")))
    usual = agent.core.next_deadline()
    assert usual is not None
    assert agent.time(usual) == [ForkWorker("n-x2", 0)]
    agent.forked("n-x2", 2)
    agent.started("n-x2", 2)
    asked = agent.now
    agent.start("m")
    later = agent.core.next_deadline()
    assert later is not None
    assert later - asked > usual - 1.0
    assert agent.time(later) == [ForkWorker("n-x3", 0)]


def test_spares_are_replaced_by_ones_that_have_what_is_loaded_later() -> None:
    agent = _with_spare()
    began = agent.now
    agent.start("l")
    first = agent.core.next_deadline()
    assert first is not None
    assert first > began + 0.05  # when the zygote begins to load it
    assert agent.time(first) == [ForkWorker("n-x2", 0)]
    agent.start("m")
    second = agent.core.next_deadline()
    assert second is not None
    assert second < first + 0.05


def test_a_spare_that_is_still_starting_serves_when_it_is_up() -> None:
    agent = Agent(spares=1)
    assert agent.start("l") == []
    agent.forked("n-x1", 1)
    assert agent.started("n-x1", 1) == [ToScheduler(WorkerReady("l", "w-n-x1", "ipc://n-x1", 1))]


def test_spares_that_die_are_given_up() -> None:
    agent = Agent(spares=1)
    for number in (1, 2, 3):
        agent.forked(f"n-x{number}", number)
        agent.exited(number, 1)
        deadline = agent.core.next_deadline()
        if deadline is not None:
            agent.time(deadline)
    assert not agent.core.workers
    assert agent.start("l") == [ForkWorker("l", 0)]


def _learn(agent: Agent, *names: str) -> list[Any]:
    """Report imports and let the pause pass."""
    agent.handle(WorkerSaid("l", ModulesImported(names)))
    return _wait(agent)


def _wait(agent: Agent) -> list[Any]:
    deadline = agent.core.next_deadline()
    assert deadline is not None
    return agent.time(deadline)


def test_what_workers_import_is_loaded_in_a_new_generation() -> None:
    agent = Agent()
    agent.running()
    assert _learn(agent, "numpy") == [MakeGeneration(1, ("numpy",))]
    # Until it is ready, the old one serves.
    assert agent.start("m") == [ForkWorker("m", 0)]
    assert agent.handle(GenerationReady(1, ("numpy",))) == []
    assert agent.start("n") == [ForkWorker("n", 1)]
    agent.handle(WorkerSaid("l", ModulesImported(("numpy",))))
    assert _learn(agent, "pandas") == [MakeGeneration(2, ("numpy", "pandas"))]
    assert agent.handle(GenerationReady(2, ("numpy", "pandas"))) == []
    # The older one ends with its last worker; the first never does.
    agent.forked("n", 9)
    assert agent.exited(9)[-1] == EndGeneration(1)
    agent.forked("m", 8)
    assert len(agent.exited(8)) == 1


def test_who_always_comes_up_with_new_modules_waits_longer_each_time() -> None:
    agent = Agent()
    agent.running()
    waits = []
    for number in range(1, 8):
        before = agent.now
        _learn(agent, f"m{number}")
        waits.append(agent.now - before)
        agent.handle(GenerationReady(number, tuple(f"m{loaded}" for loaded in range(1, number + 1))))
    assert waits == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.0, 3.0])


def test_nothing_is_loaded_ahead_while_tasks_keep_the_machine_busy() -> None:
    agent = Agent()
    agent.running()
    agent.idle_cpus = 0.3
    assert _learn(agent, "numpy") == []
    for _ in range(3):
        assert _wait(agent) == []
    # The next look is at what was since the last one.
    agent.idle_cpus = 1.0
    assert _wait(agent) == [MakeGeneration(1, ("numpy",))]
    assert agent.now == pytest.approx(1.1)


def test_a_generation_waits_for_a_busy_machine_no_longer_because_of_further_news() -> None:
    agent = Agent()
    agent.running()
    agent.idle_cpus = 0.3
    assert _learn(agent, "numpy") == []
    assert _wait(agent) == []
    assert _learn(agent, "pandas") == []
    assert next(made for _ in range(100) if (made := _wait(agent))) == [MakeGeneration(1, ("numpy", "pandas"))]
    assert agent.now == pytest.approx(5.0, abs=0.26)


def test_a_generation_is_made_at_once_where_the_system_does_not_say_how_busy_it_is() -> None:
    agent = Agent()
    agent.running()
    agent.idle_cpus = None
    assert _learn(agent, "numpy") == [MakeGeneration(1, ("numpy",))]


def test_what_a_worker_imports_while_the_machine_is_looked_at_is_loaded_as_well() -> None:
    agent = Agent()
    agent.running()
    core = agent.core
    assert core.handle(WorkerSaid("l", ModulesImported(("numpy",))), 0.0) == [LookAtIdleTime()]
    assert core.handle(WorkerSaid("l", ModulesImported(("pandas",))), 0.25) == []
    assert core.next_deadline() is None
    assert core.handle(IdleTimeSeen(0.0), 0.25) == []
    deadline = core.next_deadline()
    assert deadline == pytest.approx(0.35)
    assert core.handle(TimePassed(), deadline) == [LookAtIdleTime()]
    assert core.handle(TimePassed(), deadline) == []
    assert core.handle(IdleTimeSeen(0.1), deadline) == [MakeGeneration(1, ("numpy", "pandas"))]
    # One is made at a time; the next begins with a look of its own.
    assert core.handle(WorkerSaid("l", ModulesImported(("polars",))), 1.0) == []
    assert core.handle(GenerationReady(1, ("numpy", "pandas")), 2.0) == [LookAtIdleTime()]
    assert core.handle(IdleTimeSeen(0.1), 2.0) == []
    assert core.next_deadline() == pytest.approx(2.2)


def test_a_module_that_makes_a_generation_unfit_is_left_out() -> None:
    agent = Agent()
    agent.running()
    assert _learn(agent, "good", "threads") == [MakeGeneration(1, ("good", "threads"))]
    assert agent.handle(GenerationEnded(1, ("threads",))) == [MakeGeneration(2, ("good",))]
    agent.handle(GenerationReady(2, ("good",)))
    agent.handle(WorkerSaid("l", ModulesImported(("threads",))))
    assert agent.core.next_deadline() is None


def test_a_generation_that_hangs_is_given_up() -> None:
    agent = Agent()
    agent.running()
    _learn(agent, "hangs")
    deadline = agent.core.next_deadline()
    assert deadline is not None
    assert agent.time(deadline) == [EndGeneration(1)]
    assert agent.handle(GenerationReady(1, ("hangs",))) == [EndGeneration(1)]
    assert agent.core.next_deadline() is None


def test_spares_of_an_older_generation_are_replaced() -> None:
    agent = _with_spare()
    agent.start("l")
    deadline = agent.core.next_deadline()
    assert deadline is not None
    agent.time(deadline)
    agent.forked("n-x2", 2)
    agent.started("n-x2", 2)
    agent.handle(WorkerSaid("n-x1", ModulesImported(("numpy",))))
    deadline = agent.core.next_deadline()
    assert deadline is not None
    assert agent.time(deadline) == [MakeGeneration(1, ("numpy",))]
    assert agent.handle(GenerationReady(1, ("numpy",))) == [ForkWorker("n-x3", 1), SignalWorker("n-x2", 2, 9)]


def test_workers_die_with_their_generation() -> None:
    agent = Agent()
    agent.running()
    [effect] = agent.handle(GenerationEnded(0))
    assert effect.message.lease == "l"
    assert "forked was killed" in effect.message.reason
    assert agent.start("m") == [ForkWorker("m", 0)]


@pytest.mark.parametrize(
    ("code", "started", "text"),
    [
        (0, True, "the worker ended with exit code 0"),
        (3, True, "the worker ended with exit code 3"),
        (1, False, "the worker ended with exit code 1 before it was ready"),
        (-64, True, "the worker was ended by signal 64"),
    ],
)
def test_ends_in_words(code: int, started: bool, text: str) -> None:
    assert describe_exit(code, started=started) == text


def test_a_worker_that_calls_anothers_process_its_own_is_not_believed() -> None:
    agent = Agent()
    agent.running("l", 7)
    agent.start("m")
    agent.started("m", 7)
    agent.forked("m", 8)
    assert agent.stop("l") == [SignalWorker("l", 7, 9)]
    assert agent.stop("m") == [SignalWorker("m", 8, 9)]
