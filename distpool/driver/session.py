"""The process's one connection to its workers: attach or start, the channel, the pools, the end.

A session owns the channel, the lock that guards all its cores, and one thread (``loop.Loop``) that serves what arrives
while no other thread happens to do so.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import TimeoutError
from typing import TYPE_CHECKING, Any

import zmq

from distpool import crashpoints, errors
from distpool.driver import ending
from distpool.driver.ahead import load_needed
from distpool.driver.finalized import Finalized
from distpool.driver.functions import FunctionTable
from distpool.driver.interrupts import shield
from distpool.driver.introduction import Introduction
from distpool.driver.leases import Leases
from distpool.driver.lifeline import Lifeline
from distpool.driver.links import SCHEDULER, Links
from distpool.driver.loop import Loop
from distpool.driver.origin import Origin, find_origin
from distpool.driver.pool import WorkerPool
from distpool.driver.recovery import Recovery
from distpool.driver.shell import Settled
from distpool.driver.spec import PoolSpec
from distpool.driver.threads import require_threads
from distpool.store.current import install, store_of_this_process
from distpool.wire import codec, driver_to_scheduler, scheduler_to_driver
from distpool.wire.channel import Channel, PeerUnreachable
from distpool.worker import context as worker_context

if TYPE_CHECKING:
    from distpool.driver.attach import Questions
    from distpool.driver.future import DistFuture
    from distpool.driver.site import DriverSite
    from distpool.store.client import ObjectStore
    from distpool.store.settings import StoreSettings

#: How long last words may take to reach another machine.
_LINGER_S = 1.0
#: How long ``cpu_count`` waits for news of the cluster before it takes what was known.
_STATUS_S = 5.0
_monotonic = time.monotonic


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
        self.store_settings = store_settings
        #: As it was asked for; None: the private node, or a worker's scheduler.
        self.address = address
        self.lifeline = Lifeline(self)
        origin = find_origin(address, store_settings, predecessor, self.lifeline.on_cluster_lost)
        self.worker, self.node, self.cluster = origin.worker, origin.node, origin.cluster
        self.endpoint = origin.endpoint
        # What this process imports, it imports while the node starts.
        load_needed()
        from distpool.code.definitions import DefinitionServer
        from distpool.code.pickler import function_is_stable

        self.introduction = Introduction(self)
        self.links = Links(self)
        self.leases = Leases()
        self.finalized = Finalized(self)
        #: What this program stores and fetches, if it is none of the cluster's nodes.
        self.site: DriverSite | None = None
        self.store = self._open_store(origin, predecessor)
        self.recovery = Recovery(self, keeps_arguments=origin.keys is not None)
        self.definitions = DefinitionServer(self.store)
        self.functions = FunctionTable(self.definitions.pack_function, function_is_stable)
        self.pools: dict[str, WorkerPool] = {}
        self.interrupted = False
        self._next_pool = 0
        self._callbacks: deque[DistFuture[Any]] = deque()
        self.due: deque[Callable[[], None]] = deque()  #: What waits for futures that have been settled.
        self._attending = threading.Lock()
        self._closed = False
        self.questions: Questions | None = None  #: About a cluster's nodes, if it works with one.
        try:
            require_threads()
        except errors.ConnectError:
            if self.node is not None:
                self.node.stop()
            raise
        self._context = zmq.Context()
        self.channel = Channel(self._context, self.routing_id, origin.keys)
        self.loop = Loop(self)
        try:
            if self.node is not None:
                self.node.wait_ready()
            self._attach()
        except BaseException:
            self.loop.stop()
            self._let_go()
            if self.node is not None:
                self.node.stop()
            raise
        if self._owns_store:
            install(self.store)
        if self.worker is not None:
            worker_context.when_interrupted(self.end_nested)
        if self.node is None:
            self.loop.start()

    def _open_store(self, origin: Origin, predecessor: Session | None) -> ObjectStore:
        from distpool.store.client import ObjectStore

        on_free = self.finalized.release
        # A process has one store: in a worker, what a task puts there may become part of its result.
        inherited = store_of_this_process() if self.worker is not None else None
        if predecessor is not None:
            inherited = predecessor.store
            inherited.change_node()
        self._owns_store = inherited is None or predecessor is not None
        if inherited is not None:
            inherited.on_free = on_free
            return inherited
        name = self.routing_id.decode()
        if self.address is None:
            return ObjectStore(origin.store_folder, name, on_free=on_free)
        from distpool.driver.site import DriverSite

        assert origin.keys is not None
        site = DriverSite(name, origin.keys, self.tell_scheduler, self.wait_for_event, self._wake)
        store = ObjectStore(site.store_folder, name, node=name, on_free=on_free, prepare=site.prepare)
        store.elsewhere = self.site = site
        return store

    @property
    def remote(self) -> bool:
        """Whether workers may be on other machines."""
        return self.questions is not None

    def _attach(self) -> None:
        """Say hello to the scheduler; one on another machine must answer."""
        if not self.endpoint.startswith("tcp://"):
            self.channel.connect(self.endpoint, SCHEDULER)
            self.introduction.say_hello()
            return
        from distpool.driver.attach import Questions

        self.questions = Questions(self.channel)
        self.channel.watch_links(self.links.on_news)
        self.introduction.meet(self.endpoint.removeprefix("tcp://"))

    def _let_go(self, bequeath: bool = False) -> None:
        linger_s = 0.0 if self.node is not None else _LINGER_S
        self.links.hang_up_on_the_gone()
        self.channel.close(linger_s)
        self._context.destroy(linger=int(linger_s * 1000))
        if bequeath:
            for peer in list(self.leases.workers()):
                self.store.process_died(peer.decode())
        elif self._owns_store:
            self.store.close()
        if self.site is not None:
            self.site.close()
        if self.cluster is not None:
            self.cluster.stop()

    def nodes(self) -> tuple[scheduler_to_driver.NodeStatus, ...] | None:
        """The nodes of the cluster; None when there is no cluster, or it does not answer in time."""
        if self.questions is None:
            return None
        question = self.questions.ask()
        self.wait_for_event(question.answered, _STATUS_S)
        return question.answer.nodes if question.answer is not None else None

    # -- pools --------------------------------------------------------------------------------------------------

    def open_pool(self, spec: PoolSpec) -> WorkerPool:
        """A new pool with workers of its own."""
        with self.lock:
            self._next_pool += 1
            pool_id = f"{self.routing_id.decode()}.{self._next_pool}"
        return self._announce(WorkerPool(self, spec, pool_id, owned=True))

    def join_pool(self, pool_id: str, spec: PoolSpec) -> WorkerPool:
        """The pool of that name: this process's own, or in a worker a share of the one that its driver opened."""
        with self.lock:
            pool = self.pools.get(pool_id)
        if pool is not None and not pool.closed:
            return pool
        return self._announce(WorkerPool(self, spec, pool_id, owned=False))

    def _announce(self, pool: WorkerPool) -> WorkerPool:
        with shield:
            with self.lock:
                if self._closed:
                    raise RuntimeError("distpool was shut down in this process")
                self.loop.start()
                self.pools[pool.pool_id] = pool
                self.tell_scheduler(pool.announcement())
                settled = pool.shell.handle(pool.shell.on_opened, _monotonic())
                self.lifeline.break_if_lost(pool, settled)
            self.settle(settled)
        return pool

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

    def end_nested(self, attempt: int) -> None:
        """In a worker: an attempt was interrupted; end what it submitted."""
        for pool in list(self.pools.values()):
            pool.kill_nested(attempt)

    def announce_changed_definitions(self) -> None:
        """Tell workers about names of ``__main__`` that were rebound since they got them."""
        changes = self.definitions.changes()
        if changes:
            with shield, self.lock:
                for peer in self.leases.workers():
                    for change in changes:
                        self.send(peer, change)

    # -- receiving ----------------------------------------------------------------------------------------------

    def assist(self) -> None:
        """Serve what has arrived, in the caller's thread."""
        with shield:
            self.loop.serve()

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
        return bool(self._callbacks or self.finalized.has_notes)

    def busy(self) -> bool:
        """Whether any task is under way."""
        return any(pool.shell.busy for pool in list(self.pools.values()))

    def run_callbacks(self) -> None:
        """Run the done-callbacks of settled futures (in the loop's thread)."""
        while self._callbacks:
            self._callbacks.popleft().run_callbacks()

    def lease_began(self, pool: WorkerPool, grant: scheduler_to_driver.LeaseGranted) -> None:
        """A worker is ours (caller holds the lock)."""
        self.leases.began(pool, grant, labelled=self.remote)

    def decline(self, grant: scheduler_to_driver.LeaseGranted) -> None:
        """A worker came that is not wanted: its pool has ended, or has given it up (caller holds the lock)."""
        self.tell_scheduler(driver_to_scheduler.ReturnLease(grant.lease, 0.0))

    def lease_ended(self, lease: str) -> None:
        """A worker is gone (caller holds the lock); its last words may still arrive for a moment."""
        peer = self.leases.ended(lease)
        if peer is not None:
            self.loop.hang_up_later(peer)

    def hang_up(self, peer: bytes, node: str = "") -> None:
        """A worker is gone, one of ours or (then on ``node``) one of a driver that died with a worker of ours."""
        with self.lock:
            self.leases.forget(peer)
        self.links.hang_up(peer)
        self.definitions.forget(peer)
        self.store.process_died(peer.decode(), node)

    # -- waiting ------------------------------------------------------------------------------------------------

    def wait_for_future(self, future: DistFuture[Any], deadline: float | None) -> None:
        """Block until the future is done, while others serve the channel (errors as in ``concurrent.futures``)."""
        condition = future._condition
        with condition:
            if not condition.wait_for(future.done, None if deadline is None else deadline - _monotonic()):
                raise TimeoutError

    def wait_for_event(self, event: threading.Event, timeout_s: float | None = None) -> bool:
        """Block until the event is set, lending this worker's slot if this is a worker."""
        if event.is_set():
            return True
        if self.loop.serves():
            # Nobody else may be there to bring what it waits for.
            return self.loop.lead(event.is_set, None if timeout_s is None else _monotonic() + timeout_s)
        with self._lending():
            return event.wait(timeout_s)

    def _wake(self) -> None:
        self.loop.wake()

    def _lending(self) -> Any:
        return ending.noticing_interrupt(self) if self.worker is None else worker_context.blocked()

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
            self.leases.forget_all()
            self.pools.clear()
            self.finalized.calls.clear()

    def give_up_store(self) -> None:
        """Nobody took over what this process has stored."""
        self.store.close()
        if self.node is not None:
            self.node.cleanup()
