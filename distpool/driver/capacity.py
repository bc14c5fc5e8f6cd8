"""How many calls can run at one time: this machine's CPUs, or those of the cluster that the program works with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distpool.node import machine

if TYPE_CHECKING:
    from distpool.driver.session import Session


def cpu_count() -> int:
    """CPUs that this program may use: the cluster's, if it works with one, otherwise this machine's as far as affinity,
    control group and batch allocation allow.

    ``DISTPOOL_NUM_CPUS`` overrides both.

    :raises ConnectError: when there is a cluster and it cannot be reached, or when that variable is no number.
    """
    return default_workers()


def default_workers(address: str | None = None) -> int:
    """How many workers a pool has unless told.

    :param address: the cluster that it is opened in, if it names one.
    :raises ConnectError: as above.
    """
    from distpool.driver.current import current_session, works_with_cluster

    if not machine.wished_cpus() and works_with_cluster(address):
        return max(1, int(_cluster_cpus(current_session(address))))
    return machine.cpu_count()


def _cluster_cpus(session: Session) -> float:
    """CPUs of all nodes of the cluster."""
    if not session.remote:
        return float(machine.cpu_count())
    nodes = session.nodes()
    if nodes is not None:
        present = sum(node.capacity.num_cpus for node in nodes)
        return max(present, session.cluster.cpus()) if session.cluster is not None else present
    welcome = session.introduction.welcome
    return welcome.capacity.num_cpus if welcome is not None else 0.0
