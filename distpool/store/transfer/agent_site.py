"""The site of a node, in its agent: serves the node's workers, other nodes and drivers.

One more service of the agent's loop, with a ZeroMQ context of its own: encryption takes a thread's time, and the
agent's other peers must not wait for it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import msgspec
import zmq

from distpool.store.service import StoreService
from distpool.store.transfer.admission import NodeAdmission
from distpool.store.transfer.claims import Claims
from distpool.store.transfer.connections import Connections, Find, Loop
from distpool.store.transfer.custody import Custody
from distpool.store.transfer.evacuation import Evacuation
from distpool.store.transfer.files import Files
from distpool.store.transfer.site import Site
from distpool.wire import agent_to_store_client as agent_says
from distpool.wire import codec, site_to_site
from distpool.wire import store_client_to_agent as client_says
from distpool.wire.channel import Channel
from distpool.wire.gatekeeper import Gatekeeper
from distpool.wire.objects import Place, is_driver
from distpool.wire.security import Keys

log = logging.getLogger("distpool.node")

#: What a worker may have passed on.
_PASSED_ON = (site_to_site.ObjectsEnded, site_to_site.MakerEnded, site_to_site.SegmentsUnneeded)
_decode = codec.decoder(site_to_site.Message).decode
#: How often it is looked whether drivers for whom something is kept are still there, and after how long they are not.
_LOOK_S, _GONE_S = 5.0, 60.0


class AgentSite:
    """See the module's description.

    :param listen: binds the channel that it is given; returns the endpoint that others dial.
    :param find: asks the scheduler where a site is.
    :param stands_for: told of which nodes that leave this one has the objects.
    """

    def __init__(
        self,
        loop: Loop,
        node: str,
        keys: Keys,
        folder: str,
        books: StoreService,
        listen: Callable[[Channel], str],
        find: Find,
        stands_for: Callable[[tuple[str, ...]], None],
    ) -> None:
        self._books = books
        self._loop = loop
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        Gatekeeper(self._context, keys)
        self._listening = Channel(self._context, f"t-{node}".encode(), keys, bulk=True)
        self._dialling = Channel(self._context, f"p-{node}".encode(), keys, bulk=True)
        self.endpoint = listen(self._listening)
        name = f"a-{node}"
        admission = NodeAdmission(lambda message: books.tell(name, message))
        books.add_local_client(name, admission.on_message)
        books.on_elsewhere = self._on_client
        self._files = Files(folder, name)
        self._site = Site(
            node,
            loop,
            self._files,
            admission,
            lambda site: Connections(loop, self._dialling, self._listening, find, site),
        )
        admission.site = self._site
        self._connections = self._site.connections
        self._custody = Custody(self._files.segments, self._files.remove)
        self._claims = Claims(self._pass_on)
        self._evacuation = Evacuation(self._site, self._custody, stands_for)
        self._look_at: float | None = None
        self._unreachable_since: dict[str, float] = {}
        self._site.handles(site_to_site.MakerEnded, self._on_maker_ended)
        self._site.handles(site_to_site.SegmentsUnneeded, self._on_unneeded)
        self._site.handles(site_to_site.SiteGoodbye, lambda site, message: self._custody.on_keeper_gone(site))
        loop.add_timer(self._claims.next_deadline, self._claims.expire)
        loop.add_timer(self._custody.next_deadline, self._custody.expire)
        loop.add_timer(self._evacuation.next_deadline, self._evacuation.on_time)
        loop.add_timer(lambda: self._look_at, self._look)

    def start(self) -> None:
        """Look at what came before the loop watched."""
        self._connections.start()

    def found(self, site: str, at: str, endpoint: str) -> None:
        """The scheduler said where a site is."""
        self._connections.found(site, at, endpoint)

    def tell_copies(self, home: str, seeker: str) -> None:
        """Somebody seeks copies of what a site that is gone had."""
        self._site.tell_copies(home, seeker)

    def evacuate(self, successor: str, endpoint: str, done: Callable[[bool], None]) -> None:
        """The node leaves: have what is still needed taken over by another, then call ``done`` with whether it was."""
        self._evacuation.begin(successor, endpoint, done)

    # -- a service of the agent -----------------------------------------------------------------------------------

    def on_message(self, peer: bytes, frames: list[bytes]) -> None:
        """See ``node.agent.Service``."""

    def on_worker_exited(self, worker: str) -> None:
        """See ``node.agent.Service``."""
        now = time.monotonic()
        self._claims.on_exit(worker, now)
        self._custody.on_death(worker, now)

    def close(self) -> None:
        """See ``node.agent.Service``."""
        self._files.close()
        self._listening.close()
        self._dialling.close()
        self._context.term()  # the gatekeeper closes its socket itself
        self._connections.close()

    # -- workers of the node --------------------------------------------------------------------------------------

    def _on_client(self, client: str, message: client_says.ObjectsWanted | client_says.PassOn) -> None:
        if isinstance(message, client_says.PassOn):
            try:
                passed = _decode(message.message)
            except msgspec.DecodeError:
                return
            if isinstance(passed, _PASSED_ON):
                if not isinstance(passed, site_to_site.ObjectsEnded):
                    self._claims.note(client, message.site, passed)
                self._pass_on(message.site, passed)
            return

        def done(places: list[Place], lost: dict[str, str]) -> None:
            self._books.send(client, agent_says.ObjectsHere(message.request, places, lost))

        self._site.want(message.extents, done)

    def _pass_on(
        self,
        site: str,
        message: site_to_site.ObjectsEnded | site_to_site.MakerEnded | site_to_site.SegmentsUnneeded,
    ) -> None:
        if site == self._site.name:
            self._site.on_site_said(site, message)
        else:
            self._connections.ask(site, message)

    # -- what the dead left ---------------------------------------------------------------------------------------

    def _on_maker_ended(self, site: str, message: site_to_site.MakerEnded) -> None:
        self._custody.on_claim(message.maker, message.keep, site)
        if self._look_at is None:
            self._look_at = time.monotonic() + _LOOK_S

    def _on_unneeded(self, site: str, message: site_to_site.SegmentsUnneeded) -> None:
        self._custody.let_go(message.segments, site)

    def _look(self, now: float) -> None:
        keepers = self._custody.drivers()
        for driver in filter(is_driver, keepers):
            if self._connections.tell(driver, site_to_site.SitePing()):
                self._unreachable_since.pop(driver, None)
            elif self._unreachable_since.setdefault(driver, now) + _GONE_S <= now:
                log.info("what was kept for %s goes: it has been out of reach for %g s", driver, _GONE_S)
                self._custody.on_keeper_gone(driver)
        self._look_at = now + _LOOK_S if keepers else None
