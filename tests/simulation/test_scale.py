"""A small version of ``python -m tests.simulation.scale``."""

from __future__ import annotations

from tests.simulation.scale import LargeCluster


def test_a_cluster_with_joins_drains_and_losses_does_all_its_work() -> None:
    figures = LargeCluster(nodes=40, cpus=5, drivers=8, tasks=8000, churn_s=1.0).run()
    assert figures.tasks == 8000
    assert figures.nodes == 40
    assert figures.losses == figures.drains > 10
    assert figures.leases > 200
