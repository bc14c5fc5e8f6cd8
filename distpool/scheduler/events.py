"""What the scheduler core is told (past tense) and what it wants done (imperative)."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from distpool.wire import agent_to_scheduler as from_agent
from distpool.wire import driver_to_scheduler as from_driver
from distpool.wire import operator_to_scheduler as from_operator
from distpool.wire import scheduler_to_agent as to_agent
from distpool.wire import scheduler_to_driver as to_driver
from distpool.wire import scheduler_to_operator as to_operator


class DriverSaid(msgspec.Struct, frozen=True):
    """A driver's message arrived.  ``watched``: the shell will report its death, so no heartbeats are needed."""

    driver: str
    message: from_driver.Message
    watched: bool = False


class AgentSaid(msgspec.Struct, frozen=True):
    """An agent's message arrived."""

    node: str
    message: from_agent.Message


class OperatorSaid(msgspec.Struct, frozen=True):
    """An operator's message arrived."""

    operator: str
    message: from_operator.Message


class DriverLost(msgspec.Struct, frozen=True):
    """The driver's process has ended."""

    driver: str


class NodeLost(msgspec.Struct, frozen=True):
    """The agent's process has ended."""

    node: str


class TimePassed(msgspec.Struct, frozen=True):
    """The deadline named by ``next_deadline`` has come."""


class ToDriver(msgspec.Struct, frozen=True):
    """Send this."""

    driver: str
    message: to_driver.Message


class ToAgent(msgspec.Struct, frozen=True):
    """Send this."""

    node: str
    message: to_agent.Message


class ToOperator(msgspec.Struct, frozen=True):
    """Send this."""

    operator: str
    message: to_operator.Message


Event: TypeAlias = "DriverSaid | AgentSaid | OperatorSaid | DriverLost | NodeLost | TimePassed"
Effect: TypeAlias = "ToDriver | ToAgent | ToOperator"
