"""The driver's decisions for one pool: which task goes to which worker, when, and what follows when one is lost.

No I/O, no thread, no clock: the shell (``distpool.driver.pool``) reports what happened through the ``on_...`` methods,
each of which takes the time and fills an ``Effects`` value with everything that must now be done.  How tasks are dealt
out is in ``distpool.driver.dealing``.

What happens when a worker dies
-------------------------------
Results return in batches, so after a death it is unknown which of the tasks in flight had run.  Each of them is
charged an attempt, and goes back to the queue marked ``alone``: from then on it meets workers by itself, so a task
that kills every worker is found out without taking its neighbours with it.  Tasks that may not run twice are
``alone`` from the start.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from distpool.driver import gangs
from distpool.driver.dealing import LEAVE_GRACE_S, Dealer
from distpool.driver.state import Effects, Failure, FailureKind, Group, Worker, WorkerExit
from distpool.driver.task import Task
from distpool.wire.resources import Shape
from distpool.wire.worker_to_driver import OK, Result

#: Answers of a worker may still be under way when word of its death comes by another route.
LAST_WORDS_S = 0.005
#: How long after the scheduler's asking workers that become idle are given back at once.
GENEROUS_S = 0.5
#: How long an interrupted task may take to end before its worker is terminated, and then before it is killed.
INTERRUPT_GRACE_S = 1.0
TERMINATE_GRACE_S = 1.0
_UNHEEDED = "it was ended because a task on it did not stop when told to"
#: So many workers in a row that end before they could run anything break the pool.
FAILED_STARTS = 3
#: How long one worker fewer works after memory ran short.
MEMORY_CAUTION_S = 30.0


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
        self._strict = strict
        self._deadlines: dict[tuple[str, str], float] = {}
        self._dealer = Dealer(
            slots,
            eager=eager,
            max_tasks_per_child=max_tasks_per_child,
            idle_timeout_s=idle_timeout_s,
            deadlines=self._deadlines,
        )
        self._failed_starts = 0
        #: The initializer has not run anywhere yet, and is to.  Where one worker is to be had, all that have been
        #: granted by then run it; a cluster may not have them all, so their number is not waited for.
        self._awaits_set_up = eager and initialized
        self.workers: dict[str, Worker] = {}
        self.outstanding = 0
        """Tasks accepted and not yet settled."""
        self.closing = False
        self.broken: Failure | None = None
        if eager:
            self._dealer.group(Shape())

    # -- what the shell asks before it bothers ------------------------------------------------------------------

    @property
    def hungry(self) -> bool:
        """Whether a worker has nothing to do, or the pool wants more workers for more tasks: send at once."""
        if self.closing or self.broken:
            return True
        groups = self._dealer.groups
        # Asked after every event, so without the cost of a generator.
        for group in groups.values():
            if not group.flowing and (group.idle or group.demand < self._dealer.most_workers(group.shape)):
                return True
        return not groups

    @property
    def starving(self) -> bool:
        """Whether there are tasks to run and no worker runs any."""
        return bool(self.outstanding) and not any(worker.in_flight for worker in self.workers.values())

    @property
    def over(self) -> bool:
        """Whether the pool was closed and nothing of it is left."""
        return self.closing and not self.workers and not self.outstanding and not self._awaits_set_up

    @property
    def demanded(self) -> int:
        """How many workers have been asked for."""
        return sum(group.demand for group in self._dealer.groups.values())

    def unsettled(self) -> list[Task]:
        """Tasks accepted and not yet settled."""
        return [task for group in self._dealer.groups.values() for task in self._unsettled(group)]

    def unsent(self) -> list[Task]:
        """Tasks that no worker has."""
        return [task for group in self._dealer.groups.values() for task in group.ready if not task.withdrawn]

    def next_deadline(self) -> float | None:
        """When ``on_time`` must be called at the latest."""
        return min(self._deadlines.values()) if self._deadlines else None

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
        for task in tasks:
            if task.withdrawn:
                continue
            self.outstanding += 1
            if self.broken is not None:
                self._fail(task, self.broken, effects)
                continue
            group = self._dealer.group(task.shape)
            if self._dealer.most_workers(task.shape) < 1:
                cpus = task.shape.num_cpus * max(1, task.shape.gang)
                reason = f"it needs {cpus:g} CPUs, and its pool has {self._dealer.slots:g}"
                self._fail(task, Failure(FailureKind.INFEASIBLE, reason=reason), effects)
                continue
            group.ready.append(task)
            touched[task.shape] = group
        for group in touched.values():
            self._dealer.ask(group, effects)
            self._dealer.deal(group, now, effects)
        self._dismiss_when_done(effects)

    def on_granted(self, worker: Worker, now: float, effects: Effects) -> None:
        """A worker is ours; its set-up is on its way to it, tasks may follow at once."""
        group = self._dealer.group(worker.shape)
        self.workers[worker.lease] = worker
        group.workers[worker.lease] = worker
        if self.broken is not None:
            effects.give_back.append((worker, TERMINATE_GRACE_S, True))
            worker.leaving = True
            return
        if self.closing and not group.ready and not self._awaits_set_up:
            self._dealer.dismiss(group, worker, effects)
            self._dealer.ask(group, effects, shrink=True)
            return
        worker.last_progress = now
        group.idle[worker.lease] = worker
        self._dealer.shed(group, effects)
        self._dealer.deal(group, now, effects)
        if not worker.leaving:
            self._dealer.note_idle_worker(worker, now)

    def on_set_up(self, lease: str, now: float, effects: Effects) -> None:
        """The worker's initializer returned."""
        worker = self.workers.get(lease)
        if worker is not None:
            worker.answered = True
            self._failed_starts = 0
            if self._awaits_set_up:
                self._await_no_set_up()
                self._dismiss_when_done(effects)

    def on_set_up_failed(self, lease: str, failure: Failure, now: float, effects: Effects) -> None:
        """The worker's initializer raised: it would in every other worker, too."""
        if lease in self.workers:
            self._break(failure, effects)

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
                    self._on_part_finished(task, result, now, effects)
            else:
                effects.late.append(result)
                self._let_go(worker, result.attempt, effects)
        self.outstanding -= count
        group = self._dealer.groups[worker.shape]
        if count:
            each = busy_s / len(results)
            known = group.task_s
            group.task_s = each if not known else 0.3 * known + 0.7 * each
        self._dealer.after_answer(group, worker, now, effects)
        self._dealer.note_flow(group, now)
        self._dismiss_when_done(effects)

    def on_single(self, task: Task, now: float) -> Worker | None:
        """A new task, for which no worker need be asked: the one that is to be sent it at once.  None: nothing has been
        decided, and ``on_submitted`` must hear of it."""
        if self.closing or self.broken is not None:
            return None
        worker = self._dealer.give_single(task, now)
        if worker is not None:
            self.outstanding += 1
        return worker

    def on_single_result(self, lease: str, attempt: int, busy_s: float, now: float) -> Task | None:
        """The only task that is under way has ended, and nothing follows from it: the task.  None: nothing has been
        decided, and ``on_results`` must hear of it."""
        worker = self.workers.get(lease)
        if worker is None or self.outstanding != 1 or self.closing:
            return None
        task = self._dealer.take_back_single(worker, attempt, busy_s, now)
        if task is not None:
            worker.answered = True
            self.outstanding = 0
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
                self._let_go(worker, attempt, effects)
        worker.tasks_given -= len(back)
        self._dealer.requeue(group, back, effects)
        self._dealer.deal(group, now, effects)
        self._dealer.after_answer(group, worker, now, effects)

    def on_ended(self, lease: str, exit: WorkerExit, now: float, effects: Effects) -> None:
        """Word came that a worker is gone.  Its last answers may still be on their way."""
        worker = self.workers.get(lease)
        if worker is None:
            return
        worker.exit = exit
        self._dealer.groups[worker.shape].idle.pop(lease, None)
        if worker.in_flight and not worker.leaving:
            self._deadlines[("ended", lease)] = now + LAST_WORDS_S
        else:
            self._bury(worker, now, effects)

    def on_start_failed(self, shape: Shape, exit: WorkerExit, now: float, effects: Effects) -> None:
        """A worker that was asked for never came up: it failed, or (no reason given) was no longer wanted."""
        if exit.reason and not exit.lost:
            self._count_failed_start(exit, effects)

    def on_infeasible(self, shape: Shape, reason: str, now: float, effects: Effects) -> None:
        """The scheduler says that no node can ever run a worker of this shape."""
        group = self._dealer.group(shape)
        group.demand = 0
        self._await_no_set_up()
        while group.ready:
            self._fail(group.ready.popleft(), Failure(FailureKind.INFEASIBLE, reason=reason), effects)
        self._dismiss_when_done(effects)

    def on_reclaim(self, now: float, effects: Effects, excess: int = 0) -> None:
        """Others wait for workers: give back those that are idle, and for a while those that become idle; and of those
        that are busy so many as are above the fair share, when their tasks end."""
        self._dealer.generous_until = now + GENEROUS_S
        for group in self._dealer.groups.values():
            if not group.ready:
                for worker in list(group.idle.values()):
                    self._dealer.dismiss(group, worker, effects)
                self._dealer.ask(group, effects, shrink=True)
        living = [worker for worker in self.workers.values() if worker.exit is None]
        staying = [worker for worker in living if not worker.leaving and not worker.wanted]
        for worker in staying[: max(0, excess - (len(living) - len(staying)))]:
            self._dealer.release(self._dealer.groups[worker.shape], worker, effects)

    def on_lease_wanted(self, lease: str, now: float, effects: Effects) -> None:
        """The worker has grown too large, or its node leaves: give it back when the task that it runs has ended."""
        worker = self.workers.get(lease)
        if worker is not None:
            self._dealer.release(self._dealer.groups[worker.shape], worker, effects)

    def near(self, shape: Shape) -> tuple[str, ...]:
        """Where workers of this shape would be of most use."""
        return self._dealer.near(shape)

    def on_withdrawn(self, task: Task) -> None:
        """A task that has not been sent is cancelled; the shell settles its future."""
        for part in gangs.parts(task):
            part.withdrawn = True
            self.outstanding -= 1

    def on_killed(self, task: Task, now: float, effects: Effects) -> None:
        """A task is to end now, wherever it is."""
        for part in gangs.parts(task):
            self._stop_task(part, Failure(FailureKind.KILLED), now, effects)
        self._dismiss_when_done(effects)

    def on_closed(self, now: float, effects: Effects) -> None:
        """No more tasks will come; workers leave when the last one is done."""
        self.closing = True
        if not self._awaits_set_up:
            # Those that leave from now on are replaced only if there is work for them.
            self._dealer.eager = False
        self._dismiss_when_done(effects)

    def on_broken(self, failure: Failure, now: float, effects: Effects) -> None:
        """The pool is over: every task fails, every worker ends."""
        self._break(failure, effects)

    def on_time(self, now: float, effects: Effects) -> None:
        """A deadline has come."""
        for key in [key for key, at in self._deadlines.items() if at <= now]:
            at = self._deadlines.pop(key, None)
            if at is None:
                continue
            kind, lease = key
            if kind == "retract":
                self._dealer.retract(now, effects)
                continue
            if kind == "gather":
                self._dealer.end_flow()
                continue
            if kind == "memory":
                self._grow_bolder(now, effects)
                continue
            worker = self.workers.get(lease)
            if worker is None:
                continue
            if kind == "ended":
                self._bury(worker, now, effects)
            elif kind == "task":
                for task in list(worker.in_flight.values()):
                    self._stop_task(task, Failure(FailureKind.TIMED_OUT), now, effects)
            elif kind == "stopping":
                # It did not heed the interrupt.  What else it holds should not have started; but the way there may be
                # interrupted as well, and then nobody knows.
                group = self._dealer.groups[worker.shape]
                exit = WorkerExit(worker.pid, 0, _UNHEEDED, node=worker.node)
                self._charge(group, list(worker.in_flight.values()), exit, effects)
                worker.in_flight.clear()
                worker.leaving = True
                effects.give_back.append((worker, TERMINATE_GRACE_S, True))
            elif kind == "idle":
                group = self._dealer.groups[worker.shape]
                if lease in group.idle and not group.ready:
                    self._dealer.dismiss(group, worker, effects)
                    self._dealer.ask(group, effects, shrink=True)
        self._dismiss_when_done(effects)

    def top_up(self, now: float, effects: Effects) -> None:
        """Fill every worker's window (the shell calls this when many tasks have gathered)."""
        self._dealer.top_up(now, effects)

    # -- endings ------------------------------------------------------------------------------------------------

    def _await_no_set_up(self) -> None:
        self._awaits_set_up = False
        if self.closing:
            self._dealer.eager = False

    def _stop_task(self, task: Task, failure: Failure, now: float, effects: Effects) -> None:
        group = self._dealer.groups.get(task.shape)
        attempt = task.message.attempt
        for worker in group.workers.values() if group else ():
            if worker.in_flight.get(attempt) is not task:
                continue
            del worker.in_flight[attempt]
            worker.stopping[attempt] = task
            effects.retract.append((worker, [attempt]))
            effects.interrupt.append((worker, attempt))
            self._deadlines[("stopping", worker.lease)] = now + INTERRUPT_GRACE_S
            self.outstanding -= 1
            effects.failed.append((task, failure))
            return
        if not task.withdrawn:
            task.withdrawn = True
            self._fail(task, failure, effects)

    def _let_go(self, worker: Worker, attempt: int, effects: Effects) -> None:
        task = worker.stopping.pop(attempt, None)
        if task is not None:
            effects.let_go.append(task)
            if not worker.stopping:
                self._deadlines.pop(("stopping", worker.lease), None)

    def _bury(self, worker: Worker, now: float, effects: Effects) -> None:
        """A worker is gone for good: charge its tasks, or break the pool."""
        assert worker.exit is not None
        # What Python code wrote comes this way, what native code wrote comes with the report of the end.
        exit = msgspec.structs.replace(worker.exit, stderr_tail=worker.words + worker.exit.stderr_tail)
        group = self._dealer.groups[worker.shape]
        del self.workers[worker.lease]
        del group.workers[worker.lease]
        group.idle.pop(worker.lease, None)
        for kind in ("ended", "task", "stopping", "idle"):
            self._deadlines.pop((kind, worker.lease), None)
        tasks = list(worker.in_flight.values())
        worker.in_flight.clear()
        effects.let_go += worker.stopping.values()
        if worker.gang:
            tasks = self._break_up(group, worker, tasks, effects)
        if worker.leaving:
            # Its end was wanted; what it still held goes elsewhere, uncharged.
            self._dealer.requeue(group, tasks, effects)
        elif self._strict and exit.shortage != "task":
            self._dealer.requeue(group, tasks, effects)
            self._break(Failure(FailureKind.BROKEN, exit=exit), effects)
            return
        else:
            self._charge(group, tasks, exit, effects)
            # With a node that is lost go workers that had no chance to answer.
            if not worker.answered and not worker.stopping and not exit.lost:
                self._count_failed_start(exit, effects)
        if self.broken is None:
            if exit.shortage == "node":
                self._grow_careful(now)
            self._dealer.ask(group, effects)
            self._dealer.shed(group, effects)
            self._dealer.deal(group, now, effects)
        self._dismiss_when_done(effects)

    def _charge(self, group: Group, tasks: list[Task], exit: WorkerExit, effects: Effects) -> None:
        """These tasks may have run at a worker that did not answer: they run again if they may."""
        again = []
        kind = FailureKind.OUT_OF_MEMORY if exit.shortage else FailureKind.WORKER_DIED
        # More than it is allowed it would use again; of several it is unknown which it was.
        certain = exit.shortage == "task" and len(tasks) == 1
        for task in tasks:
            task.deaths += 1
            if certain or task.retries_left <= 0:
                self._fail(task, Failure(kind, exit=exit), effects)
            else:
                task.retries_left -= 1
                task.alone = True
                again.append(task)
        self._dealer.requeue(group, again, effects)

    def _grow_careful(self, now: float) -> None:
        """Memory ran short on a node: fewer tasks at once."""
        self._dealer.withheld += 1
        self._deadlines[("memory", "")] = now + MEMORY_CAUTION_S

    def _grow_bolder(self, now: float, effects: Effects) -> None:
        self._dealer.withheld -= 1
        if self._dealer.withheld:
            self._deadlines[("memory", "")] = now + MEMORY_CAUTION_S
        for group in self._dealer.groups.values():
            self._dealer.ask(group, effects)

    def _on_part_finished(self, task: Task, result: Result, now: float, effects: Effects) -> None:
        """A worker of a gang answered.  When it raised, the others could wait for it forever."""
        assert task.call is not None
        task.call.finished.add(task.rank)
        if result.status != OK:
            for part in task.call.unfinished:
                self._stop_task(part, Failure(FailureKind.KILLED), now, effects)

    def _break_up(self, group: Group, worker: Worker, tasks: list[Task], effects: Effects) -> list[Task]:
        tasks, others = gangs.break_up(group, worker, tasks)
        for other in others:
            if not other.leaving:
                other.leaving = True
                group.idle.pop(other.lease, None)
                for kind in ("task", "idle"):
                    self._deadlines.pop((kind, other.lease), None)
                if other.exit is None:
                    effects.give_back.append((other, TERMINATE_GRACE_S, True))
        call = tasks[0].call if tasks else None
        if call is not None:
            # What has been answered is to be done again.
            self.outstanding += len(call.finished)
            call.finished.clear()
        return tasks

    def _count_failed_start(self, exit: WorkerExit, effects: Effects) -> None:
        self._failed_starts += 1
        if self._failed_starts >= FAILED_STARTS:
            self._break(Failure(FailureKind.BROKEN, exit=exit), effects)

    def _fail(self, task: Task, failure: Failure, effects: Effects) -> None:
        self.outstanding -= 1
        effects.failed.append((task, failure))
        effects.let_go.append(task)

    def _break(self, failure: Failure, effects: Effects) -> None:
        if self.broken is not None:
            return
        self.broken = effects.broken = failure
        self._await_no_set_up()
        for group in self._dealer.groups.values():
            for task in self._unsettled(group):
                self._fail(task, failure, effects)
            group.ready.clear()
            group.idle.clear()
            for worker in group.workers.values():
                worker.in_flight.clear()
                if not worker.leaving and worker.exit is None:
                    worker.leaving = True
                    effects.give_back.append((worker, TERMINATE_GRACE_S, True))
            if group.demand:
                group.demand = 0
                effects.demand.append((group.shape, 0))
        # Not merely counted down: an interrupt in the middle of a handler may have lost count, and this is the way out.
        self.outstanding = 0
        self._dismiss_when_done(effects)

    def _unsettled(self, group: Group) -> Iterator[Task]:
        for worker in group.workers.values():
            yield from worker.in_flight.values()
        for task in group.ready:
            if not task.withdrawn:
                yield task

    def _dismiss_when_done(self, effects: Effects) -> None:
        if self.outstanding or not self.closing or self._awaits_set_up:
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
        seen: set[int] = set()
        unsettled = 0
        for group in self._dealer.groups.values():
            for worker in group.workers.values():
                assert self.workers[worker.lease] is worker
                assert (worker.lease in group.idle) <= (not worker.in_flight), "an idle worker holds tasks"
                assert not worker.exclusive or len(worker.in_flight) <= 1, "a task that must be alone is not"
                for attempt, task in worker.in_flight.items():
                    assert task.message.attempt == attempt
                    assert attempt not in seen, "one attempt at two workers"
                    seen.add(attempt)
                    unsettled += 1
            unsettled += sum(1 for task in group.ready if not task.withdrawn)
        assert unsettled == self.outstanding, f"{unsettled} tasks held, {self.outstanding} counted"
