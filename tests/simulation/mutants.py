"""Planted bugs: each breaks one rule of one core, in a simulation only.  A check that trips over none is no check."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from unittest import mock

import msgspec

from distpool.driver import dependencies
from distpool.driver.core import PoolCore
from distpool.driver.dealing import Dealer
from distpool.driver.lifeline import Lifeline
from distpool.driver.lineage import Lineage
from distpool.driver.losing import Losses
from distpool.driver.recovery import Recovery, StoredOutcome
from distpool.driver.stopping import Stopper
from distpool.node.core import AgentCore
from distpool.node.memory_core import MemoryCore
from distpool.scheduler.book import Book
from distpool.scheduler.desk import Desk
from distpool.scheduler.drivers import DriverSide
from distpool.scheduler.nodes import NodeSide
from distpool.scheduler.state import LeaseState
from distpool.store.core import StoreCore
from distpool.store.lifetimes import Lifetimes
from distpool.store.ownership import Ownership

#: What replaces a method, made of the method.
Make = Callable[[Any], Any]


class Mutant:
    """One planted bug.

    :param name: what is wrong.
    :param changes: the methods that are replaced: ``(owner, name, make)``.
    """

    def __init__(self, name: str, *changes: tuple[Any, str, Make]) -> None:
        self.name = name
        self._changes = changes

    def planted(self) -> ExitStack:
        """A context in which the bug is there."""
        stack = ExitStack()
        for owner, method, make in self._changes:
            stack.enter_context(mock.patch.object(owner, method, make(getattr(owner, method))))
        return stack


def _nothing(real: Any) -> Any:
    """The method does nothing."""
    return lambda *arguments, **keywords: None


# -- the driver's core --------------------------------------------------------------------------------------------


def _remember_lost(real: Any) -> Any:
    def bury(self: Any, worker: Any, now: float, effects: Any) -> None:
        known = {
            attempt: task for attempt, task in getattr(self, "lost_attempts", {}).items() if not task.future.done()
        }
        self.lost_attempts = {**known, **worker.in_flight}
        real(self, worker, now, effects)

    return bury


def _accept_late(real: Any) -> Any:
    def on_results(self: Any, lease: str, results: Any, busy_s: float, now: float, effects: Any) -> None:
        real(self, lease, results, busy_s, now, effects)
        for result in list(effects.late):
            task = getattr(self._losses, "lost_attempts", {}).pop(result.attempt, None)
            if task is not None and not task.future.done():
                effects.late.remove(result)
                effects.finished.append((task, result))

    return on_results


def _forget_lost(real: Any) -> Any:
    def on_closed(self: Any, now: float, effects: Any) -> None:
        self._losses.lost_attempts = {}  # what the bug needs to remember must not be what gives it away
        real(self, now, effects)

    return on_closed


def _match_by_worker(real: Any) -> Any:
    def on_results(self: Any, lease: str, results: Any, busy_s: float, now: float, effects: Any) -> None:
        worker = self.workers.get(lease)
        if worker is not None:
            for result, attempt in zip(results, list(worker.in_flight), strict=False):
                result.attempt = attempt
        real(self, lease, results, busy_s, now, effects)

    return on_results


def _charge(times: int) -> Make:
    def make(real: Any) -> Any:
        def charge(self: Any, group: Any, tasks: Any, exit: Any, effects: Any) -> None:
            for task in tasks:
                task.retries_left -= times - 1
            real(self, group, tasks, exit, effects)

        return charge

    return make


def _forget_retracted(real: Any) -> Any:
    def on_retracted(self: Any, lease: str, attempts: Any, now: float, effects: Any) -> None:
        worker = self.workers.get(lease)
        for attempt in attempts:
            if worker is not None and worker.in_flight.pop(attempt, None) is not None:
                self.state.outstanding -= 1
        real(self, lease, attempts, now, effects)

    return on_retracted


def _never_bury_by_time(real: Any) -> Any:
    def on_ended(self: Any, lease: str, exit: Any, now: float, effects: Any) -> None:
        real(self, lease, exit, now, effects)
        self.state.deadlines.pop(("ended", lease), None)

    return on_ended


def _drop_late(real: Any) -> Any:
    def on_results(self: Any, lease: str, results: Any, busy_s: float, now: float, effects: Any) -> None:
        real(self, lease, results, busy_s, now, effects)
        effects.late.clear()

    return on_results


def _no_grace_deadline(real: Any) -> Any:
    def stop(self: Any, task: Any, failure: Any, now: float, effects: Any) -> None:
        real(self, task, failure, now, effects)
        for key in [key for key in self._state.deadlines if key[0] == "stopping"]:
            del self._state.deadlines[key]

    return stop


def _let_go_too_early(real: Any) -> Any:
    def stop(self: Any, task: Any, failure: Any, now: float, effects: Any) -> None:
        real(self, task, failure, now, effects)
        effects.let_go.append(task)

    return stop


def _demand_not_repeated(real: Any) -> Any:
    return lambda self, now, effects: None


def _one_too_few(real: Any) -> Any:
    def init(self: Any, count: int, done: Any) -> None:
        real(self, max(1, count - 1), done)

    return init


def _forget_started(real: Any) -> Any:
    def on_set_up(self: Any, lease: str, now: float, effects: Any) -> None:
        worker = self.workers.get(lease)
        group = None if worker is None else self.groups[worker.shape]
        forgotten = group is not None and not group.ready and lease not in group.idle
        real(self, lease, now, effects)
        if forgotten:
            group.idle.pop(lease, None)

    return on_set_up


def _forget_at_once(real: Any) -> Any:
    def remember(self: Any, made: Any) -> None:
        real(self, made)
        self._evict(made, "planted")

    return remember


def _runs_not_counted(real: Any) -> Any:
    return lambda self, made, runs_left: real(self, made, made.runs_left)


def _every_need_runs_it(real: Any) -> Any:
    def recompute(self: Any, made: Any, lost: str) -> Any:
        made.running = False
        return real(self, made, lost)

    return recompute


def _refused_and_alive(real: Any) -> Any:
    return lambda self, reason, settled, ended=False: real(self, reason, settled)


def _released_with_its_handle(real: Any) -> Any:
    """What keeps a stored argument goes with the task that had it, though the result may be needed again."""

    def argument(self: Any, packed: Any) -> Any:
        found, size_bytes = real(self, packed)
        return (lambda: None) if packed.value.objects else found, size_bytes

    return argument


# -- the scheduler's core -----------------------------------------------------------------------------------------


def _arm_only(kind: str) -> Make:
    def make(real: Any) -> Any:
        def arm(self: Any, kind_: str, name: str, heard_at: float) -> None:
            if kind_ == kind:
                real(self, kind_, name, heard_at)

        return arm

    return make


def _renew_all_nodes(real: Any) -> Any:
    def on_agent_said(self: Any, event: Any) -> None:
        real(self, event)
        for node in self._desk.book.nodes.values():
            node.heard_at = self._desk.now

    return on_agent_said


def _renew_all_drivers(real: Any) -> Any:
    def on_driver_said(self: Any, event: Any) -> None:
        real(self, event)
        for driver in self._desk.book.drivers.values():
            driver.heard_at = self._desk.now

    return on_driver_said


def _unblocking_not_charged(real: Any) -> Any:
    def set_state(self: Any, lease: Any, new: Any) -> None:
        blocked = lease.state is LeaseState.BLOCKED
        real(self, lease, new)
        if blocked and new is LeaseState.ACTIVE:
            self._charge(lease, -lease.shape.num_cpus)

    return set_state


def _ending_uncharges_twice(real: Any) -> Any:
    def set_state(self: Any, lease: Any, new: Any) -> None:
        stopping = lease.state is LeaseState.STOPPING
        real(self, lease, new)
        if stopping:
            lease.node.used_cpus -= lease.shape.num_cpus

    return set_state


def _loss_not_told(real: Any) -> Any:
    def lease_lost(self: Any, lease: Any, reason: str) -> None:
        told, self.tell = self.tell, lambda *_: None
        try:
            real(self, lease, reason)
        finally:
            self.tell = told

    return lease_lost


def _adopt_anything(real: Any) -> Any:
    """A worker whose driver was told that it ended is taken back."""

    def reconcile(self: Any, node: Any, live: Any) -> None:
        desk = self._desk
        if desk.book.leases.get(live.lease) is None and desk.book.drivers.get(live.driver) is not None:
            desk.ended_foreign.discard(live.lease)
            desk.book.adopt(node, live, desk.book.drivers[live.driver])
            return
        real(self, node, live)

    return reconcile


# -- the agent's core, the stores ---------------------------------------------------------------------------------


def _no_kill(real: Any) -> Any:
    def stop(self: Any, worker: Any, grace_s: float, terminate: bool, finding: str = "") -> None:
        real(self, worker, max(grace_s, 1e6), terminate, finding)

    return stop


def _hello_without_leases(real: Any) -> Any:
    def say_hello(self: Any) -> None:
        workers, self._workers = self._workers, {}
        try:
            real(self)
        finally:
            self._workers = workers

    return say_hello


def _memory_stop_uncharged(real: Any) -> Any:
    def charge(self: Any, group: Any, tasks: Any, exit: Any, effects: Any) -> None:
        for task in tasks if exit.shortage else ():
            task.retries_left += 1
            task.deaths -= 1
        real(self, group, tasks, exit, effects)

    return charge


def _choose_smallest(real: Any) -> Any:
    return lambda self: min(self._workers, key=lambda name: self._workers[name].bytes, default=None)


def _none_left(real: Any) -> Any:
    return lambda self, shape: max(0, real(self, shape) - self.withheld) if self.withheld else real(self, shape)


def _memory_not_returned(real: Any) -> Any:
    def on_left(self: Any, name: str) -> None:
        client = self.clients.get(name)
        real(self, name)
        if client is not None:
            self.allowed_bytes += client.allowed_bytes

    return on_left


def _views_not_noted(real: Any) -> Any:
    return lambda self, event: real(self, msgspec.structs.replace(event, viewed=frozenset()))


def _holder_outlives_death(real: Any) -> Any:
    return lambda self, holder: []


MUTANTS = [
    Mutant(
        "a late result is accepted",
        (Losses, "bury", _remember_lost),
        (PoolCore, "on_results", _accept_late),
        (PoolCore, "on_closed", _forget_lost),
    ),
    Mutant("results are matched by worker, not by attempt", (PoolCore, "on_results", _match_by_worker)),
    Mutant("a retry is counted twice", (Losses, "_charge", _charge(2))),
    Mutant("a retry is not counted", (Losses, "_charge", _charge(0))),
    Mutant("tasks that were given back are forgotten", (PoolCore, "on_retracted", _forget_retracted)),
    Mutant("a dead worker's tasks wait for its last words for ever", (PoolCore, "on_ended", _never_bury_by_time)),
    Mutant("the objects of a late result are forgotten", (PoolCore, "on_results", _drop_late)),
    Mutant("a task that ignores its interrupt is never killed", (Stopper, "stop", _no_grace_deadline)),
    Mutant("arguments go while a stopped task still has them", (Stopper, "stop", _let_go_too_early)),
    Mutant("demand is not repeated to a scheduler that lost it", (PoolCore, "on_opened", _demand_not_repeated)),
    Mutant("a worker is forgotten whose task another one took", (PoolCore, "on_set_up", _forget_started)),
    Mutant("a dependency is released early", (dependencies._Countdown, "__init__", _one_too_few)),
    Mutant("how a result was made is forgotten while it is held", (Lineage, "remember", _forget_at_once)),
    Mutant("how a result was made is kept when nobody holds it", (Lineage, "let_go", _nothing)),
    Mutant("a result is computed again without end", (Lineage, "on_ran", _runs_not_counted)),
    Mutant("a lost result is computed once for each who needs it", (Lineage, "recompute", _every_need_runs_it)),
    Mutant("a result that was computed again is not used", (StoredOutcome, "renew", _nothing)),
    Mutant("a task whose input was lost is forgotten", (Recovery, "on_input_lost", _nothing)),
    Mutant("arguments are not kept for another run", (Recovery, "_argument", _released_with_its_handle)),
    Mutant("a worker whose lease has ended answers", (Lifeline, "on_refused", _refused_and_alive)),
    Mutant("the lease of a silent driver never expires", (Desk, "arm", _arm_only("node"))),
    Mutant("the leases of a silent node never expire", (Desk, "arm", _arm_only("driver"))),
    Mutant("any node's heartbeat renews all nodes", (NodeSide, "on_agent_said", _renew_all_nodes)),
    Mutant("any driver's heartbeat renews all drivers", (DriverSide, "on_driver_said", _renew_all_drivers)),
    Mutant("a worker that goes on is not charged to its pool", (Book, "set_state", _unblocking_not_charged)),
    Mutant("a stopped lease is given back twice", (Book, "set_state", _ending_uncharges_twice)),
    Mutant("drivers do not hear of the loss of a node", (Desk, "lease_lost", _loss_not_told)),
    Mutant("leases that their drivers gave up are adopted", (NodeSide, "_reconcile", _adopt_anything)),
    Mutant("claims of lost leases are never settled", (Desk, "settle_doubt", _nothing)),
    Mutant("workers may take their time to end", (AgentCore, "_stop", _no_kill)),
    Mutant("an agent's hello leaves out its workers", (AgentCore, "_say_hello", _hello_without_leases)),
    Mutant("a stop for memory is no attempt", (Losses, "_charge", _memory_stop_uncharged)),
    Mutant("memory is looked at too rarely", (MemoryCore, "_pause", lambda real: lambda self, sample: 5.0)),
    Mutant("whoever uses least memory is stopped", (MemoryCore, "_choose", _choose_smallest)),
    Mutant("when memory runs short nobody is stopped", (MemoryCore, "_choose", _nothing)),
    Mutant("after a shortage of memory no worker is left", (Dealer, "most_workers", _none_left)),
    Mutant("a dead client keeps its memory", (StoreCore, "_on_left", _memory_not_returned)),
    Mutant("what somebody looks at goes to disk", (StoreCore, "_on_reported", _views_not_noted)),
    Mutant("a pin is forgotten", (Lifetimes, "pin", _nothing)),
    Mutant("an unpin is forgotten", (Ownership, "unpin", _nothing)),
    Mutant("the pins of the dead stay", (Lifetimes, "drop_holder", _holder_outlives_death)),
    Mutant("results are not adopted", (Ownership, "adopt", lambda real: lambda self, locations: {})),
]
