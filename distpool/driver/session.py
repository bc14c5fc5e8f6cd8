"""The process's one connection to its workers: attach or start, the channel, the pools, the end.

A session owns the channel, the lock that guards all its cores, and one thread (``loop.Loop``) that serves what arrives
while no other thread happens to do so.
"""

from __future__ import annotations

import functools
import math
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import TimeoutError
from pathlib import Path
from typing import TYPE_CHECKING, Any

import zmq

from distpool import crashpoints, errors
from distpool.driver import ending
from distpool.driver.ahead import take_over
from distpool.driver.functions import FunctionTable
from distpool.driver.interrupts import shield
from distpool.driver.loop import Loop
from distpool.driver.pool import PoolSpec, Settled, WorkerPool
from distpool.driver.recovery import Recovery
from distpool.driver.state import Failure, FailureKind
from distpool.driver.threads import require_threads
from distpool.node.machine import cpu_count, process_space
from distpool.wire import codec, driver_to_scheduler, scheduler_to_driver
from distpool.wire.channel import Channel, PeerUnreachable
from distpool.wire.driver_to_worker import ReleaseObjects
from distpool.wire.links import CallerRefused, LinkDown, LinkEvent, LinkFailed, LinkUp
from distpool.worker import context as worker_context

if TYPE_CHECKING:
    from distpool.driver.attach import Questions
    from distpool.driver.future import DistFuture
    from distpool.driver.site import DriverSite
    from distpool.provision.cluster import ProvisionedCluster
    from distpool.store.settings import StoreSettings
    from distpool.wire.security import Keys, Token


SCHEDULER = b"s"
#: How long last words may take to reach another machine.
_LINGER_S = 1.0
#: For how long a worker may be out of reach from the start, until it is given up.
_UNREACHABLE_S = 15.0
#: After so many seconds without the scheduler a line says so; after so many nothing waits for it any more.
_SCHEDULER_NOTICE_S = 10.0
SCHEDULER_LOST_S = 600.0
#: How long ``cpu_count`` waits for news of the cluster before it takes what was known.
_STATUS_S = 5.0


