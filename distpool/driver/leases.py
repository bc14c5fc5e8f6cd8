"""Which worker belongs to which lease and pool of this driver."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from distpool.driver.pool import WorkerPool
    from distpool.wire import scheduler_to_driver


class Leases:
    """One per session, used under its lock."""

    def __init__(self) -> None:
        self._by_worker: dict[bytes, tuple[WorkerPool, str]] = {}
        self._by_lease: dict[str, bytes] = {}
        #: Machine and process of workers on other machines, also of those that have ended and may still be heard.
        self._labels: dict[bytes, str] = {}

    def began(self, pool: WorkerPool, grant: scheduler_to_driver.LeaseGranted, labelled: bool) -> None:
        """A worker is ours.

        :param labelled: whether what it prints is to be told from what others print.
        """
        peer = grant.worker.encode()
        self._by_worker[peer] = (pool, grant.lease)
        self._by_lease[grant.lease] = peer
        if labelled:
            self._labels[peer] = f"{grant.host or grant.node} {grant.pid}"

    def ended(self, lease: str) -> bytes | None:
        """A lease ended: its worker, which is known until ``forget``, since it may still be heard."""
        return self._by_lease.pop(lease, None)

    def forget(self, peer: bytes) -> None:
        """The connection to a worker is closed."""
        self._by_worker.pop(peer, None)
        self._labels.pop(peer, None)

    def forget_all(self) -> None:
        """The session is over."""
        self._by_worker.clear()

    def of_worker(self, peer: bytes) -> tuple[WorkerPool, str] | None:
        """The pool and lease of a worker that spoke."""
        return self._by_worker.get(peer)

    def holds(self, lease: str) -> bool:
        """Whether it has not ended."""
        return lease in self._by_lease

    def held_workers(self) -> list[bytes]:
        """The workers whose leases have not ended."""
        return list(self._by_lease.values())

    def gone(self) -> list[bytes]:
        """The workers whose leases have ended and that may still be heard."""
        held = set(self._by_lease.values())
        return [peer for peer in self._by_worker if peer not in held]

    def workers(self) -> Iterable[bytes]:
        """The workers that may still be heard."""
        return self._by_worker

    def label_of(self, peer: bytes) -> str:
        """What stands before each line that a worker prints; empty on a private node."""
        return self._labels.get(peer, "")
