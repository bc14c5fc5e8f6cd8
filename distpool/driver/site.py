"""The site of a driver of a cluster: what it stores itself, and what it fetches from nodes.

A driver is no node.  It has a store folder of its own, and a thread, started when something is first to be sent or
fetched.  It dials agents and is dialled by nobody: an agent that wants something of it asks the scheduler, which tells
the driver to dial.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial

import zmq

from distpool.errors import ObjectLostError
from distpool.node import machine
from distpool.node.folders import Folders, sweep
from distpool.node.loop import Loop
from distpool.store.elsewhere import check
from distpool.store.settings import StoreSettings
from distpool.store.spill import NodeFacts
from distpool.store.transfer.admission import DriverAdmission
from distpool.store.transfer.connections import Connections
from distpool.store.transfer.files import Files
from distpool.store.transfer.site import Site
from distpool.wire import driver_to_scheduler, scheduler_to_driver, site_to_site
from distpool.wire.channel import Channel
from distpool.wire.doorbell import Doorbell
from distpool.wire.objects import Extent, Place
from distpool.wire.security import Keys

#: How long last words may take to reach the nodes.
_LINGER_S = 1.0


class DriverSite:
    """See the module's description; an ``Elsewhere`` for the driver's store.

    :param name: the driver's routing id as text.
    :param tell_scheduler: ``on_scheduler_said`` is the answer.
    :param wait: blocks until an event is set; whoever waits in the thread that hears the scheduler goes on hearing it.
    :param wake: has that thread look whether the event is set.
    """

    def __init__(
        self,
        name: str,
        keys: Keys,
        tell_scheduler: Callable[[driver_to_scheduler.SiteWanted], None],
        wait: Callable[[threading.Event], bool],
        wake: Callable[[], None],
    ) -> None:
        self.name = name
        self._keys = keys
        self._tell_scheduler = tell_scheduler
        self._wait = wait
        self._wake = wake
        self._folders = Folders.plan()
        self._settings = StoreSettings.make(spill_uri="")
        self._made_lock = threading.Lock()
        self._made_folders = False
        self._budget_bytes = 0
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._waiting: set[threading.Event] = set()
        self._loop = Loop()
        self._bell = Doorbell()
        self._loop.watch(self._bell.fd, self._bell.answer)
        self._connections: Connections | None = None
        self._site: Site | None = None

    @property
    def store_folder(self) -> str:
        """Where the driver's store keeps its segments."""
        return self._folders.store

    def prepare(self) -> None:
        """Make the folders, before they are first used.

        :raises OSError: when that is not possible.
        """
        with self._made_lock:
            if self._made_folders or self._closed:
                return
            self._folders.make()
            self._made_folders = True
            store = self.store_folder
            self._budget_bytes = self._settings.budget_bytes(store, machine.memory_size_bytes())
            # What this process stores itself and what it fetches share the memory.
            NodeFacts("", "", self._budget_bytes, self._budget_bytes // 2, self._folders.spill).write(store)

    # -- an ``Elsewhere`` -----------------------------------------------------------------------------------------

    def bring(self, extents: Sequence[Extent]) -> list[Place]:
        """See ``store.elsewhere.Elsewhere``."""
        arrived = threading.Event()
        answer: list[tuple[list[Place], dict[str, str]]] = []

        def done(places: list[Place], lost: dict[str, str]) -> None:
            answer.append((places, lost))
            arrived.set()
            self._wake()

        def ask() -> None:
            self._made().want(extents, done)

        with self._lock:
            closed = self._closed
            if not closed:
                self._start()
                self._waiting.add(arrived)
                self._post(ask)
        if not closed:
            try:
                self._wait(arrived)
            finally:
                self._waiting.discard(arrived)
        if not answer:
            raise ObjectLostError(
                f"object {extents[0].object_id} was not fetched from the cluster before distpool was shut down; read "
                "results before that",
                [extent.object_id for extent in extents],
            )
        places, lost = answer[0]
        check(lost)
        return places

    def tell(self, site: str, message: site_to_site.Message) -> None:
        """See ``store.elsewhere.Elsewhere``."""
        if self._closed:
            return
        if self._thread is None:
            # Nobody has fetched anything so far, and nobody needs to know, unless something is to stay.
            if not (isinstance(message, site_to_site.MakerEnded) and message.keep):
                return
            with self._lock:
                self._start()
        self._post(lambda: self._tell(site, message))

    # -- the scheduler's word ---------------------------------------------------------------------------------------

    def on_scheduler_said(self, message: scheduler_to_driver.SiteAt | scheduler_to_driver.CopiesWanted) -> None:
        """Where a site is, or that it wants to be dialled; or who seeks copies of what a site had that is gone."""
        with self._lock:
            if self._closed:
                return
            if isinstance(message, scheduler_to_driver.CopiesWanted):
                if self._thread is not None:  # otherwise there are none
                    self._post(lambda: self._made().tell_copies(message.site, message.seeker))
                return
            self._start()
        self._post(lambda: self._found(message.site, message.at, message.endpoint, message.summoned))

    # -- the end ----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Nothing is fetched or sent any more; folders go.  Views that exist stay valid."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            thread = self._thread
        if thread is not None:
            self._post(self._loop.stop)
            thread.join()
        self._bell.close()
        for waiting in list(self._waiting):
            waiting.set()
        self._wake()
        if self._made_folders:
            self._folders.remove()

    def forget(self) -> None:
        """In a forked child: it is all the parent's."""
        self._closed = True
        self._folders.let_go()

    # -- the thread -------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        if self._thread is None:
            self.prepare()
            self._thread = threading.Thread(target=self._run, name="distpool-site", daemon=True)
            self._thread.start()

    def _post(self, action: Callable[[], None]) -> None:
        self._loop.soon(action)
        self._bell.ring()

    def _run(self) -> None:
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        channel = Channel(context, f"p-{self.name}".encode(), self._keys, bulk=True)
        connect = partial(Connections, self._loop, channel, None, self._find)
        files = Files(self.store_folder, self.name)
        admission = DriverAdmission(self.store_folder, self._budget_bytes // 2)
        self._site = site = Site(self.name, self._loop, files, admission, connect)
        self._connections = site.connections
        site.connections.start()
        try:
            sweep()
            self._loop.run()
        finally:
            site.connections.tell_all(site_to_site.SiteGoodbye())
            files.close()
            channel.close(_LINGER_S)
            context.term()
            site.connections.close()

    def _find(self, site: str, copies: bool) -> None:
        self._tell_scheduler(driver_to_scheduler.SiteWanted(site, copies))

    def _made(self) -> Site:
        assert self._site is not None
        return self._site

    def _tell(self, site: str, message: site_to_site.Message) -> None:
        here = self._made()
        if isinstance(message, site_to_site.ObjectsEnded):
            here.on_ended(message.object_ids)
            if site != self.name:
                here.connections.tell(site, message)  # if it has never been asked for anything, it has told nobody
        else:
            here.connections.ask(site, message)

    def _found(self, site: str, at: str, endpoint: str, summoned: bool) -> None:
        connections = self._made().connections
        if summoned:
            connections.dial(at, endpoint)
        else:
            connections.found(site, at, endpoint)
