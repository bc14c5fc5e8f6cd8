"""Dealing tasks out to the workers of a pool; a part of ``core``, and as free of I/O as that.

A worker has a *window*: the number of tasks it may hold, sent and not yet answered.  While the duration of tasks is
unknown or long the window is 1, so nothing waits behind a task that could run elsewhere.  Once tasks prove short, it
grows to about ``WINDOW_S`` worth of work, which keeps a worker busy while the driver's own program holds the
interpreter.  When a worker runs dry while another still holds a queue, the tail of that queue is *retracted*.
"""

from __future__ import annotations

import itertools
import math
from collections import deque

from distpool.driver import gangs
from distpool.driver.retracting import RETRACT_AFTER_S, Retractor
from distpool.driver.state import Effects, Failure, FailureKind, Group, Worker
from distpool.driver.task import Task
from distpool.wire.resources import Shape

#: Work, in seconds, that a worker may hold in advance when tasks are short.
WINDOW_S = 0.008
#: Tasks longer than this are never queued behind another.
LONG_S = 0.02
#: The most tasks, and the most bytes of arguments, in one worker's window and in one message.
WINDOW_TASKS = 2000
BATCH_BYTES = 1 << 20
#: So many tasks are looked at for one whose arguments are on the node of the worker that is free.
LOOK_AHEAD = 32
#: So many nodes are named to the scheduler as those where workers would be of most use.
MOST_NEAR = 8
#: Work, in seconds, that is worth a message of its own: spreading less over more workers costs more than it saves.
SPREAD_S = 0.0001
#: How long tasks may gather while others that are as short come back all the time.
GATHER_S = 0.005
#: For so long an idle worker is kept although others wait: about as long as it takes to have another.  A task that
#: submits a little again and again would otherwise pay for one each time.
KEEP_S = 0.03
#: How long after others have asked the same holds for workers that come to be idle.
GENEROUS_S = 0.5
#: How long a worker that was told to leave may take for its ``atexit`` functions.
LEAVE_GRACE_S = 5.0


