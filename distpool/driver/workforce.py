"""The workers that a pool has been granted: dialling them, sending them tasks, and their processes.

Called under the session's lock, but for ``processes``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures._base import RUNNING
from typing import TYPE_CHECKING, Any

from distpool import crashpoints
from distpool.driver.processes import WorkerProcess
from distpool.driver.state import Worker
from distpool.driver.task import Task
from distpool.wire import codec, driver_to_worker, scheduler_to_driver
from distpool.wire.channel import PeerUnreachable

if TYPE_CHECKING:
    from distpool.driver.session import Session
    from distpool.driver.spec import PoolSpec

#: How long ``processes`` waits for workers that have been asked for.
_START_S = 10.0
_encode = codec.encode


class Workforce:
    """See the module's description.

    :ivar changed: notified when a worker came, or when none will come any more.
    """

    def __init__(self, spec: PoolSpec, session: Session) -> None:
        # Not the pool, which holds this: what programs lend to a pool must be free as soon as they let go of it.
        self._spec = spec
        self._session = session
        self.changed = threading.Condition(session.lock)
        self._by_lease: dict[str, WorkerProcess] = {}
        #: Leases that ended for this process alone; the scheduler's word is still to come.
        self._given_up: set[str] = set()
        self._functions_sent: dict[str, set[int]] = {}

    def processes(self, wanted: Callable[[], int], going_on: Callable[[], bool]) -> dict[int, WorkerProcess]:
        """The live ones by process id, once there are as many as ``wanted()`` says (or a while has passed).

        :param going_on: whether the pool goes on, so that those that leave are not among its workers any more.
        """

        def present() -> dict[int, WorkerProcess]:
            found: dict[int, WorkerProcess] = {}
            for process in self._by_lease.values():
                if not (process.leaving and going_on()):
                    # Two machines may have processes of one number.
                    found[process.pid if process.pid not in found else -len(found)] = process
            return found

        with self.changed:
            self.changed.wait_for(lambda: len(present()) >= wanted(), _START_S)
            return present()

    def leases(self) -> list[tuple[str, int]]:
        """Lease and process id of each."""
        return [(lease, process.pid) for lease, process in self._by_lease.items()]

    def admit(self, grant: scheduler_to_driver.LeaseGranted, setup: Any) -> Worker | None:
        """Dial a worker and make it look like this program; None when it is known already: a scheduler that lost its
        memory confirms what we told it."""
        if grant.lease in self._by_lease:
            return None
        peer = grant.worker.encode()
        worker = Worker(grant.lease, peer, grant.shape, grant.node, grant.pid, grant.ordinal)
        worker.host = grant.host or grant.node
        if grant.seat is not None:
            worker.gang, worker.rank = grant.seat.gang, grant.seat.rank
        try:
            self._session.channel.connect(grant.endpoint, peer, shortcut=True)
        except OSError as error:
            self._session.links.cannot_reach(peer, f"{grant.endpoint}: {error}")
        self._session.send(peer, setup.for_worker(grant))
        spec = self._spec
        process = WorkerProcess(self._session, worker, f"{spec.process_name}-{grant.ordinal}", spec.daemon)
        self._by_lease[grant.lease] = process
        self._functions_sent[grant.lease] = set()
        self.changed.notify_all()
        return worker

    def give_up(self, lease: str) -> None:
        """The scheduler will tell that a lease ended which has ended here before."""
        self._given_up.add(lease)

    def has_given_up(self, lease: str) -> bool:
        """Whether its end has been noted here before the scheduler told of it."""
        return lease in self._given_up

    def was_given_up(self, lease: str) -> bool:
        """Whether that is what it has told now."""
        if lease not in self._given_up:
            return False
        self._given_up.discard(lease)
        return True

    def dismiss(self, lease: str, exit_code: int) -> bool:
        """A worker ended; False when it was never here."""
        process = self._by_lease.pop(lease, None)
        if process is None:
            return False
        self._functions_sent.pop(lease, None)
        process.note_exit(exit_code)
        return True

    def send(self, worker: Worker, tasks: list[Task]) -> None:
        """Send tasks, with the functions that the worker has not been sent yet."""
        sent = self._functions_sent[worker.lease]
        functions = []
        messages = []
        for task in tasks:
            task.future._state = RUNNING
            entry = task.function
            if entry.number and entry.number not in sent:
                sent.add(entry.number)
                functions.append(driver_to_worker.Function(entry.number, entry.value.payload, entry.value.objects))
            messages.append(task.message)
        self._send(worker, messages, functions)

    def send_single(self, worker: Worker, task: Task) -> None:
        """The same for one task."""
        task.future._state = RUNNING
        entry = task.function
        if entry.number and entry.number not in self._functions_sent[worker.lease]:
            self.send(worker, [task])
        else:
            self._send(worker, [task.message], [])

    def _send(
        self, worker: Worker, tasks: list[driver_to_worker.Task], functions: list[driver_to_worker.Function]
    ) -> None:
        crashpoints.reach("task.dealt")
        try:
            self._session.channel.send(worker.peer, (_encode(driver_to_worker.RunTasks(tasks, functions)),))
            crashpoints.reach("task.sent")
        except PeerUnreachable:
            pass  # word of its end is on the way, and the core then sends them elsewhere
