"""The main thread's work: run tasks in the order in which they came and send their results in batches.

A task costs about 3 µs here; whatever is out of the ordinary (stored buffers, dependencies, chunks, a function's first
use) is in ``_run_unusual``.  Results wait for more of their kind for half a millisecond at most, or, behind a task that
turns out long, for the watch thread's next look.
"""

from __future__ import annotations

import itertools
import pickle
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from distpool import crashpoints
from distpool.errors import SerializationError, TaskInterrupted
from distpool.interpreter import call_after_fork
from distpool.store.client import ObjectStore
from distpool.store.current import install
from distpool.wire.driver_to_worker import CHUNK, MAP, ONCE, READONLY, Definitions, Leave, Setup, Task, Value
from distpool.wire.worker_to_agent import TaskEnded, TaskRuns
from distpool.wire.worker_to_driver import (
    OK,
    Result,
    SetupDone,
    SetupFailed,
    TasksDone,
    WorkerGrown,
)
from distpool.worker import context, failure, setup, stages
from distpool.worker.delays import Delays
from distpool.worker.forks import end_forked_child
from distpool.worker.imports import Imports
from distpool.worker.initializer import drain_queues, run_initializer
from distpool.worker.mailbox import Mailbox
from distpool.worker.output import Forwarder
from distpool.worker.stages import CALLING, LOADING, PACKING
from distpool.worker.watch import Watch

if TYPE_CHECKING:
    from distpool.worker.growth import Growth
    from distpool.worker.main import WorkerStart

_FLUSH_S = 0.0005
#: ``running`` while the set-up runs or the worker leaves; no attempt has such a number.
_SETTING_UP, _LEAVING = -1, -2
_NONE = pickle.dumps(None, 5)
#: Types whose pickles are small and stand for themselves.
_SCALARS = frozenset({bool, int, float, complex})

_clock = time.perf_counter


