"""Where a session's workers come from: a private node, a cluster, nodes that an engine starts, or, in a worker, the
scheduler that this worker belongs to.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from distpool.driver.ahead import take_over
from distpool.worker import context as worker_context

if TYPE_CHECKING:
    from distpool.driver.session import Session
    from distpool.node.launch import PrivateNode
    from distpool.provision.cluster import ProvisionedCluster
    from distpool.store.settings import StoreSettings
    from distpool.wire.security import Keys, Token
    from distpool.worker.context import WorkerContext


class Origin(msgspec.Struct, frozen=True):
    """See the module's description.

    :param endpoint: where the scheduler listens; of a private node it is known before the node is ready.
    :param store_folder: the store that is used together with the workers; empty where this process has its own.
    :param worker: the worker that this process is, if its nested work goes where that came from.
    :param cluster: nodes that an engine starts for this program.
    """

    endpoint: str
    store_folder: str = ""
    keys: Keys | None = None
    worker: WorkerContext | None = None
    node: PrivateNode | None = None
    cluster: ProvisionedCluster | None = None


def find_origin(
    address: str | None,
    store_settings: StoreSettings | None,
    predecessor: Session | None,
    on_cluster_lost: Callable[[str], None],
) -> Origin:
    """Find what was asked for, and start what is not there (parameters as for ``Session``).

    :param on_cluster_lost: told in a thread of the cluster's, with the reason, when nobody looks after its nodes.
    """
    if address is not None:  # a program of its own, wherever it runs
        cluster, token = _find_cluster(address, on_cluster_lost)
        return Origin(f"tcp://{token.address}", keys=token.keys, cluster=cluster)
    worker = worker_context.current()
    if worker is not None:
        return Origin(worker.scheduler_endpoint, worker.store_folder, _keys_of(worker), worker)
    node = take_over() if store_settings is None and predecessor is None else None
    if node is None:
        from distpool.node.launch import start_private_node

        lost = predecessor.node if predecessor is not None else None
        node = start_private_node(wait=False, store_settings=store_settings, predecessor=lost)
    return Origin(node.endpoint, node.store_folder, node=node)


def _keys_of(worker: WorkerContext) -> Keys | None:
    if not worker.secret:
        return None
    from distpool.wire.security import Keys

    return Keys.derive(worker.secret)


def _find_cluster(address: str, on_lost: Callable[[str], None]) -> tuple[ProvisionedCluster | None, Token]:
    """The cluster at an address; if that is an engine's, started now."""
    if "://" in address:
        from distpool.provision.registry import is_engine

        if is_engine(address):
            from distpool.provision.cluster import ProvisionedCluster

            cluster = ProvisionedCluster(address, on_lost)
            return cluster, cluster.token
    from distpool.node.statefolder import find_token

    return None, find_token(address)
