"""A simulated driver: the real pool, its core, its futures and the routing of its messages, with a virtual clock, a
virtual channel and one thread."""

from __future__ import annotations

import functools
import gc
import threading
from collections import deque
from contextlib import ExitStack
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NoReturn
from unittest import mock

import msgspec

from distpool.driver import introduction, lifeline, links, shell
from distpool.driver import loop as driver_loop
from distpool.driver import pool as driver_pool
from distpool.driver import session as driver_session
from distpool.driver.finalized import Finalized
from distpool.driver.future import DistFuture
from distpool.driver.introduction import Introduction
from distpool.driver.leases import Leases
from distpool.driver.lifeline import Lifeline
from distpool.driver.lineage import Made
from distpool.driver.links import Links
from distpool.driver.loop import Loop
from distpool.driver.recovery import Recovery
from distpool.driver.session import Session
from distpool.driver.spec import PoolSpec
from distpool.driver.task import Function, Task
from distpool.task_options import TaskOptions
from distpool.wire import codec, driver_to_scheduler, driver_to_worker, worker_to_driver
from distpool.wire.driver_to_worker import Value
from tests.simulation.network import Clock, Timer
from tests.simulation.objects import SimulatedStore
from tests.simulation.program import Program, Spec

if TYPE_CHECKING:
    from tests.simulation.cluster import Cluster
    from tests.simulation.worker import SimulatedWorker

SCHEDULER = "s"
#: Drivers of a simulation are "far": they are not watched through the kernel.
_BEAT_S = 1.0
#: How long a driver that is done stays, to see that its end arrives.
_STAYS_S = 0.5
#: When there are no more faults, and when there is no more work, everything is told after these times.
_SETTLES_S, _ENDS_S = 10.0, 4.5
#: Recounting everything after every message would take most of the time.
_CHECK_EVERY = 8
_FUNCTION = Function(1, "simulated", Value(b"f"))


class SimulatedTime(ExitStack):
    """Makes the driver's modules read the time of ``clock`` within the block."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        monotonic = lambda: clock.now  # noqa: E731
        self.enter_context(mock.patch.object(driver_loop, "Doorbell", _Bell))
        for module in (shell, driver_pool, driver_loop, driver_session, introduction, lifeline, links):
            self.enter_context(mock.patch.object(module, "_monotonic", monotonic))


class _Bell:
    broken = False

    def __init__(self, *_: object) -> None:
        self.ring = lambda: None

    def close(self) -> None:
        pass


class _Channel:
    """What a driver needs of ``Channel``."""

    link_events: tuple[()] = ()

    def __init__(self, driver: SimulatedDriver) -> None:
        self._driver = driver
        self.arrived: list[Any] = []

    def connect(self, endpoint: str, peer: bytes, **_: Any) -> None:
        pass

    def disconnect(self, peer: bytes) -> None:
        pass

    def drain(self, ready: Any) -> list[Any]:
        arrived, self.arrived = self.arrived, []
        return arrived

    def send(self, peer: bytes, frames: tuple[bytes]) -> None:
        driver = self._driver
        if not driver.alive:
            return
        if peer == b"s":
            message = codec.decode_from_driver_at_scheduler(frames[0])
            driver.cluster.network.send(driver.name, SCHEDULER, message)
            return
        message = codec.decode_from_driver_at_worker(frames[0])
        if isinstance(message, driver_to_worker.RunTasks):
            driver.note_sent(message, peer.decode())
        driver.cluster.network.send(driver.name, peer.decode(), frames[0])


class _Loop(Loop):
    """The loop's handling of messages and deadlines; the clock calls it."""

    def __init__(self, session: Any, clock: Clock) -> None:
        super().__init__(session)
        self._clock = clock
        self._woken = False
        self._bell.ring = self.wake  # type: ignore[method-assign]
        # Its worker says by itself that it waits.
        self._lending.attend = lambda now: None  # type: ignore[method-assign]
        self.timer = Timer(clock, self._deadline, self._work_off)

    def start(self) -> None:
        pass

    def is_current(self) -> bool:
        return True

    def lead(self, is_done: Any, deadline: float | None) -> bool:
        return False  # the caller then waits in the session's way

    def note_deadline(self, deadline: float | None) -> None:
        self.timer.update()

    def hang_up_later(self, peer: bytes, node: str = "") -> None:
        super().hang_up_later(peer, node)
        self.timer.update()

    def wake(self) -> None:
        if not self._woken:
            self._woken = True
            self._clock.after(1e-5, self._awake)

    def _awake(self) -> None:
        self._woken = False
        if not self.timer.stopped:
            self._work_off()
            self.timer.update()

    def do_later(self, action: Any) -> None:
        super().do_later(action)
        self.wake()

    def _deadline(self) -> float | None:
        deadlines = [pool.shell.next_deadline() for pool in self._session.pools.values()]
        if self._hang_ups:
            deadlines.append(self._hang_ups[0][0])
        return min((at for at in deadlines if at is not None), default=None)