class Session:
    """See the module's description.

    :param address: the cluster's: ``host:port``, or the path of a token file, or of an engine that nodes for a cluster
        of this program's own come from; None to start a private node (or, in a worker, to attach to the scheduler that
        the worker belongs to).
    :param store_settings: of the private node's object store; None: as the environment says.
    :param predecessor: a session that lost its private node; another node and this session take their places, and what
        this process has stored stays.
    :raises ConnectError: when no scheduler answers, or it refuses.
    """

    def __init__(
        self,
        address: str | None = None,
        store_settings: StoreSettings | None = None,
        predecessor: Session | None = None,
    ) -> None:
        self.pid = os.getpid()
        self.lock = threading.Lock()
        self.routing_id = b"d-" + os.urandom(6).hex().encode()
        self.worker = worker_context.current()
        self.store_settings = store_settings
        self.node = None
        #: As it was asked for; None: the private node, or a worker's scheduler.
        self.address = address
        #: Nodes that an engine starts for this program.
        self.cluster: ProvisionedCluster | None = None
        store_folder = endpoint = ""
        keys: Keys | None = None
        if address is not None:
            self.worker = None  # a program of its own, wherever it runs
            token = self._find_cluster(address)
            endpoint, keys = f"tcp://{token.address}", token.keys
        elif self.worker is not None:
            endpoint = self.worker.scheduler_endpoint
            store_folder = self.worker.store_folder
            if self.worker.secret:
                from distpool.wire.security import Keys

                keys = Keys.derive(self.worker.secret)
        else:
            self.node = take_over() if store_settings is None and predecessor is None else None
            if self.node is None:
                from distpool.node.launch import start_private_node

                self.node = start_private_node(
                    wait=False, store_settings=store_settings, predecessor=predecessor.node if predecessor else None
                )
            endpoint = self.node.endpoint
            store_folder = self.node.store_folder
        # What this process imports, it imports while the node starts.
        from distpool.code.definitions import DefinitionServer
        from distpool.code.pickler import function_is_stable
        from distpool.driver import environment  # noqa: F401 - the first pool needs it
        from distpool.store.client import ObjectStore, install, store_of_this_process

        if self.node is not None:
            self.node.wait_ready()
        self.endpoint = endpoint
        # A process has one store: in a worker, what a task puts there may become part of its result.
        inherited = store_of_this_process() if self.worker is not None else None
        if predecessor is not None:
            inherited = predecessor.store
            inherited.change_node()
        self._owns_store = inherited is None or predecessor is not None
        #: What this program stores and fetches, if it is none of the cluster's nodes.
        self.site: DriverSite | None = None
        self.store: ObjectStore
        if inherited is not None:
            self.store = inherited
            inherited.on_free = self._release_later
        elif address is not None:
            from distpool.driver.site import DriverSite

            assert keys is not None
            name = self.routing_id.decode()
            self.site = DriverSite(name, keys, lambda site: self.tell_scheduler(driver_to_scheduler.SiteWanted(site)))
            self.store = ObjectStore(
                self.site.store_folder, name, node=name, on_free=self._release_later, prepare=self.site.prepare
            )
            self.store.elsewhere = self.site
        else:
            self.store = ObjectStore(Path(store_folder), self.routing_id.decode(), on_free=self._release_later)
        self.recovery = Recovery(self, keeps_arguments=keys is not None)
        self.definitions = DefinitionServer(self.store)
        self.functions = FunctionTable(self.definitions.pack_function, function_is_stable)
        self.pools: dict[str, WorkerPool] = {}
        self.interrupted = False
        #: Whether the private node ended under us.
        self.lost = False
        self._next_pool = 0
        self._hellos = 0
        self._by_worker: dict[bytes, tuple[WorkerPool, str]] = {}
        self._by_lease: dict[str, bytes] = {}
        #: Machine and process of workers on other machines, also of those that have ended and may still be heard.
        self._labels: dict[bytes, str] = {}
        self._callbacks: deque[DistFuture[Any]] = deque()
        #: What waits for futures that have been settled.
        self.due: deque[Callable[[], None]] = deque()
        self._attending = threading.Lock()
        self._abandoned: deque[WorkerPool] = deque()
        self._releases: deque[tuple[str, list[str]]] = deque()
        self._scheduler_lost_at: float | None = None
        self._unreachable_since: dict[bytes, float] = {}
        self._closed = False
        self.welcome: scheduler_to_driver.SchedulerWelcome | None = None
        try:
            require_threads()
        except errors.ConnectError:
            if self.node is not None:
                self.node.stop()
            raise
        self._context = zmq.Context()
        self.channel = Channel(self._context, self.routing_id, keys)
        #: Status questions, of a driver of a cluster.
        self.questions: Questions | None = None
        try:
            self._attach(endpoint)
        except BaseException:
            self._let_go()
            raise
        if self._owns_store:
            install(self.store)
        if self.worker is not None:
            worker_context.when_interrupted(self.end_nested)
        self.loop = Loop(self)
        if self.node is None:
            self.loop.start()

    def _find_cluster(self, address: str) -> Token:
        """The cluster at an address; if that is an engine's, started now."""
        if "://" in address:
            from distpool.provision.registry import is_engine

            if is_engine(address):
                from distpool.provision.cluster import ProvisionedCluster

                self.cluster = ProvisionedCluster(address, self._on_cluster_lost)
                return self.cluster.token
        from distpool.node.statefolder import find_token

        return find_token(address)

    def _on_cluster_lost(self, reason: str) -> None:
        """Nobody looks after the nodes any more (in a thread of the cluster's)."""
        if getattr(self, "loop", None) is not None:
            self._give_up(f"the nodes from {self.address} are gone: {reason}; make a new pool to go on")

    @property
    def remote(self) -> bool:
        """Whether workers may be on other machines."""
        return self.questions is not None

    def _attach(self, endpoint: str) -> None:
        """Say hello to the scheduler; one on another machine must answer."""
        channel = self.channel
        if not endpoint.startswith("tcp://"):
            channel.connect(endpoint, SCHEDULER)
            self._say_hello()
            return
        from distpool.driver.attach import Questions, dial, wait_for_answer

        self.questions = Questions(channel)
        channel.watch_links(self._on_link_news)
        address = endpoint.removeprefix("tcp://")
        dial(channel, address)
        self._say_hello()
        kind = scheduler_to_driver.SchedulerWelcome
        if self.worker is None:
            self.welcome, _ = wait_for_answer(channel, kind, address)
            return

        def is_last(welcome: scheduler_to_driver.SchedulerWelcome) -> bool:
            return welcome.number == self._hellos

        # It is the scheduler that this worker came from: if it is away now, it will be back.
        welcome, _ = wait_for_answer(channel, kind, address, SCHEDULER_LOST_S, self._say_hello, is_last)
        self.welcome = welcome

    def _on_link_news(self) -> None:
        self.channel.wake()
        loop: Loop | None = getattr(self, "loop", None)
        if loop is not None:
            loop.wake()

    def _let_go(self, bequeath: bool = False) -> None:
        linger_s = 0.0 if self.node is not None else _LINGER_S
        self.channel.close(linger_s)
        self._context.destroy(linger=int(linger_s * 1000))
        if bequeath:
            for peer in list(self._by_worker):
                self.store.process_died(peer.decode())
        elif self._owns_store:
            self.store.close()
        if self.site is not None:
            self.site.close()
        if self.cluster is not None:
            self.cluster.stop()

    def _say_hello(self) -> None:
        parent = self.worker.lease if self.worker is not None else ""
        leases = tuple(lease for pool in self.pools.values() for lease in pool.held_leases())
        self._hellos += 1
        self.tell_scheduler(
            driver_to_scheduler.DriverHello(
                codec.PROTOCOL,
                codec.PYTHON,
                _version(),
                socket.gethostname(),
                self.pid,
                parent,
                leases,
                process_space(),
                self._hellos,
            )
        )

    def is_current(self) -> bool:
        """Whether what the scheduler grants can be relied on: it has answered the last hello."""
        return self.welcome is not None and self.welcome.number == self._hellos

    def introduce_again(self, settled: Settled) -> None:
        """The scheduler has lost its memory: tell it everything anew (caller holds the lock)."""
        self._say_hello()
        for pool in list(self.pools.values()):
            self.tell_scheduler(pool.announcement())
            settled += pool.handle(pool.on_opened, time.monotonic())

    # -- pools --------------------------------------------------------------------------------------------------

    def open_pool(self, spec: PoolSpec) -> WorkerPool:
        """A new pool with workers of its own."""
        with self.lock:
            self._next_pool += 1
            pool_id = f"{self.routing_id.decode()}.{self._next_pool}"
        pool = WorkerPool(self, spec, pool_id, owned=True)
        self._announce(pool)
        return pool

    def join_pool(self, pool_id: str, spec: PoolSpec) -> WorkerPool:
        """The pool of that name: this process's own, or in a worker a share of the one that its driver opened."""
        with self.lock:
            pool = self.pools.get(pool_id)
        if pool is not None and not pool.closed:
            return pool
        pool = WorkerPool(self, spec, pool_id, owned=False)
        self._announce(pool)
        return pool

    def _announce(self, pool: WorkerPool) -> None:
        with shield:
            with self.lock:
                if self._closed:
                    raise RuntimeError("distpool was shut down in this process")
                self.loop.start()
                self.pools[pool.pool_id] = pool
                self.tell_scheduler(pool.announcement())
                settled = pool.handle(pool.on_opened, time.monotonic())
            self.settle(settled)

    def forget_pool(self, pool: WorkerPool) -> None:
        """A pool has ended (caller holds the lock)."""
        self.recovery.forget_pool(pool)
        if self.pools.pop(pool.pool_id, None) is not None:
            self.tell_scheduler(driver_to_scheduler.ClosePool(pool.pool_id, 0.0))

    def capture_setup(self, spec: PoolSpec, initializer: Any) -> Any:
        """What workers of a pool are told to look like: this program as it is now."""
        from distpool.driver.environment import capture

        return capture(self, spec, initializer)

    # -- sending ------------------------------------------------------------------------------------------------

    def send(self, peer: bytes, message: Any) -> None:
        """Send to a worker; one that is gone is ignored, since word of its end is on the way."""
        try:
            self.channel.send(peer, (codec.encode(message),))
        except PeerUnreachable:
            pass

    def tell_scheduler(self, message: driver_to_scheduler.Message) -> None:
        """Send to the scheduler."""
        try:
            self.channel.send(SCHEDULER, (codec.encode(message),))
            crashpoints.reach_event("driver.said", message)
        except PeerUnreachable:
            pass

    def running_attempt(self) -> int:
        """In a worker: the attempt that runs."""
        from distpool.worker import context

        return context.running_attempt()

    def end_nested(self, attempt: int) -> None:
        """In a worker: an attempt was interrupted; end what it submitted."""
        for pool in list(self.pools.values()):
            pool.kill_nested(attempt)

    def announce_changed_definitions(self) -> None:
        """Tell workers about names of ``__main__`` that were rebound since they got them."""
        changes = self.definitions.changes()
        if changes:
            with shield, self.lock:
                for peer in self._by_worker:
                    for change in changes:
                        self.send(peer, change)

    # -- receiving ----------------------------------------------------------------------------------------------

    def assist(self) -> None:
        """Serve what has arrived, in the caller's thread."""
        with shield:
            self.loop.serve(self.channel.drain())

    def settle(self, settled: Settled) -> None:
        """Resolve futures; their callbacks run in the loop's thread, never in one that merely passed by."""
        crashpoints.reach("task.answered")
        callbacks = False
        for future, packed, error in settled:
            if future.settle("FINISHED", packed, error, due=self.due):
                self._callbacks.append(future)
                callbacks = True
        self.attend_to_dependents()
        self.loop.wake_leader()
        if callbacks and not self.loop.is_current():
            # Their pool may have ended, and the thread with it.
            with self.lock:
                self.loop.start()
            self.loop.wake()

    def attend_to_dependents(self) -> None:
        """Let tasks go on that waited for settled futures.

        One after the other and not inside each other: the failure of the first of a long chain settles them all.
        """
        while self.due and self._attending.acquire(blocking=False):
            try:
                while self.due:
                    self.due.popleft()()
            finally:
                self._attending.release()

    def has_callbacks(self) -> bool:
        """Whether callbacks, or notes that finalizers took, wait for the loop's thread."""
        return bool(self._callbacks or self._releases or self._abandoned or self.recovery.has_notes)

    def busy(self) -> bool:
        """Whether any task is under way."""
        return any(pool.busy for pool in list(self.pools.values()))

    def run_callbacks(self) -> None:
        """Run the done-callbacks of settled futures (in the loop's thread)."""
        while self._callbacks:
            self._callbacks.popleft().run_callbacks()

    def worker_of(self, peer: bytes) -> tuple[WorkerPool, str] | None:
        """The pool and lease of a worker that spoke."""
        return self._by_worker.get(peer)

    def label_of(self, peer: bytes) -> str:
        """What stands before each line that a worker prints; empty on a private node."""
        return self._labels.get(peer, "")

    def lease_began(self, pool: WorkerPool, grant: scheduler_to_driver.LeaseGranted) -> None:
        """A worker is ours (caller holds the lock)."""
        peer = grant.worker.encode()
        self._by_worker[peer] = (pool, grant.lease)
        self._by_lease[grant.lease] = peer
        if self.remote:
            self._labels[peer] = f"{grant.host or grant.node} {grant.pid}"

    def decline(self, grant: scheduler_to_driver.LeaseGranted) -> None:
        """A worker came that is not wanted: its pool has ended, or has given it up (caller holds the lock)."""
        self.tell_scheduler(driver_to_scheduler.ReturnLease(grant.lease, 0.0))

    def refused(self, reason: str, settled: Settled) -> None:
        """The scheduler will not serve this program: nothing can run (caller holds the lock)."""
        if self.cluster is not None:
            reason = f"the nodes from {self.address} are gone: {reason}; make a new pool to go on"
        failure = Failure(FailureKind.BROKEN, error=errors.ConnectError(reason))
        for pool in list(self.pools.values()):
            settled += pool.handle(functools.partial(pool.on_broken, failure), time.monotonic())

    def on_node_lost(self) -> None:
        """The private node's process ended, and with it every worker: nothing more can run in this session.

        The next pool starts a new one.
        """
        self._give_up(
            "the process that keeps this program's workers (its private node) ended unexpectedly, perhaps killed from "
            "outside; make a new pool to go on"
        )

    def on_failure(self, error: Exception) -> None:
        """The thread that serves this session failed; the next pool starts another session."""
        self._give_up(f"distpool itself failed: {type(error).__name__}: {error}; make a new pool to go on")

    def _give_up(self, reason: str) -> None:
        failure = Failure(FailureKind.BROKEN, reason=reason)
        settled: Settled = []
        with self.lock:
            self.lost = True
            for pool in list(self.pools.values()):
                settled += pool.handle(functools.partial(pool.on_node_lost, failure), time.monotonic())
        self.settle(settled)

    def has_lost_node(self) -> bool:
        """Whether the private node ended; without pools, nobody has watched it."""
        return self.lost or (self.node is not None and not self.pools and not self.node.alive())

    def lease_ended(self, lease: str) -> None:
        """A worker is gone (caller holds the lock); its last words may still arrive for a moment."""
        peer = self._by_lease.pop(lease, None)
        if peer is not None:
            self.loop.hang_up_later(peer)

    def hang_up(self, peer: bytes) -> None:
        """Close the connection to a worker that is gone."""
        with self.lock:
            self._by_worker.pop(peer, None)
            self._labels.pop(peer, None)
        self.channel.disconnect(peer)
        self.definitions.forget(peer)
        self.store.process_died(peer.decode())

    def _release_later(self, maker: str, object_ids: list[str]) -> None:
        """Results that a worker made are no longer needed (called from finalizers: take a note only)."""
        if self.pools:  # the makers end with their pools
            self._releases.append((maker, object_ids))
            self.loop.wake()

    def abandon(self, pool: WorkerPool) -> None:
        """A pool that nobody holds any more (called from finalizers)."""
        self._abandoned.append(pool)
        self.loop.wake()

    def attend_to_finalizers(self) -> None:
        """Do what finalizers could only take a note of (in the loop's thread)."""
        while self._abandoned:
            self._abandoned.popleft().shutdown(wait=False)
        if self.recovery.has_notes:
            self.recovery.attend()
        while self._releases:
            maker, object_ids = self._releases.popleft()
            self.send(maker.encode(), ReleaseObjects(object_ids))

    # -- connections to other machines ----------------------------------------------------------------------------

    def attend_to_links(self) -> None:
        """Connections came up or broke (in the loop's thread)."""
        events = self.channel.link_events
        settled: Settled = []
        while events:
            event = events.popleft()
            if isinstance(event, CallerRefused):
                continue
            with self.lock:
                if event.peer == SCHEDULER:
                    self._on_scheduler_link(event, settled)
                    continue
                if isinstance(event, LinkUp):
                    self._unreachable_since.pop(event.peer, None)
                elif isinstance(event, LinkDown):
                    self._give_up_worker(event.peer, "the connection to it broke", settled)
                else:
                    since = self._unreachable_since.setdefault(event.peer, time.monotonic())
                    if time.monotonic() - since > _UNREACHABLE_S:
                        self._give_up_worker(event.peer, f"it cannot be reached from here: {event.reason}", settled)
        if settled:
            self.settle(settled)

    def _on_scheduler_link(self, event: LinkEvent, settled: Settled) -> None:
        """News of the connection to the scheduler (caller holds the lock).  While it is down, news comes with each
        attempt to make it again."""
        if isinstance(event, LinkUp):
            # What was under way was lost; the scheduler says what became of the leases.
            self._scheduler_lost_at = None
            self.introduce_again(settled)
            return
        now = time.monotonic()
        if self._scheduler_lost_at is None:
            self._scheduler_lost_at = now
        lost_s = now - self._scheduler_lost_at
        where = self.endpoint.removeprefix("tcp://")
        if lost_s > SCHEDULER_LOST_S:
            self.refused(f"the scheduler of the cluster at {where} has been out of reach for {lost_s:.0f} s", settled)
        elif lost_s > _SCHEDULER_NOTICE_S:
            self.loop.notice(f"the scheduler at {where} is out of reach: what needs it waits, the rest goes on")

    def cannot_reach(self, peer: bytes, reason: str) -> None:
        """A worker that was granted has an address that is unknown here (caller holds the lock)."""
        self._unreachable_since[peer] = -math.inf
        self.channel.link_events.append(LinkFailed(peer, reason))
        self.loop.wake()

    def _give_up_worker(self, peer: bytes, reason: str, settled: Settled) -> None:
        """As if the worker had ended; the scheduler sees to it that it does (caller holds the lock)."""
        self._unreachable_since.pop(peer, None)
        pool, lease = self._by_worker.get(peer, (None, ""))
        if pool is None or lease not in self._by_lease:
            return
        self.tell_scheduler(driver_to_scheduler.ReturnLease(lease, 0.0))
        self.lease_ended(lease)
        settled += pool.handle(functools.partial(pool.on_link_lost, lease, reason), time.monotonic())

    def cluster_cpus(self) -> float:
        """CPUs of all nodes of the cluster."""
        if self.questions is None:
            return float(cpu_count())
        nodes = self.nodes()
        if nodes is not None:
            present = sum(node.capacity.num_cpus for node in nodes)
            return max(present, self.cluster.cpus()) if self.cluster is not None else present
        return self.welcome.capacity.num_cpus if self.welcome is not None else 0.0

    def nodes(self) -> tuple[scheduler_to_driver.NodeStatus, ...] | None:
        """The nodes of the cluster; None when there is no cluster, or it does not answer in time."""
        if self.questions is None:
            return None
        question = self.questions.ask()
        self.wait_for_event(question.answered, _STATUS_S)
        return question.answer.nodes if question.answer is not None else None

    def give_up_store(self) -> None:
        """Nobody took over what this process has stored."""
        self.store.close()
        if self.node is not None:
            self.node.cleanup()

    # -- waiting ------------------------------------------------------------------------------------------------

    def wait_for_future(self, future: DistFuture[Any], deadline: float | None) -> None:
        """Block until the future is done, while other threads serve the channel (errors as in
        ``concurrent.futures``)."""
        condition = future._condition
        with condition:
            if not condition.wait_for(future.done, None if deadline is None else deadline - time.monotonic()):
                raise TimeoutError

    def wait_for_nested(self, future: DistFuture[Any], deadline: float | None) -> None:
        """In a worker: block until the future is done, and lend this worker's slot meanwhile."""
        with self._lending():
            if not self.loop.lead(future.done, deadline):
                self.wait_for_future(future, deadline)

    def wait_for_event(self, event: threading.Event, timeout_s: float | None = None) -> bool:
        """Block until the event is set, lending this worker's slot if this is a worker."""
        if event.is_set():
            return True
        with self._lending():
            return event.wait(timeout_s)

    def _lending(self) -> Any:
        if self.worker is None:
            return self._noticing_interrupt()
        from distpool.worker import context

        return context.blocked()

    def _noticing_interrupt(self) -> Any:
        return ending.noticing_interrupt(self)

    # -- the end ------------------------------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._closed

    def close(self, bequeath: bool = False) -> None:
        """End everything that this session started; what is still running is killed.

        :param bequeath: what this process has stored stays, for the session that comes after this one.
        """
        with self.lock:
            if self._closed:
                return
            self._closed = True
            pools = list(self.pools.values())
        for pool in pools:
            pool.kill()
        for pool in pools:
            pool.join(5.0)
        self.tell_scheduler(driver_to_scheduler.DriverGoodbye())
        self.loop.stop()
        if self.node is not None and not bequeath:
            self.node.stop()
        self._let_go(bequeath)
        # The closed session may be referred to for long; what its pools were given must not be.
        with self.lock:
            self._by_worker.clear()
            self.pools.clear()


def _version() -> str:
    from distpool.version import __version__

    return __version__
