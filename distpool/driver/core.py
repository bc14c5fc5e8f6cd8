"""The driver's decisions for one pool: which task goes to which worker, when, and what follows when one is lost.

No I/O, no thread, no clock: the shell (``distpool.driver.shell``) reports what happened through the ``on_...`` methods,
each of which takes the time and fills an ``Effects`` value with everything that must now be done.  How tasks are dealt
out is in ``distpool.driver.dealing``, how they are ended in ``stopping``, what follows from losses in ``losing``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

from distpool.driver import gangs
from distpool.driver.dealing import LEAVE_GRACE_S, Dealer
from distpool.driver.losing import TERMINATE_GRACE_S, Losses
from distpool.driver.state import Effects, Failure, FailureKind, Group, PoolState, Worker, WorkerExit
from distpool.driver.stopping import Stopper
from distpool.driver.task import Task
from distpool.wire.resources import Shape
from distpool.wire.worker_to_driver import Result


class PoolCore:
    """See the module's description.

    :param slots: the pool's budget: the sum of ``num_cpus`` of its workers.
    :param eager: ask for all workers at once rather than as tasks come.
    :param initialized: workers have an initializer; an eager pool that is closed without a task runs it all the same.
    :param strict: a worker that dies breaks the pool, as in ``ProcessPoolExecutor``.
    :param max_tasks_per_child: a worker leaves after so many tasks (0: never).
    :param idle_timeout_s: idle workers are given back after this time (``None``: kept).
    """

    def __init__(
        self,
        slots: float,
        *,
        eager: bool = False,
        initialized: bool = False,
        strict: bool = False,
        max_tasks_per_child: int = 0,
        idle_timeout_s: float | None = None,
    ) -> None:
        self.state = PoolState(awaits_set_up=eager and initialized)
        self._dealer = Dealer(
            slots,
            eager=eager,
            max_tasks_per_child=max_tasks_per_child,
            idle_timeout_s=idle_timeout_s,
            deadlines=self.state.deadlines,
        )
        self._stopper = Stopper(self.state, self._dealer)
        self._losses = Losses(self.state, self._dealer, strict)
        self.workers, self.groups = self.state.workers, self._dealer.groups
        #: Those that concern no worker in particular.
        self._on_pool_deadline: dict[str, Callable[[float, Effects], None]] = {
            "retract": self._dealer.retractor.look,
            "gather": self._dealer.end_flow,
            "demand": self._dealer.ask_for_less,
            "memory": self._losses.grow_bolder,
        }
        if eager:
            self._dealer.group(Shape())

    # -- what the shell asks before it bothers ------------------------------------------------------------------

    @property
    def outstanding(self) -> int:
        """Tasks accepted and not yet settled."""
        return self.state.outstanding

    @property
    def closing(self) -> bool:
        """Whether ``on_closed`` was called."""
        return self.state.closing

    @property
    def hungry(self) -> bool:
        """Whether a worker has nothing to do, or more tasks (of known shapes) would get more workers: send at once."""
        if self.state.closing or self.state.broken:
            return True
        # Asked after every event, so without the cost of a generator.
        for group in self.groups.values():
            if not group.flowing and (group.idle or group.demand < self._dealer.most_workers(group.shape)):
                return True
        return not self.groups

    @property
    def starving(self) -> bool:
        """Whether there are tasks to run and no worker runs any."""
        return bool(self.state.outstanding) and not any(worker.in_flight for worker in self.workers.values())

    @property
    def over(self) -> bool:
        """Whether the pool was closed and nothing of it is left."""
        state = self.state
        return state.closing and not self.workers and not state.outstanding and not state.awaits_set_up

    @property
    def demanded(self) -> int:
        """How many workers have been asked for."""
        return sum(group.demand for group in self._dealer.groups.values())

    def unsettled(self) -> list[Task]:
        """Tasks accepted and not yet settled."""
        return [task for group in self._dealer.groups.values() for task in group.unsettled()]

    def unsent(self) -> list[Task]:
        """Tasks that no worker has."""
        return [task for group in self._dealer.groups.values() for task in group.ready if not task.withdrawn]

    def next_deadline(self) -> float | None:
        """When ``on_time`` must be called at the latest."""
        return min(self.state.deadlines.values(), default=None)

    # -- events -------------------------------------------------------------------------------------------------

    def on_opened(self, now: float, effects: Effects) -> None:
        """The pool was announced to the scheduler (again, if the scheduler was lost)."""
        for group in self._dealer.groups.values():
            group.demand = 0
            self._dealer.ask(group, effects)
        for worker in self.workers.values():
            if worker.leaving and worker.exit is None:
                # That it was given back may be lost as well.
                effects.give_back.append((worker, LEAVE_GRACE_S, False))

    def on_submitted(self, tasks: Iterable[Task], now: float, effects: Effects) -> None:
        """New tasks whose dependencies are all there."""
        touched: dict[Shape, Group] = {}
        # Most have the shape of the one before them, and a shape takes long to hash.
        shape: Shape | None = None
        for task in tasks:
            if task.withdrawn:
                continue
            if task.shape is not shape:
                shape = task.shape
                ended = Failure(FailureKind.ENDED) if self.over else None
                refusal = self.state.broken or ended or self._dealer.refusal(shape)
                if refusal is None:
                    group = touched[shape] = self._dealer.group(shape)
            self.state.outstanding += 1
            if refusal is None:
                group.ready.append(task)
            else:
                self.state.fail(task, refusal, effects)
        for group in touched.values():
            self._dealer.ask(group, effects)
            self._dealer.deal(group, now, effects)
            self._dealer.note_sent(group, now)
        self._dismiss_when_done(effects)

    def on_granted(self, worker: Worker, now: float, effects: Effects) -> None:
        """A worker is ours; its set-up is on its way to it, tasks may follow at once."""
        group = self._dealer.group(worker.shape)
        self.workers[worker.lease] = worker
        group.workers[worker.lease] = worker
        if self.state.broken is not None:
            effects.give_back.append((worker, TERMINATE_GRACE_S, True))
            worker.leaving = True
            return
        if self.state.closing and not group.ready and not self.state.awaits_set_up:
            self._dealer.dismiss(group, worker, effects)
            self._dealer.ask(group, effects, shrink=True)
            return
        worker.last_progress = now
        group.idle[worker.lease] = worker
        self._dealer.shed(group, effects)
        self._dealer.deal(group, now, effects)
        if not worker.leaving:
            self._dealer.note_idle_worker(worker, now)
        self._dismiss_when_done(effects)

    def on_set_up(self, lease: str, now: float, effects: Effects) -> None:
        """The worker's initializer returned."""
        worker = self.workers.get(lease)
        if worker is not None:
            worker.answered = True
            self._losses.on_started()
            group = self._dealer.groups[worker.shape]
            if not worker.in_flight and (group.ready or lease not in group.idle):
                self._dealer.after_answer(group, worker, now, effects)
            if self.state.awaits_set_up:
                self._losses.await_no_set_up()
                self._dismiss_when_done(effects)

    def on_set_up_failed(self, lease: str, failure: Failure, now: float, effects: Effects) -> None:
        """The worker's initializer raised: it would in every other worker, too."""
        if lease in self.workers:
            self._losses.break_pool(failure, effects)
            self._dismiss_when_done(effects)

    def on_results(self, lease: str, results: list[Result], busy_s: float, now: float, effects: Effects) -> None:
        """A batch of answers.  Those of attempts that are not in flight are late, and dropped."""
        worker = self.workers.get(lease)
        if worker is None:
            effects.late += results
            return
        worker.answered = True
        worker.last_progress = now
        in_flight = worker.in_flight
        finished = effects.finished
        count = 0
        for result in results:
            task = in_flight.pop(result.attempt, None)
            if task is not None:
                count += 1
                if result.lost and task.call is None:
                    effects.input_lost.append((task, result))
                    continue
                finished.append((task, result))
                if task.call is None:
                    effects.let_go.append(task)
                else:
                    self._stopper.on_part_finished(task, result, now, effects)
            else:
                effects.late.append(result)
                self._stopper.let_go(worker, result.attempt, effects)
        self.state.outstanding -= count
        group = self._dealer.groups[worker.shape]
        if count:
            group.note_duration(busy_s, len(results), now)
        self._dealer.after_answer(group, worker, now, effects)
        self._dealer.note_flow(group, now)
        self._dismiss_when_done(effects)

    def on_single(self, task: Task, now: float) -> Worker | None:
        """A new task, for which no worker need be asked: the one that is to be sent it at once.  None: nothing has been
        decided, and ``on_submitted`` must hear of it."""
        if self.state.closing or self.state.broken is not None or task.withdrawn:
            return None
        worker = self._dealer.give_single(task, now)
        if worker is not None:
            self.state.outstanding += 1
        return worker

    def on_single_result(self, lease: str, attempt: int, busy_s: float, now: float) -> Task | None:
        """The only task that is under way has ended, and nothing follows from it: the task.  None: nothing has been
        decided, and ``on_results`` must hear of it."""
        worker = self.workers.get(lease)
        if worker is None or self.state.outstanding != 1 or self.state.closing:
            return None
        task = self._dealer.take_back_single(worker, attempt, busy_s, now)
        if task is not None:
            worker.answered = True
            self.state.outstanding = 0
        return task

    def on_retracted(self, lease: str, attempts: list[int], now: float, effects: Effects) -> None:
        """A worker gave these attempts back without having started them."""
        worker = self.workers.get(lease)
        if worker is None:
            return
        worker.retracting = False
        group = self._dealer.groups[worker.shape]
        back = []
        for attempt in attempts:
            task = worker.in_flight.pop(attempt, None)
            if task is not None:
                back.append(task)
            else:
                self._stopper.let_go(worker, attempt, effects)
        worker.tasks_given -= len(back)
        self._dealer.requeue(group, back, effects)
        self._dealer.deal(group, now, effects)
        self._dealer.after_answer(group, worker, now, effects)

    def on_ended(self, lease: str, exit: WorkerExit, now: float, effects: Effects) -> None:
        """Word came that a worker is gone."""
        worker = self.workers.get(lease)
        if worker is not None:
            self._losses.on_ended(worker, exit, now, effects)
            self._dismiss_when_done(effects)

    def on_silent(self, lease: str, now: float, effects: Effects) -> None:
        """All that a worker said has been heard: it is ending, or dead."""
        worker = self.workers.get(lease)
        if worker is not None:
            self._losses.on_silent(worker, now, effects)
            self._dismiss_when_done(effects)

    def on_start_failed(self, shape: Shape, exit: WorkerExit, now: float, effects: Effects) -> None:
        """A worker that was asked for never came up: it failed, or (no reason given) was no longer wanted."""
        if exit.reason and not exit.lost:
            self._losses.on_failed_start(exit, effects)
            self._dismiss_when_done(effects)

    def on_infeasible(self, shape: Shape, reason: str, now: float, effects: Effects) -> None:
        """The scheduler says that no node can ever run a worker of this shape."""
        group = self._dealer.group(shape)
        group.demand = 0
        self._losses.await_no_set_up()
        for task in group.ready:
            if not task.withdrawn:
                self.state.fail(task, Failure(FailureKind.INFEASIBLE, reason=reason), effects)
        group.ready.clear()
        self._dismiss_when_done(effects)

    def on_reclaim(
        self, now: float, effects: Effects, excess: int = 0, parents: Collection[str] = (), lasting: bool = True
    ) -> None:
        """Others wait for workers (see ``scheduler_to_driver.ReclaimIdle``): give back those that have been idle for a
        moment; if that is ``lasting``, for a while also those that come to be, and of the busy ones so many as are
        above the fair share, but for the ``parents`` of nested work."""
        self._dealer.give_back_idle(now, effects, lasting)
        living = [worker for worker in self.workers.values() if worker.exit is None]
        staying = [worker for worker in living if not worker.leaving and not worker.wanted]
        eligible = [worker for worker in staying if worker.lease not in parents]
        for worker in eligible[: max(0, excess - (len(living) - len(staying)))]:
            self._dealer.release(self._dealer.groups[worker.shape], worker, effects)

    def on_lease_wanted(self, lease: str, now: float, effects: Effects) -> None:
        """The worker has grown too large, or its node leaves: give it back when the task that it runs has ended."""
        worker = self.workers.get(lease)
        if worker is not None:
            self._dealer.release(self._dealer.groups[worker.shape], worker, effects)

    def near(self, shape: Shape) -> tuple[str, ...]:
        """Where workers of this shape would be of most use."""
        return self._dealer.near(shape)

    def on_withdrawn(self, task: Task, effects: Effects) -> None:
        """A task that has not been sent is cancelled; the shell settles its future."""
        for part in gangs.parts(task):
            part.withdrawn = True
            self.state.outstanding -= 1
        self._dismiss_when_done(effects)

    def on_killed(self, task: Task, now: float, effects: Effects) -> None:
        """A task is to end now, wherever it is."""
        for part in gangs.parts(task):
            self._stopper.stop(part, Failure(FailureKind.KILLED), now, effects)
        self._dismiss_when_done(effects)

    def on_closed(self, now: float, effects: Effects) -> None:
        """No more tasks will come; workers leave when the last one is done."""
        self.state.closing = True
        if not self.state.awaits_set_up:
            # Those that leave from now on are replaced only if there is work for them.
            self._dealer.eager = False
        self._dismiss_when_done(effects)

    def on_broken(self, failure: Failure, now: float, effects: Effects) -> None:
        """The pool is over: every task fails, every worker ends."""
        self._losses.break_pool(failure, effects)
        self._dismiss_when_done(effects)

    def on_time(self, now: float, effects: Effects) -> None:
        """A deadline has come."""
        for key in [key for key, at in self.state.deadlines.items() if at <= now]:
            if self.state.deadlines.pop(key, None) is None:
                continue
            kind, lease = key
            if kind in self._on_pool_deadline:
                self._on_pool_deadline[kind](now, effects)
                continue
            worker = self.workers.get(lease)
            if worker is None:
                continue
            if kind == "ended":
                self._losses.bury(worker, now, effects)
            elif kind == "task":
                for task in list(worker.in_flight.values()):
                    self._stopper.stop(task, Failure(FailureKind.TIMED_OUT), now, effects)
            elif kind == "stopping":
                self._losses.on_unheeded(worker, effects)
            elif kind == "idle":
                group = self._dealer.groups[worker.shape]
                if lease in group.idle and not group.ready:
                    self._dealer.dismiss(group, worker, effects)
                    self._dealer.ask(group, effects, shrink=True)
        self._dismiss_when_done(effects)

    def top_up(self, now: float, effects: Effects) -> None:
        """Fill every worker's window (the shell calls this when many tasks have gathered)."""
        self._dealer.top_up(now, effects)

    def _dismiss_when_done(self, effects: Effects) -> None:
        if self.state.outstanding or not self.state.closing or self.state.awaits_set_up:
            return
        for group in self._dealer.groups.values():
            for worker in list(group.workers.values()):
                if not worker.leaving and worker.exit is None and not worker.stopping:
                    self._dealer.dismiss(group, worker, effects)
            if group.demand:
                group.demand = 0
                effects.demand.append((group.shape, 0))

    # -- for tests ----------------------------------------------------------------------------------------------

    def check_invariants(self) -> None:
        """Raise ``AssertionError`` when the state contradicts itself."""
        attempts: list[int] = []
        for group in self._dealer.groups.values():
            group.check_invariants()
            for worker in group.workers.values():
                assert self.workers[worker.lease] is worker
                attempts += worker.in_flight
        assert len(attempts) == len(set(attempts)), "one attempt at two workers"
        unsettled, counted = len(self.unsettled()), self.state.outstanding
        assert unsettled == counted, f"{unsettled} tasks held, {counted} counted"