class _Session(Session):
    """A session with the parts that a simulation needs."""

    def __init__(self, driver: SimulatedDriver, parent_lease: str) -> None:
        cluster = driver.cluster
        self.pid = 0
        self.lock = threading.Lock()  # type: ignore[assignment]
        self.routing_id = driver.name.encode()
        self.worker = SimpleNamespace(lease=parent_lease) if parent_lease else None  # type: ignore[assignment]
        self.node = self.cluster = None
        self.endpoint = ""
        site = driver.site or driver.name
        self.store = driver.store = SimulatedStore(cluster.objects, driver.name, site, driver.name)  # type: ignore[assignment]
        self.finalized = Finalized(self)
        self.store.on_free = self.finalized.release
        self.recovery = _Recovery(self, driver.program)
        self.definitions = SimpleNamespace(forget=lambda peer: None)  # type: ignore[assignment]
        self.functions = _Functions()  # type: ignore[assignment]
        self.pools = {}
        self.interrupted = self._closed = False
        self._next_pool = 0
        self.leases = Leases()
        self.links = Links(self)
        self.lifeline = _Lifeline(self, driver)
        self.introduction = Introduction(self)
        self._callbacks = deque()
        self.due = deque()
        self._attending = threading.Lock()
        self.questions = None
        self.channel = driver.channel = _Channel(driver)  # type: ignore[assignment]
        self.loop = _Loop(self, cluster.clock)
        self._driver = driver
        self.introduction.say_hello()

    def announce_changed_definitions(self) -> None:
        pass

    def capture_setup(self, spec: PoolSpec, initializer: Any) -> Any:
        return _Setup(self._driver.name)

    def lease_began(self, pool: Any, grant: Any) -> None:
        self._driver.cluster.check_exclusive(self._driver, grant)
        super().lease_began(pool, grant)

    def wait_for_future(self, future: DistFuture[Any], deadline: float | None) -> None:
        driver = self._driver
        driver.cluster.wait_until(lambda: future.done() or not driver.alive)
        if not future.done():
            raise _Killed

    def settle(self, settled: Any) -> None:
        for future, _, _ in settled:
            self._driver.note_settled(future)
        super().settle(settled)


class _Killed(BaseException):
    """The process that waits is no more."""


class _Lifeline(Lifeline):
    def __init__(self, session: Session, driver: SimulatedDriver) -> None:
        super().__init__(session)
        self._driver = driver

    def end_worker(self, reason: str) -> NoReturn:
        worker = self._driver.worker
        assert worker is not None, f"{self._driver.name} is in no worker: {reason}"
        self._driver.cluster.nodes[worker.site].kill_worker(worker.pid, 1)
        raise _Killed


class _Recovery(Recovery):
    """Counts what is computed again."""

    def __init__(self, session: Session, program: Program) -> None:
        super().__init__(session, keeps_arguments=True)
        self._program = program

    def _submit(self, begun: list[Made]) -> None:
        for made in begun:
            assert made.task is not None
            self._program.records[msgspec.msgpack.decode(made.task.message.payload)].recomputed += 1
        super()._submit(begun)

    def _on_ran(self, made: Made, task: Task) -> None:
        # Who needs the result then asks for it once more.
        failed = made.again is not None and made.again.failure() is not None
        self._program.records[msgspec.msgpack.decode(task.message.payload)].recomputed -= failed
        super()._on_ran(made, task)


class _Functions:
    def find(self, function: Any) -> Function:
        return _FUNCTION


class _Setup:
    def __init__(self, driver: str) -> None:
        self._driver = driver

    def for_worker(self, grant: Any) -> driver_to_worker.Setup:
        return driver_to_worker.Setup(
            driver=self._driver,
            lease=grant.lease,
            pool=grant.pool,
            environment={},
            working_directory=b"",
            sys_path=[],
            argv=[],
            main_name="",
            main_file=b"",
            user_modules=[],
            process_name="",
            identity=(),
            daemon=False,
            num_threads=1,
            initializer=b"",
            initializer_objects=(),
            state=b"",
        )


