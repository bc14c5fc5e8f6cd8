"""A simulated worker process: what ``distpool.worker`` promises to driver and agent, without running anything."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import msgspec

from distpool import errors
from distpool.wire import codec, worker_to_agent, worker_to_driver
from distpool.wire import driver_to_worker as from_driver
from distpool.wire.worker_to_driver import OK, RAISED, UNTRANSPORTABLE, Result
from distpool.worker.failure import encode_exception
from tests.simulation.memory import FILL_BYTES_PER_S, WORKER_BYTES
from tests.simulation.objects import SimulatedStore
from tests.simulation.program import Program, combine

if TYPE_CHECKING:
    from tests.simulation.cluster import Cluster
    from tests.simulation.parties import SimulatedNode

#: How long results wait for more of their kind.
_FLUSH_S = 0.0005
#: How long they wait behind a task that turns out long; when the agent is told of such a task.
_WATCH_S, _LONG_S = 0.01, 0.25
_LEAVES_S = 0.002


class SimulatedWorker:
    """One process.  ``alive`` turns False at its end, after which nothing that it had planned happens."""

    def __init__(self, cluster: Cluster, node: SimulatedNode, name: str, pid: int) -> None:
        self._cluster = cluster
        self._clock = cluster.clock
        self._node = node
        self.name = name
        self.pid = pid
        self.peer = f"w-{name}"
        self.site = node.name
        self.alive = True
        self._driver = ""
        self._lease = ""
        self._pool = ""
        self._pending: OrderedDict[int, Any] = OrderedDict()
        self._controls = -1
        #: the attempt that runs, 0: none
        self._running = 0
        self._done: list[Result] = []
        self._busy_s = 0.0
        self._oldest = 0.0
        self._store: SimulatedStore | None = None
        self.nested: Any = None
        self._waiting = 0
        self._nested_futures: list[Any] = []
        #: since when the running task fills memory, and how much it comes to use
        self._fills = (0.0, 0)
        #: whether the agent knows of the running task
        self._told = False

    @property
    def is_set_up(self) -> bool:
        """Whether its driver's set-up is done."""
        return self._store is not None

    @property
    def memory_bytes(self) -> int:
        """What the process uses."""
        since, most = self._fills
        return WORKER_BYTES + min(most, int(FILL_BYTES_PER_S * (self._clock.now - since)))

    def start(self) -> None:
        """Listen."""
        self._cluster.network.up(self.peer, lambda source, data: self._receive(source, data), self._node.name)
        endpoint = f"{self._node.name}/{self.name}/{self.pid}"
        self._node.worker_says(self.name, worker_to_agent.WorkerStarted(self.name, endpoint, self.pid))

    def die(self) -> None:
        """The process is gone."""
        self.alive = False
        self._cluster.network.down(self.peer)
        if self._store is not None:
            self._store.close()
        if self.nested is not None:
            self.nested.kill()

    # -- messages -----------------------------------------------------------------------------------------------

    def _receive(self, source: str, data: Any) -> None:
        message = codec.decode_from_driver_at_worker(data)
        if not self._driver:
            assert isinstance(message, from_driver.Setup), f"{self.peer} is given {message} before its set-up"
            self._driver, self._lease, self._pool = source, message.lease, message.pool
        assert source == self._driver, f"{self.peer} of {self._driver} is used by {source}"
        if isinstance(message, from_driver.RunTasks):
            for task in message.tasks:
                self._pending[task.attempt] = task
        elif isinstance(message, from_driver.Retract):
            given_back = [attempt for attempt in message.attempts if self._pending.pop(attempt, None) is not None]
            self._tell(worker_to_driver.Retracted(given_back))
        elif isinstance(message, from_driver.Interrupt):
            if message.attempt == self._running:
                self._interrupted(message.attempt)
            return
        elif isinstance(message, from_driver.ReleaseObjects):
            if self._store is not None:
                self._store.release(message.objects)
        else:
            self._pending[self._controls] = message
            self._controls -= 1
        if not self._running:
            self._next()

    def _tell(self, message: Any) -> None:
        self._cluster.network.send(self.peer, self._driver, codec.encode(message))

    def _flush(self) -> None:
        if self._done:
            self._tell(worker_to_driver.TasksDone(self._done, self._busy_s))
            self._done, self._busy_s = [], 0.0

    # -- tasks --------------------------------------------------------------------------------------------------

    def _next(self) -> None:
        while self._pending and not self._running and self.alive:
            key, item = self._pending.popitem(last=False)
            if key > 0:
                self._begin(item)
            elif isinstance(item, from_driver.Setup):
                self._set_up()
            elif isinstance(item, from_driver.Leave):
                self._flush()
                self._running = -1
                self._after(_LEAVES_S, lambda: self._node.kill_worker(self.pid, 0))
        if not self._running:
            self._flush()

    def _set_up(self) -> None:
        program = self._cluster.programs[self._driver]
        self._store = SimulatedStore(self._cluster.objects, self.peer, self._node.name, program.name)
        self._store.entitled = lambda: self._cluster.holds(self._driver, self._lease)
        store = self._node.store
        store.watch(self.peer, self._store.viewed)
        self._store.on_freed = lambda found: store.freed(self.peer, found)
        self._store.on_unpinned = lambda object_ids: self._tell(worker_to_driver.Unpinned(object_ids))
        self._tell(worker_to_driver.SetupDone())

    def _after(self, delay_s: float, action: Any) -> None:
        self._clock.after(delay_s, lambda: action() if self.alive else None)

    def _begin(self, task: from_driver.Task) -> None:
        self._running = task.attempt
        program = self._cluster.programs[self._driver]
        number = msgspec.msgpack.decode(task.payload)
        spec = program.records[number].spec
        assert self._store is not None
        try:
            values = [self._store.unpack(value) for value in task.dependencies]
            for location in task.objects:
                self._store.look(location.object_id)
        except errors.ObjectLostError as error:
            self._finish(task, UNTRANSPORTABLE, encode_exception(error), 1e-4, lost=error.object_ids)
            return
        before = program.on_started(number, task.attempt)
        began = self._clock.now
        self._after(_WATCH_S, self._flush)
        self._after(_LONG_S, lambda: self._tell_of_long(task))

        def work() -> None:
            self._fills = self._clock.now, spec.fills_bytes
            if before < spec.deaths:
                self._after(spec.duration_s / 2, lambda: self._node.kill_worker(self.pid, -11))
            else:
                self._after(spec.duration_s, lambda: self._worked(task, program, number, values, began))

        if spec.nested:
            self._run_nested(spec.nested, task.attempt, work)
        else:
            work()

    def _worked(self, task: Any, program: Program, number: int, values: list[int], began: float) -> None:
        if self._running != task.attempt:
            return  # it was interrupted
        spec = program.records[number].spec
        took_s = self._clock.now - began
        if spec.raises:
            self._finish(task, RAISED, _RAISED, took_s)
            return
        assert self._store is not None
        store, value = self._store, combine(number, values)
        if not spec.result_bytes:
            self._finish(task, OK, store.pack_result(value, None).payload, took_s)
            return

        def stored(on_disk: bool) -> None:
            if self.alive and self._running == task.attempt:
                location = store.make(value, spec.result_bytes)
                self._cluster.objects.live[location.object_id].on_disk = on_disk
                program.records[number].objects.append(location.object_id)
                self._finish(task, OK, b"", took_s, (location,))
            elif not on_disk:
                self._node.store.unused(self.peer, spec.result_bytes)

        self._node.store.want(self.peer, spec.result_bytes, stored)

    def _finish(
        self, task: Any, status: int, payload: bytes, took_s: float, objects: Any = (), lost: tuple[str, ...] = ()
    ) -> None:
        self._ended()
        result = Result(task.attempt, status, payload, objects, lost=lost)
        result.pinned = self._look_on(task)
        if not self._done:
            self._oldest = self._clock.now
        self._done.append(result)
        self._busy_s += took_s
        if took_s >= _FLUSH_S or self._clock.now - self._oldest > _FLUSH_S:
            self._flush()
        self._next()

    def _ended(self) -> None:
        """The task that ran."""
        self._running = 0
        self._fills = (0.0, 0)
        if self._told:
            self._told = False
            self._node.worker_says(self.name, worker_to_agent.TaskEnded(self._lease))

    def _tell_of_long(self, task: from_driver.Task) -> None:
        if self._running == task.attempt:
            self._told = True
            retriable = not task.flags & from_driver.ONCE
            self._node.worker_says(self.name, worker_to_agent.TaskRuns(self._lease, _LONG_S, retriable))

    def _look_on(self, task: Any) -> tuple[str, ...]:
        """Keep a view of the arguments for a while, as a task does that puts them into a global."""
        assert self._store is not None
        spec = self._cluster.programs[self._driver].records[msgspec.msgpack.decode(task.payload)].spec
        ids = [location.object_id for location in task.objects]
        ids += [location.object_id for value in task.dependencies for location in value.objects]
        if spec.views_s:
            for object_id in ids:
                self._store.view(object_id)
                self._after(spec.views_s, lambda object_id=object_id: self._end_view(object_id))
        return self._store.pinned(ids)

    def _end_view(self, object_id: str) -> None:
        assert self._store is not None
        self._store.end_view(object_id)

    def _interrupted(self, attempt: int) -> None:
        task_number = self._cluster.programs[self._driver].number_of(attempt)
        spec = self._cluster.programs[self._driver].records[task_number].spec
        if spec.stubborn:
            return

        def end() -> None:
            if self._running == attempt:
                if self._nested_futures:
                    self.nested.kill_all(self._nested_futures)
                self._ended()
                self._done.append(Result(attempt, RAISED, _INTERRUPTED))
                self._flush()
                self._next()

        self._after(1e-4, end)

    # -- nested work --------------------------------------------------------------------------------------------

    def _waits(self, step: int) -> None:
        before, self._waiting = self._waiting, self._waiting + step
        if not before:
            self._node.worker_says(self.name, worker_to_agent.WorkerBlocked(self._lease))
        elif not self._waiting:
            self._node.worker_says(self.name, worker_to_agent.WorkerUnblocked(self._lease))

    def _run_nested(self, tasks: int, attempt: int, then: Any) -> None:
        if self.nested is None:
            self.nested = self._cluster.add_nested(self, self._driver, self._lease, self._pool)
        self._waits(1)
        futures = self._nested_futures = self.nested.submit_more(tasks)
        left = len(futures)

        def one_less() -> None:
            nonlocal left
            left -= 1
            if not left:
                self._after(0.0, resume)

        def resume() -> None:
            self._waits(-1)
            self.nested.check_and_forget(futures)
            futures.clear()
            if self._running == attempt:
                then()

        for future in futures:
            future.add_dependent(one_less)


_RAISED = encode_exception(ZeroDivisionError("the task raises"))
_INTERRUPTED = encode_exception(errors.TaskInterrupted("the task was told to end"))
