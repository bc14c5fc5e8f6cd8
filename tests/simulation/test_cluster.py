"""Whole clusters of real cores under faults.

A seed that fails is named; ``python -m tests.simulation --seed n`` runs it alone, ``python -m tests.simulation`` runs
one after the other until one fails or it is interrupted.  ``DISTPOOL_SEEDS=5000`` makes these tests run more of them.
"""

from __future__ import annotations

import os

import pytest

from distpool.wire import codec
from distpool.wire.operator_to_scheduler import DrainNode
from distpool.wire.scheduler_to_driver import LeaseGranted
from tests.simulation.cluster import Cluster
from tests.simulation.mutants import MUTANTS, Mutant
from tests.simulation.parties import SCHEDULER

pytestmark = pytest.mark.watchdog(300)

_SEEDS = int(os.environ.get("DISTPOOL_SEEDS", "120"))
_SLICE = 20
#: A planted bug that so many runs do not notice has survived.
_MUTANT_SEEDS = 150


@pytest.mark.parametrize("first", range(0, _SEEDS, _SLICE))
def test_nothing_is_lost_left_or_stuck(first: int) -> None:
    for seed in range(first, min(_SEEDS, first + _SLICE)):
        try:
            Cluster(seed).run()
        except Exception as error:
            raise AssertionError(f"seed {seed}: {error}") from error


def test_a_run_repeats_exactly() -> None:
    runs = []
    for _ in range(2):
        cluster = Cluster(7)
        cluster.run()
        runs.append((cluster.clock.now, cluster.events, cluster.faults))
    assert runs[0] == runs[1]


@pytest.mark.parametrize("mutant", MUTANTS, ids=[mutant.name for mutant in MUTANTS])
def test_planted_bugs_are_found(mutant: Mutant) -> None:
    for seed in range(_MUTANT_SEEDS):
        with mutant.planted():
            try:
                Cluster(seed).run()
            except Exception:
                return
    pytest.fail(f"nobody notices that {mutant.name}")


def test_a_worker_that_was_given_up_while_the_scheduler_confirmed_it_stays_so() -> None:
    cluster = Cluster(1, drivers=1, faults=0)
    confirmed = 0
    send = cluster.network.send

    def watch(source: str, target: str, message: object) -> None:
        nonlocal confirmed
        send(source, target, message)
        if isinstance(message, LeaseGranted):
            confirmed += 1
            if confirmed == 1:
                cluster.clock.after(0.05, cluster.drivers[0].reconnect)
            elif cluster.drivers[0].holds(message.lease):
                cluster.clock.after(0.0, cluster.drivers[0].lose_link)

    cluster.network.send = watch  # type: ignore[method-assign]
    cluster.run()
    assert confirmed > 2


@pytest.mark.parametrize("seed", range(20))
def test_what_an_operator_was_told_is_drained_leaves_under_a_later_scheduler(seed: int) -> None:
    """The scheduler dies when it has answered, and with it all that it has said and that has not arrived."""
    cluster = Cluster(seed, drivers=0, faults=0)
    node = cluster.nodes["n1"]
    heard: list[object] = []

    def hear(_: str, message: object) -> None:
        heard.append(message)
        cluster.scheduler.kill()
        cluster.network.reset(SCHEDULER, node.name)

    cluster.network.up("o", hear)
    cluster.clock.after(0.5, lambda: cluster.network.send("o", SCHEDULER, DrainNode(codec.PROTOCOL, node.name)))
    cluster.wait_until(lambda: bool(heard))
    cluster._restart_scheduler()
    cluster.wait_until(lambda: node.name in cluster.scheduler.core.book.nodes or bool(node.core.refused))
    assert node.core.refused or cluster.scheduler.core.book.nodes[node.name].draining