class _Call:
    """What is "pickled" for a task."""

    def __init__(self, spec: Spec, dependencies: list[DistFuture[Any]]) -> None:
        self.spec = spec
        self.dependencies = dependencies


class SimulatedDriver:
    """Runs the tasks of a program in one pool, and ends.

    :param worker: the worker in which it lives, with the lease and the pool of that: it submits nested work.
    """

    def __init__(
        self,
        cluster: Cluster,
        program: Program,
        worker: SimulatedWorker | None = None,
        lease: str = "",
        pool: str = "",
    ) -> None:
        self.cluster = cluster
        self.clock = cluster.clock
        self.name = program.name
        self.program = program
        self.worker = worker
        self.site = worker.site if worker is not None else ""
        self.alive = True
        self.finished = False
        self.store: Any = None
        self.channel: _Channel
        self._received = 0
        self._futures: dict[DistFuture[Any], int] = {}
        #: number of a task -> how many workers it lost
        self._deaths: dict[int, int] = {}
        self._nested = worker is not None
        cluster.network.up(self.name, lambda source, message: self._receive(source, message), self.site)
        self.session = _Session(self, lease)
        _patch_pack(self.store)
        spec = program.pool_spec()
        self.pool = self.session.join_pool(pool, spec) if self._nested else self.session.open_pool(spec)
        if not self._nested:
            for record in program.records:
                self.clock.after(record.spec.submitted_s, functools.partial(self._submit, record.spec.number))
        self._beat()

    # -- its life -----------------------------------------------------------------------------------------------

    def kill(self) -> None:
        """The process is gone."""
        if self.alive:
            self.alive = False
            self.session.loop.timer.stopped = True
            self.store.close()
            self.cluster.network.down(self.name)
            self.cluster.objects.driver_lost(self.name, self.store.ownership.lifetimes.objects())

    def holds(self, lease: str) -> bool:
        """Whether it believes to hold a lease."""
        return self.session.leases.holds(lease)

    def _beat(self) -> None:
        if self.alive:
            self.session.tell_scheduler(driver_to_scheduler.DriverHeartbeat())
            self.clock.after(_BEAT_S, self._beat)

    def lose_link(self) -> str:
        """The connection to one of its workers breaks; returns which."""
        peers = sorted(self.session.leases.held_workers())
        if not self.alive or not peers:
            return "none"
        peer = self.clock.random.choice(peers)
        self.cluster.network.reset(self.name, peer.decode())
        settled: Any = []
        with self.session.lock:
            self.session.links.give_up_worker(peer, "the connection to it broke", settled)
        self.session.settle(settled)
        self.session.loop.timer.update()
        return f"{self.name} to {peer.decode()}"

    def reconnect(self) -> None:
        """The connection to the scheduler was lost and is there again."""
        if self.alive:
            settled: Any = []
            with self.session.lock:
                self.session.introduction.repeat(settled)
            self.session.settle(settled)

    def _receive(self, source: str, message: Any) -> None:
        data = message if isinstance(message, bytes) else codec.encode(message)
        held = source.encode() in self.session.leases.held_workers()
        try:
            self.channel.arrived.append((source.encode(), [data]))
            self.session.loop.serve()
        except _Killed:
            return
        self.session.loop.timer.update()
        if held and self.alive:
            self._check_adopted(data)
        self._received += 1
        if not self._received % _CHECK_EVERY:
            self.pool.shell.core.check_invariants()

    def _check_adopted(self, data: bytes) -> None:
        """Whoever hears of an object sees to its end, late as it may be."""
        message = codec.decode_from_worker_at_driver(data)
        if isinstance(message, worker_to_driver.TasksDone) and not self.pool.shell.ended.is_set():
            heard = {location.object_id for result in message.results for location in result.objects}
            left = heard - self.store.adopted
            assert not left, f"{self.name} heard of {left}, which nobody will end"

    # -- its tasks ----------------------------------------------------------------------------------------------

    def submit_more(self, tasks: int) -> list[DistFuture[Any]]:
        """Nested work."""
        numbers = self.program.extend(tasks)
        for number in numbers:
            self._submit(number)
        found = [self.program.records[number].future for number in numbers]
        return [future for future in found if future is not None]

    def kill_all(self, futures: list[DistFuture[Any]]) -> None:
        """Nested work is not wanted any more."""
        for number in [self._futures[future] for future in futures]:
            self._kill(number)

    def check_and_forget(self, futures: list[DistFuture[Any]]) -> None:
        """Nested work is done and its results are no longer needed."""
        for future in futures:
            record = self.program.records[self._futures.pop(future)]
            try:
                self._check(functools.partial(self.program.check_record, record))
            except _Killed:
                return
            record.future = None

    def _submit(self, number: int) -> None:
        record = self.program.records[number]
        spec = record.spec
        missing = [other for other in spec.dependencies if self.program.records[other].future is None]
        if not self.alive or self.finished or record.future is not None:
            return
        for other in missing:
            self._submit(other)
        dependencies = [self.program.records[other].future for other in spec.dependencies]
        options = TaskOptions(
            timeout_s=spec.timeout_s, max_retries=spec.retries, num_cpus=spec.num_cpus, memory_bytes=spec.memory_bytes
        )
        call = _Call(spec, [future for future in dependencies if future is not None])
        if self.pool.broken is not None:
            future = record.future = DistFuture(self.pool)
            self._futures[future] = number
            future.add_dependent(functools.partial(self._on_done, number))
            self.session.settle([(future, None, self.pool.broken)])
            return
        future = record.future = self.pool.submit(_function, (call,), options=options)
        self._futures[future] = number
        if spec.cancelled_s is not None:
            self.clock.after(max(0.0, spec.cancelled_s - spec.submitted_s), lambda: self._cancel(number))
        if spec.killed_s is not None:
            self.clock.after(max(0.0, spec.killed_s - spec.submitted_s), lambda: self._kill(number))
        future.add_dependent(functools.partial(self._on_done, number))
        self.session.loop.timer.update()

    def _cancel(self, number: int) -> None:
        record = self.program.records[number]
        if self.alive and record.future is not None and record.future.cancel():
            record.cancelled = True

    def _kill(self, number: int) -> None:
        record = self.program.records[number]
        if self.alive and record.future is not None and not record.future.done():
            record.killed = True
            record.future.kill()

    def note_sent(self, message: driver_to_worker.RunTasks, worker: str) -> None:
        for task in message.tasks:
            self.program.on_sent(task, worker, self.clock.now)

    def note_settled(self, future: DistFuture[Any]) -> None:
        number = self._futures.get(future)
        assert not future.done(), f"{self.name} task {number}: its future was resolved twice"
        if future._task is not None and number is not None:
            self._deaths[number] = future._task.deaths

    def _on_done(self, number: int) -> None:
        self.program.on_settled(number, self._deaths.get(number, 0), self.clock.now)
        if self.program.settled and not self._nested and not self.finished:
            self.finished = True
            self.clock.after(0.0, self._finish)

    def _finish(self) -> None:
        if not self.alive:
            return
        try:
            self._check(self.program.check)
        except _Killed:
            return
        self.session.recovery.lineage.check_invariants()
        for record in self.program.records:
            record.future = None
        self._futures.clear()
        gc.collect()
        if self.cluster.random.random() < 0.3:
            self._shut_down()
        else:  # when all faults are over, an open pool without tasks must not hold anything
            self.clock.at(max(self.clock.now + _ENDS_S, self.cluster.calm_at + _SETTLES_S), self._check_idle)

    def _check(self, check: Any) -> None:
        cluster = self.cluster
        check(cluster.failed_starts, cluster.objects.lost, cluster.stopped_for_memory)

    def _check_idle(self, collected: bool = False) -> None:
        if self.alive:
            left = self.cluster.objects.left(self.name)
            if left and not collected:
                # An argument that is not needed any more may have held a future whose error is part of a cycle.
                gc.collect()
                self.clock.at(self.clock.now + 1, functools.partial(self._check_idle, collected=True))
                return
            assert not left, f"{self.name} has nothing to do and still has {left}"
            self._shut_down()

    def _shut_down(self) -> None:
        self.pool.shutdown(wait=False)
        self._end_when_idle()

    def _end_when_idle(self) -> None:
        if not self.alive:
            return
        if not self.pool.shell.ended.is_set():
            self.clock.after(_STAYS_S, self._end_when_idle)
            return
        self.clock.after(_STAYS_S, self._end)

    def _end(self) -> None:
        if self.alive:
            self.session.tell_scheduler(driver_to_scheduler.DriverGoodbye())
            left = self.store.ownership.lifetimes.objects()
            if left:
                gc.collect()
                left = self.store.ownership.lifetimes.objects()
            assert not left, f"{self.name} ends and still has {left}"
            self.kill()


def _function() -> None:
    """Stands for what tasks call."""


def _patch_pack(store: Any) -> None:
    def pack(value: Any) -> Any:
        (args, _) = value
        (call,) = args
        return store.pack_call(call.spec.number, call.spec.argument_bytes, call.dependencies)

    store.pack = pack
