"""A scheduler core with shorthands; every event is followed by a check of the invariants."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from distpool.scheduler.core import SchedulerCore
from distpool.scheduler.events import AgentSaid, DriverLost, DriverSaid, NodeLost, TimePassed, ToAgent, ToDriver
from distpool.version import __version__
from distpool.wire import agent_to_scheduler as from_agent
from distpool.wire import codec
from distpool.wire import driver_to_scheduler as from_driver
from distpool.wire import scheduler_to_agent as to_agent
from distpool.wire import scheduler_to_driver as to_driver
from distpool.wire.resources import Shape

ONE = Shape()
TWO = Shape(2.0)


class Scheduler:
    """``now`` is moved by hand."""

    def __init__(self, prefix: str = "k", *, gathers: bool = False) -> None:
        self.core = SchedulerCore("test", prefix, gathers=gathers)
        self.now = 0.0
        self.effects: list[Any] = []

    def handle(self, event: Any) -> list[Any]:
        self.effects = self.core.handle(event, self.now)
        self.core.check_invariants()
        return self.effects

    def node(self, name: str = "n", cpus: float = 4, *, elastic: bool = False, **more: Any) -> list[Any]:
        said = {
            key: more.pop(key) for key in ("leases", "site_endpoint", "head", "stands_for", "draining") if key in more
        }
        hello = from_agent.AgentHello(
            codec.PROTOCOL, codec.PYTHON, __version__, name, name, Shape(cpus, **more), elastic, **said
        )
        return self.handle(AgentSaid(name, hello))

    def driver(
        self, name: str = "d", *, parent: str = "", watched: bool = True, leases: Sequence[str] = ()
    ) -> list[Any]:
        held = tuple(from_driver.HeldLease(lease, "p", ONE) for lease in leases)
        hello = from_driver.DriverHello(codec.PROTOCOL, codec.PYTHON, __version__, "host", 1, parent, held)
        return self.handle(DriverSaid(name, hello, watched))

    def say(self, message: Any, driver: str = "d") -> list[Any]:
        return self.handle(DriverSaid(driver, message))

    def agent_says(self, message: Any, node: str = "n") -> list[Any]:
        return self.handle(AgentSaid(node, message))

    def open(self, pool: str = "p", slots: float = 4, driver: str = "d") -> list[Any]:
        return self.say(from_driver.OpenPool(pool, slots), driver)

    def want(self, workers: int, pool: str = "p", driver: str = "d", shape: Shape = ONE) -> list[Any]:
        return self.say(from_driver.Demand(pool, shape, workers), driver)

    def ready(self, lease: str, node: str = "n") -> list[Any]:
        return self.agent_says(from_agent.WorkerReady(lease, f"w-{lease}", f"ipc://{lease}", 7), node)

    def exited(self, lease: str, node: str = "n", code: int = 0, reason: str = "") -> list[Any]:
        return self.agent_says(from_agent.WorkerExited(lease, 7, code, reason), node)

    def ready_all(self) -> list[str]:
        """Report the workers that were just asked for; their leases."""
        leases = started(self.effects)
        for lease, node in [(e.message.lease, e.node) for e in self.effects if _is_start(e)]:
            self.ready(lease, node)
        return leases

    def time(self, now: float) -> list[Any]:
        self.now = now
        return self.handle(TimePassed())

    def until_started(self) -> list[str]:
        """Let time pass until workers are asked for; their leases."""
        while True:
            deadline = self.core.next_deadline()
            assert deadline is not None
            if leases := started(self.time(deadline)):
                return leases

    def lose_driver(self, name: str = "d") -> list[Any]:
        return self.handle(DriverLost(name))

    def lose_node(self, name: str = "n") -> list[Any]:
        return self.handle(NodeLost(name))


def _is_start(effect: Any) -> bool:
    return isinstance(effect, ToAgent) and isinstance(effect.message, to_agent.StartWorker)


def started(effects: Sequence[Any]) -> list[str]:
    """Leases whose workers were asked for."""
    return [effect.message.lease for effect in effects if _is_start(effect)]


def stopped(effects: Sequence[Any]) -> list[str]:
    """Leases whose workers were told to end."""
    return [
        effect.message.lease
        for effect in effects
        if isinstance(effect, ToAgent) and isinstance(effect.message, to_agent.StopWorker)
    ]


def told(effects: Sequence[Any], kind: type, driver: str = "d") -> list[Any]:
    """Messages of one kind to one driver."""
    return [
        effect.message
        for effect in effects
        if isinstance(effect, ToDriver) and effect.driver == driver and isinstance(effect.message, kind)
    ]


def granted(effects: Sequence[Any], driver: str = "d") -> list[str]:
    return [message.lease for message in told(effects, to_driver.LeaseGranted, driver)]


def live(lease: str, pool: str = "p", driver: str = "d", ordinal: int = 1, *, blocked: bool = False) -> Any:
    return from_agent.LiveLease(lease, pool, driver, ONE, ordinal, f"w-{lease}", f"ipc://{lease}", 7, blocked)