class Dealer:
    """The groups of a pool, and which worker gets what (parameters as for ``PoolCore``).

    ``deadlines`` is the core's: what must happen when, by ``(kind, lease)``.
    """

    def __init__(
        self,
        slots: float,
        *,
        eager: bool,
        max_tasks_per_child: int,
        idle_timeout_s: float | None,
        deadlines: dict[tuple[str, str], float],
    ) -> None:
        self.groups: dict[Shape, Group] = {}
        self.max_tasks = max_tasks_per_child
        self.slots = slots
        self.eager = eager
        self._idle_timeout_s = idle_timeout_s
        self._deadlines = deadlines
        self.retractor = Retractor(self.groups, deadlines)
        self._next_attempt = 1
        #: So many workers fewer than the budget allows, because memory ran short.
        self.withheld = 0
        #: Until when idle workers are given back soon, because others wait for them.
        self.generous_until = 0.0

    def group(self, shape: Shape) -> Group:
        group = self.groups.get(shape)
        if group is None:
            group = self.groups[shape] = Group(shape)
        return group

    def most_workers(self, shape: Shape) -> int:
        most = int(self.slots / shape.num_cpus + 1e-9) if shape.num_cpus > 0 else int(self.slots)
        gang = max(1, shape.gang)
        if self.withheld and most >= gang:
            most = max(gang, most - self.withheld)
        return most - most % gang

    def refusal(self, shape: Shape) -> Failure | None:
        """Why no task of that shape can ever run, if it cannot."""
        if self.most_workers(shape) >= 1:
            return None
        cpus = shape.num_cpus * max(1, shape.gang)
        return Failure(FailureKind.INFEASIBLE, reason=f"it needs {cpus:g} CPUs, and its pool has {self.slots:g}")

    def shed(self, group: Group, effects: Effects) -> None:
        """Let idle workers go of which there are more than there may be since memory ran short."""
        if self.withheld:
            for worker in list(group.idle.values())[: max(0, self._surplus(group))]:
                self.dismiss(group, worker, effects)
            self.ask(group, effects, shrink=True)

    def _surplus(self, group: Group) -> int:
        staying = sum(1 for worker in group.workers.values() if not worker.leaving)
        return staying - self.most_workers(group.shape)

    def ask(self, group: Group, effects: Effects, shrink: bool = False) -> None:
        """Demand as many workers as there are tasks for, within the budget."""
        most = self.most_workers(group.shape)
        if group.demand >= most and not shrink:
            return
        if self.eager and group.shape == Shape():
            wanted = most
        else:
            staying = [worker for worker in group.workers.values() if not worker.leaving]
            busy = sum(1 for worker in staying if worker.in_flight or worker.stopping)
            wanted = busy + len(group.ready)
            wanted += -wanted % max(1, group.shape.gang)
            wanted = max(min(most, wanted), len(staying))
        if wanted > group.demand or (shrink and wanted < group.demand):
            group.demand = wanted
            effects.demand.append((group.shape, wanted))

    def ask_for_less(self, now: float, effects: Effects) -> None:
        """For a while there has been nothing to do for workers that are still to come: others may have them."""
        for group in self.groups.values():
            if not group.ready and all(len(worker.in_flight) < 2 for worker in group.workers.values()):
                self.ask(group, effects, shrink=True)

    def near(self, shape: Shape) -> tuple[str, ...]:
        """The nodes on which workers of this shape would find the arguments of tasks that wait, the best first."""
        homes: dict[str, int] = {}
        for task in itertools.islice(self.group(shape).ready, LOOK_AHEAD * MOST_NEAR):
            if task.home:
                homes[task.home] = homes.get(task.home, 0) + 1
        return tuple(sorted(homes, key=homes.__getitem__, reverse=True)[:MOST_NEAR]) if homes else ()

    def deal(self, group: Group, now: float, effects: Effects) -> None:
        if group.shape.gang:
            self._deal_to_gangs(group, now, effects)
            return
        while group.ready and group.idle:
            lease = self._idle_at(group, group.ready[0].home) or next(reversed(group.idle))
            # Nothing is given when nothing is left but tasks that were cancelled.
            if not self.give(group, group.idle[lease], now, effects) and group.ready:
                group.idle.pop(lease, None)
        if group.idle and not group.ready:
            self.retractor.watch(group, now)

    def give(self, group: Group, worker: Worker, now: float, effects: Effects) -> int:
        """Send a worker as many tasks as its window has room for; returns how many."""
        if group.shape.gang:
            return 0  # these are given to all workers of a gang at once
        if worker.leaving or worker.wanted or worker.exclusive or worker.stopping or worker.exit is not None:
            return 0
        in_flight = worker.in_flight
        ready = group.ready
        room = self.window(group) - len(in_flight)
        if room <= 0 or (in_flight and now - worker.last_progress > RETRACT_AFTER_S):
            return 0
        share = -(-len(ready) // max(1, len(group.workers)))
        if 0 < group.task_s < SPREAD_S:
            share = max(share, int(SPREAD_S / group.task_s))
        room = min(room, share)
        if self.max_tasks:
            room = min(room, self.max_tasks - worker.tasks_given)
        batch: list[Task] = []
        size = 0
        attempt = self._next_attempt
        while room > 0 and ready:
            task = ready[0]
            if task.withdrawn:
                ready.popleft()
                continue
            if task.home and task.home != worker.node:
                task = _bring_forward(ready, worker.node)
            if task.deaths and not worker.answered:
                break  # if it dies of this task, it shall be known to have started (``PoolCore.on_set_up``)
            if task.alone:
                if in_flight:
                    break
                worker.exclusive = True
                room = 1
            ready.popleft()
            message = task.message
            message.attempt = attempt
            in_flight[attempt] = task
            attempt += 1
            batch.append(task)
            size += len(message.payload)
            room -= 1
            if size > BATCH_BYTES:
                break
        if not batch:
            return 0
        self._next_attempt = attempt
        if len(in_flight) == len(batch):
            worker.last_progress = now
        worker.tasks_given += len(batch)
        group.idle.pop(worker.lease, None)
        if self._deadlines:
            self._deadlines.pop(("idle", worker.lease), None)
        if worker.exclusive and batch[0].timeout_s is not None:
            self._deadlines[("task", worker.lease)] = now + batch[0].timeout_s
        effects.send.append((worker, batch))
        return len(batch)

    def give_single(self, task: Task, now: float) -> Worker | None:
        """The short way of ``ask`` and ``deal`` for a task to which nothing out of the ordinary applies: the worker
        that is to be sent it, or None, and then nothing has changed."""
        group = self.groups.get(task.shape)
        if group is None or group.ready or not group.idle or group.flowing or group.demand < len(group.workers):
            return None
        worker = next(reversed(group.idle.values()))
        if task.timeout_s is not None or task.call is not None or task.withdrawn:
            return None
        if task.home not in ("", worker.node):
            return None
        if worker.leaving or worker.wanted or worker.exclusive or worker.stopping or worker.exit is not None:
            return None
        attempt = task.message.attempt = self._next_attempt
        self._next_attempt = attempt + 1
        worker.in_flight[attempt] = task
        worker.exclusive = task.alone
        worker.last_progress = now
        worker.tasks_given += 1
        del group.idle[worker.lease]
        if self._deadlines:
            self._deadlines.pop(("idle", worker.lease), None)
        self.note_sent(group, now)
        return worker

    def take_back_single(self, worker: Worker, attempt: int, took_s: float, now: float) -> Task | None:
        """The short way of ``after_answer`` and ``note_flow`` when the only task that is under way has ended: the task,
        or None, and then nothing has changed."""
        group = self.groups[worker.shape]
        if worker.leaving or worker.wanted or worker.stopping or worker.exit is not None or worker.gang:
            return None
        if group.ready or self.max_tasks or self.withheld or len(worker.in_flight) != 1:
            return None
        if group.demand > len(group.workers):
            return None
        task = worker.in_flight.get(attempt)
        if task is None or task.made is not None:
            return None
        del worker.in_flight[attempt]
        group.note_duration(took_s, 1, now)
        group.flowing = False
        if worker.exclusive:
            worker.exclusive = False
            self._deadlines.pop(("task", worker.lease), None)
        worker.last_progress = now
        group.idle[worker.lease] = worker
        self.note_idle_worker(worker, now)
        return task

    def window(self, group: Group) -> int:
        each = group.task_s
        if not each or each > LONG_S:
            return 1
        return max(2, min(WINDOW_TASKS, int(WINDOW_S / each)))

    def after_answer(self, group: Group, worker: Worker, now: float, effects: Effects) -> None:
        if worker.in_flight:
            if worker.wanted:
                self.retractor.all_but_first(worker, effects)
            elif group.ready and len(worker.in_flight) <= self.window(group) // 2:
                self.give(group, worker, now, effects)
            return
        if worker.stopping:
            return
        if worker.exclusive:
            worker.exclusive = False
            self._deadlines.pop(("task", worker.lease), None)
        if worker.leaving or worker.exit is not None:
            return
        if worker.wanted or (self.max_tasks and worker.tasks_given >= self.max_tasks):
            self.dismiss(group, worker, effects)
            return
        if self.withheld and not group.shape.gang and self._surplus(group) > 0:
            self.dismiss(group, worker, effects)
            self.ask(group, effects, shrink=True)
            return
        if group.ready and self.give(group, worker, now, effects):
            return
        group.idle[worker.lease] = worker
        self.note_idle_worker(worker, now)
        self.retractor.watch(group, now)
        if group.demand > len(group.workers):
            self._deadlines[("demand", "")] = now + KEEP_S
        if group.shape.gang:
            self._deal_to_gangs(group, now, effects)

    def note_flow(self, group: Group, now: float) -> None:
        """Answers came: let tasks gather, rather than send each to a worker that is idle, if they take less time than a
        message and further answers are on their way."""
        spare = group.idle or group.demand < self.most_workers(group.shape)
        short, until = 0 < group.task_s < SPREAD_S, group.answered_at + GATHER_S
        group.flowing = bool(spare) and short and len(group.idle) < len(group.workers) and now < until
        if group.flowing:
            self._deadlines[("gather", "")] = until

    def note_sent(self, group: Group, now: float) -> None:
        """The same when tasks were sent and several workers are busy."""
        if not group.flowing and len(group.workers) - len(group.idle) > 1:
            self.note_flow(group, now)

    def end_flow(self, now: float, effects: Effects) -> None:
        """No answer has come for a while: send at once again."""
        for group in self.groups.values():
            group.flowing = False

    def note_idle_worker(self, worker: Worker, now: float) -> None:
        """A worker has nothing to do: see that it is given back when that has lasted."""
        timeout_s = self._idle_timeout_s
        if now < self.generous_until and (timeout_s is None or timeout_s > KEEP_S):
            timeout_s = KEEP_S
        if timeout_s is not None and not worker.in_flight:
            self._deadlines[("idle", worker.lease)] = now + timeout_s

    def give_back_idle(self, now: float, effects: Effects, lasting: bool) -> None:
        """Others wait for workers: let those go that have had nothing to do for a moment; if the others have waited for
        long, soon the rest, too."""
        if lasting:
            self.generous_until = now + GENEROUS_S
        for group in self.groups.values():
            if group.ready:
                continue
            for worker in list(group.idle.values()):
                if now >= worker.last_progress + KEEP_S:
                    self.dismiss(group, worker, effects)
                elif lasting:
                    due = ("idle", worker.lease)
                    self._deadlines[due] = min(worker.last_progress + KEEP_S, self._deadlines.get(due, math.inf))
            self.ask(group, effects, shrink=True)

    def release(self, group: Group, worker: Worker, effects: Effects) -> None:
        """Give a worker back when the task that it runs has ended; what it holds besides goes elsewhere."""
        if worker.leaving or worker.wanted or worker.exit is not None:
            return
        if worker.in_flight or worker.stopping:
            worker.wanted = True
            self.retractor.all_but_first(worker, effects)
        else:
            self.dismiss(group, worker, effects)

    def requeue(self, group: Group, tasks: list[Task], effects: Effects) -> None:
        tasks = [task for task in tasks if not task.withdrawn]
        group.ready.extendleft(reversed(tasks))
        effects.requeued.extend(tasks)

    def top_up(self, now: float, effects: Effects) -> None:
        """Fill every worker's window (the shell calls this when many tasks have gathered)."""
        for group in self.groups.values():
            if group.ready:
                for worker in group.workers.values():
                    if not group.ready:
                        break
                    self.give(group, worker, now, effects)

    def dismiss(self, group: Group, worker: Worker, effects: Effects) -> None:
        """Let a worker go in peace."""
        worker.leaving = True
        group.idle.pop(worker.lease, None)
        self._deadlines.pop(("idle", worker.lease), None)
        effects.leave.append(worker)
        effects.give_back.append((worker, LEAVE_GRACE_S, False))
        for other in gangs.others_of(group, worker) if worker.gang else ():
            self.release(group, other, effects)

    def _deal_to_gangs(self, group: Group, now: float, effects: Effects) -> None:
        while (gang := gangs.idle_gang(group)) is not None and (call := gangs.next_call(group)) is not None:
            for worker, task in zip(gang, call, strict=True):
                task.message.attempt = self._next_attempt
                self._next_attempt += 1
                worker.in_flight[task.message.attempt] = task
                worker.exclusive = True
                worker.last_progress = now
                worker.tasks_given += 1
                del group.idle[worker.lease]
                self._deadlines.pop(("idle", worker.lease), None)
                if task.timeout_s is not None:
                    self._deadlines[("task", worker.lease)] = now + task.timeout_s
                effects.send.append((worker, [task]))

    @staticmethod
    def _idle_at(group: Group, node: str) -> str:
        """An idle worker on ``node``, if there is one; the one that was idle last, since its caches are warm."""
        if not node:
            return ""
        return next((lease for lease, worker in reversed(group.idle.items()) if worker.node == node), "")


def _bring_forward(ready: deque[Task], node: str) -> Task:
    """Put the first task that runs well on ``node``, of the next few, before the others; returns the first."""
    for number, task in enumerate(itertools.islice(ready, LOOK_AHEAD)):
        if task.home in ("", node) and not task.withdrawn:
            del ready[number]
            ready.appendleft(task)
            break
    return ready[0]