class Runner:
    """See the module's description.  Made and served by the main thread.

    :param start: what the agent said of this worker and its node.
    """

    def __init__(self, mailbox: Mailbox, start: WorkerStart) -> None:
        self.busy = False
        self.running = 0
        self._mailbox = mailbox
        self._start = start
        self._store: ObjectStore = None  # type: ignore[assignment]  # made by the set-up
        self._loader: Any = None
        self._functions: dict[int, Callable[..., Any]] = {}
        self._done: list[Result] = []
        self._busy_s = 0.0
        self._reported_s = 0.0
        self._flush_lock = threading.Lock()
        #: The attempt that has been taken out of the mailbox and has no result yet.
        self._claimed = 0
        self._stage = LOADING
        #: The attempt that may not run again, if the pool's others may; whether they may.
        self._once = 0
        self._retriable = True
        self._growth: Growth | None = None
        self._leaving = False
        self._forked = False
        self.imports = Imports(mailbox)
        self._delays = Delays()
        self._forwarder = Forwarder(mailbox.tell_driver, self._may_gather)
        codes = frozenset({Runner._run_batch.__code__, Runner._run_unusual.__code__})
        self._watch = Watch(mailbox, self, codes)
        self._hidden_codes = codes | {Runner._set_up.__code__}

    def serve(self) -> None:
        """Run tasks until the driver says ``Leave``."""
        self._watch.start()
        call_after_fork(self._in_forked_child)
        mailbox = self._mailbox
        pending = mailbox.pending
        while not self._leaving:
            if pending:
                self.busy = True
                self._watch.rouse()
                try:
                    self._run_batch()
                except BaseException as error:
                    self._answer_claimed(error)
                continue
            self.flush()
            self.imports.report()
            self._delays.mark(_clock())
            self.busy = False
            if self._forwarder.pending:
                # A thread that a task left may have gathered a line while it still saw this one busy.
                self._forwarder.flush(unfinished=False)
            # After ``busy``: the watch thread may have taken something in while it still saw this one busy.
            if not pending and (ready := mailbox.channel.wait()):
                mailbox.drain(ready)
        # Exit functions may ask for definitions and may take long: the watch thread goes on.
        self.running = _LEAVING

    def end(self) -> None:
        """The exit functions have run: send what they wrote; no more messages after this."""
        self._watch.stop()
        self._forwarder.flush()

    # -- tasks ------------------------------------------------------------------------------------------------------

    def _run_batch(self) -> None:
        """Run what is in the mailbox."""
        crashpoints.reach("task.claimed")
        claim = self._mailbox.pending.popitem
        functions = self._functions
        forwarder = self._forwarder
        keep_signal = self._watch.keep_signal
        done = self._done
        loads, dumps = pickle.loads, pickle.dumps
        value: Any
        item: Any
        oldest = 0.0
        began = _clock()
        while True:
            try:
                attempt, item = claim(last=False)
            except KeyError:
                return
            if attempt < 0:
                self._control(item)
                if self._leaving:
                    return
                began = _clock()
                continue
            self._claimed = attempt
            stage = LOADING
            try:
                self.running = attempt
                function = functions.get(item.function)
                if function is None or item.flags or item.objects or item.dependencies:
                    stage = -1
                    payload, objects = self._run_unusual(item, function)
                else:
                    args, kwargs = loads(item.payload)
                    stage = CALLING
                    value = function(*args, **kwargs)
                    stage = PACKING
                    objects = ()
                    if value is None:
                        payload = _NONE
                    elif type(value) in _SCALARS:
                        payload = dumps(value, 5)
                    else:
                        payload, objects = self._pack(value)
                self.running = 0
                result = Result(attempt, OK, payload, objects)
            except BaseException as error:
                self.running = 0
                result = self._failure(attempt, error, self._stage if stage < 0 else stage)
            value = args = kwargs = None
            if self._forked:
                end_forked_child()
            keep_signal()
            if stage < 0 and (item.objects or item.dependencies):
                result.pinned = self._pinned(item)
            if forwarder.pending:
                # The parent shall have seen what the task printed when it learns of its end.
                forwarder.flush()
            done.append(result)
            self._claimed = 0
            now = _clock()
            took = now - began
            if took >= _FLUSH_S:
                took = max(0.0, took - self._delays.more())
            self._busy_s += took
            began = now
            if not oldest and took < _FLUSH_S:
                oldest = now
            elif took >= _FLUSH_S or now - oldest > _FLUSH_S:
                self.flush()
                oldest = 0.0

    def _run_unusual(self, task: Task, function: Callable[..., Any] | None) -> tuple[bytes, Any]:
        """Payload and locations of the result; ``_stage`` tells how far it came."""
        self._stage = LOADING
        if task.flags & ONCE:
            self._once = task.attempt
        store = self._store
        if task.function and function is None:
            function = self._load_function(task.function)
        loaded = store.unpack(
            Value(task.payload, task.objects), task.dependencies, readonly=bool(task.flags & READONLY)
        )
        if function is None:
            function, args, kwargs = loaded
        else:
            args, kwargs = loaded
        del loaded
        assert function is not None
        self._stage = CALLING
        value: Any
        if task.flags & CHUNK:
            (argument_tuples,) = args
            value = list((map if task.flags & MAP else itertools.starmap)(function, argument_tuples))
        else:
            value = function(*args, **kwargs)
        self._stage = PACKING
        return self._pack(value)

    def _load_function(self, number: int) -> Callable[..., Any]:
        message = self._mailbox.functions.get(number)
        if message is None:
            raise SerializationError(f"the task's function (number {number}) never came")
        function: Callable[..., Any] = self._store.unpack(Value(message.payload, message.objects))
        self._functions[number] = function
        del self._mailbox.functions[number]
        return function

    def _pack(self, value: Any) -> tuple[bytes, Any]:
        # A reference stays one; the driver becomes its owner.  A future is waited for and becomes a reference.
        packed = self._store.pack(value, by_reference=True)
        handed_over = packed.hand_over()
        return handed_over.payload, handed_over.objects

    def _pinned(self, task: Task) -> tuple[str, ...]:
        """Which of the task's argument objects it still holds on to."""
        ids = [location.object_id for location in task.objects]
        for dependency in task.dependencies:
            ids += [location.object_id for location in dependency.objects]
        return self._store.pinned(ids) if ids else ()

    def _failure(self, attempt: int, error: BaseException, stage: int) -> Result:
        if self._forked:
            end_forked_child(error)
        if isinstance(error, TaskInterrupted):
            context.interrupted(attempt)
        if isinstance(error, RecursionError):
            failure.keep_recursion_limit()
        status, error, lost = stages.describe(error, stage)
        return Result(attempt, status, failure.encode_exception(error, self._hidden_codes), lost=lost)

    def _answer_claimed(self, error: BaseException) -> None:
        """Something came out of ``_run_batch`` itself: an interrupt at an awkward moment, or a recursion limit that a
        task left too low.  The task's future gets it; nothing else is harmed."""
        self.running = 0
        failure.keep_recursion_limit()
        if self._forked:
            end_forked_child(error)
        attempt, self._claimed = self._claimed, 0
        if attempt:
            self._done.append(self._failure(attempt, error, CALLING))

    # -- between tasks ----------------------------------------------------------------------------------------------

    def _control(self, message: Setup | Definitions | Leave | Task) -> None:
        if isinstance(message, Setup):
            self._set_up(message)
        elif isinstance(message, Definitions):
            try:
                self._loader.on_definitions(message)
                self._loader.settle()
            except Exception as error:  # who uses the name will see; the worker goes on
                self._forwarder.write(2, f"distpool: definitions could not be updated: {failure.summary(error)}\n")
        elif isinstance(message, Leave):
            self._leaving = True

    def _set_up(self, message: Setup) -> None:
        """Make the process look like the driver's program and run the initializer."""
        mailbox = self._mailbox
        self.running = _SETTING_UP
        try:
            setup.enter_program(message, self._start.learned)
            if setup.is_elsewhere(message):
                self.imports.compare_with(message.versions)
            self._forwarder.limit(message.output_bytes_per_s)
            self._retriable = message.retriable
            self._store = ObjectStore(
                self._start.store_folder,
                mailbox.channel.routing_id.decode(),
                node=self._start.node,
                on_unpinned=mailbox.note_unpinned,
            )
            if self._start.cluster is not None:
                self._store.reach_through_agent()
            install(self._store)
            mailbox.on_release = self._store.release
            context.install(
                context.WorkerContext(
                    message.lease,
                    message.pool,
                    self._start.node,
                    self._start.store_folder,
                    self._start.scheduler_endpoint,
                    message.identity[-1] if message.identity else 0,
                    self._start.cluster.secret if self._start.cluster is not None else b"",
                    seat=message.seat,
                ),
                lambda blocked: mailbox.tell_blocked(message.lease, blocked),
                lambda: self.running,
            )
            from distpool.code import loader

            self._loader = loader.install(mailbox, message, self._store, elsewhere=setup.is_elsewhere(message))
            setup.adopt_state(message, self._forwarder)
            run_initializer(message, self._store)
            if message.growth_bytes:
                from distpool.worker.growth import Growth

                self._growth = Growth(message.growth_bytes)
        except BaseException as error:
            if self._forked:
                end_forked_child(error)
            drain_queues()
            answer: Any = SetupFailed(failure.encode_exception(error, self._hidden_codes), failure.summary(error))
            mailbox.refuse()
        else:
            if self._forked:
                end_forked_child()
            answer = SetupDone()
        finally:
            self.running = 0
        failure.keep_recursion_limit()
        self._watch.keep_signal()
        self._forwarder.flush()
        crashpoints.reach("worker.set_up")
        mailbox.tell_driver(answer)

    def flush(self) -> None:
        """Send finished results, and what the tasks wrote (main thread, between tasks)."""
        if self._forwarder.pending:
            self._forwarder.flush()
        self._send_results()
        if self._growth is not None and self._growth.exceeded():
            self._mailbox.tell_driver(WorkerGrown())

    def flush_early(self) -> None:
        """Send finished results and finished lines, while a task runs (watch thread)."""
        if self._forwarder.pending:
            self._forwarder.flush(unfinished=False)
        self._send_results()

    def _send_results(self) -> None:
        mailbox = self._mailbox
        done = self._done
        if not done and not mailbox.unpinned:
            return
        with self._flush_lock:
            count = len(done)
            if count:
                # The main thread may append meanwhile.
                results = done[:count]
                del done[:count]
                busy_s = self._busy_s
                crashpoints.reach("task.answering")
                mailbox.tell_driver(TasksDone(results, busy_s - self._reported_s))
                crashpoints.reach("task.answered")
                self._reported_s = busy_s
            if mailbox.unpinned:
                mailbox.send_unpinned()

    def on_long(self, attempt: int | None, for_s: float) -> None:
        """Tell the agent of a task that takes long (watch thread)."""
        lease = self._start.lease
        if attempt is None:
            self._mailbox.tell_agent(TaskEnded(lease))
        else:
            self._mailbox.tell_agent(TaskRuns(lease, for_s, self._retriable and attempt != self._once))

    def on_idle(self) -> None:
        """Give back memory that waits for its next use (watch thread)."""
        if self._store is not None:
            self._store.trim()

    def _may_gather(self) -> bool:
        return self.busy and not self._mailbox.watch_serves

    # -- forks ------------------------------------------------------------------------------------------------------

    def _in_forked_child(self) -> None:
        """A task forked: the child has the user's code to finish and nothing of the worker's business."""
        self._forked = self._mailbox.foreign = True
        self.running = 0
        self._forwarder.forget_in_child()
        self._watch.release_signal()
