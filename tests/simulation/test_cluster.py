"""Whole clusters of real cores under faults.  ``DISTPOOL_SEEDS=5000`` runs more of them; a seed that fails is named,
and ``DISTPOOL_SEED=n`` runs it alone."""

from __future__ import annotations

import os

import pytest

from tests.simulation.cluster import Cluster

_SEEDS = int(os.environ.get("DISTPOOL_SEEDS", "200"))
_SLICE = 25


@pytest.mark.parametrize("first", range(0, _SEEDS, _SLICE))
def test_nothing_is_lost_left_or_stuck(first: int) -> None:
    seeds = range(first, min(_SEEDS, first + _SLICE))
    alone = os.environ.get("DISTPOOL_SEED")
    for seed in [int(alone)] if alone else seeds:
        try:
            Cluster(seed).run()
        except BaseException as error:
            raise AssertionError(f"seed {seed}: {error}") from error


def test_a_run_repeats_exactly() -> None:
    runs = []
    for _ in range(2):
        cluster = Cluster(7)
        cluster.run()
        runs.append((cluster.clock.now, cluster.faults))
    assert runs[0] == runs[1]
