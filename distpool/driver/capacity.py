"""How many calls can run at one time: this machine's CPUs, or those of the cluster that the program works with."""

from __future__ import annotations

import os

from distpool.node import machine


def cpu_count() -> int:
    """CPUs that this program may use: the cluster's, if it works with one, otherwise this machine's as far as affinity,
    control group and batch allocation allow.

    ``DISTPOOL_NUM_CPUS`` overrides both.

    :raises ConnectError: when there is a cluster and it cannot be reached.
    """
    return default_workers()


def default_workers(address: str | None = None) -> int:
    """How many workers a pool has unless told.

    :param address: the cluster that it is opened in, if it names one.
    :raises ConnectError: as above.
    """
    from distpool.driver.current import current_session, works_with_cluster

    if not os.environ.get("DISTPOOL_NUM_CPUS", "").isdigit() and works_with_cluster(address):
        return max(1, int(current_session(address).cluster_cpus()))
    return machine.cpu_count()
