"""Connections between sites: who is dialled, who dials, and what waits until somebody is reached.

Agents have two channels, one that listens (``t-<site>``) and one that dials (``p-<site>``), since two that dial each
other under the same name would collide.  A driver only dials.  Where a site is says the scheduler, when asked.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from distpool.store.transfer.allocator import keep_freed_memory
from distpool.wire import codec, site_to_site
from distpool.wire.channel import Channel, PeerUnreachable
from distpool.wire.doorbell import Doorbell
from distpool.wire.links import LinkDown, LinkUp
from distpool.wire.objects import is_driver

_decode = codec.decoder(site_to_site.Message).decode
_HELLO = codec.encode(site_to_site.SiteHello())
#: Messages that wait for a site to be found; more than that is never under way.
_MOST_WAITING = 10_000


#: Asks the scheduler where a site is, or (True) that those who have copies of its objects tell us.
Find = Callable[[str, bool], None]


class Loop(Protocol):
    """The part of ``node.loop.Loop`` that is needed here."""

    def watch(self, fd: int, callback: Callable[[], None]) -> None: ...
    def soon(self, callback: Callable[[], None]) -> None: ...
    def add_timer(self, deadline: Callable[[], float | None], on_time: Callable[[float], None]) -> None: ...


class Party(Protocol):
    """Who is told; in the loop's thread."""

    def on_site_said(self, site: str, message: Any) -> None: ...
    def on_chunk(self, site: str, chunk: site_to_site.Chunk, data: memoryview) -> None: ...
    def on_link_up(self, site: str) -> None: ...
    def on_link_lost(self, site: str) -> None: ...
    def on_site_gone(self, site: str) -> None: ...


class Connections:
    """See the module's description.

    :param dialling: the channel that dials.
    :param listening: the one that listens; None in a driver.
    :param find: asks the scheduler where a site is; answered by ``found``.
    """

    def __init__(self, loop: Loop, dialling: Channel, listening: Channel | None, find: Find, party: Party) -> None:
        keep_freed_memory()
        self._dialling = dialling
        self._listening = listening
        self._find = find
        self._party = party
        self._loop = loop
        #: site -> the one that stands for it, and has been dialled
        self._stands_for: dict[str, str] = {}
        self._endpoints: dict[str, str] = {}
        #: sites to which there is no connection at present, though they have been dialled
        self._down: set[str] = set()
        #: what waits until a site is found
        self._waiting: dict[str, deque[bytes]] = {}
        self._bell = Doorbell()
        dialling.watch_links(self._bell.ring)
        loop.watch(self._bell.fd, self._on_links)
        for channel in filter(None, (dialling, listening)):
            for fd in channel.descriptors:
                loop.watch(fd, lambda channel=channel: self._on_readable(channel))  # type: ignore[misc]

    def start(self) -> None:
        """Look at what came before the loop watched: it makes no further edge."""
        for channel in filter(None, (self._dialling, self._listening)):
            self._on_readable(channel)

    def close(self) -> None:
        """Give up the doorbell; the channels must have been closed."""
        self._bell.close()

    def ask(self, site: str, message: site_to_site.Message) -> None:
        """Send to a site, which is looked for first if need be."""
        data = codec.encode(message)
        waiting = self._waiting.get(site)
        if waiting is None and self._send(site, data):
            return
        if waiting is None:
            waiting = self._waiting[site] = deque(maxlen=_MOST_WAITING)
            self._find(site, False)
        elif self._stands_for.get(site) in self._down:
            self._find(site, False)  # meanwhile it may be known to be no more
        waiting.append(data)

    def tell(self, site: str, message: site_to_site.Message) -> bool:
        """Send to a site if there is a connection to it, or one is being made; whether that is so."""
        data = codec.encode(message)
        waiting = self._waiting.get(site)
        if waiting is None:
            return self._send(site, data)
        waiting.append(data)
        return True

    def tell_all(self, message: site_to_site.Message) -> None:
        """Send to all that were dialled."""
        for site in self._endpoints:
            self._send(site, codec.encode(message))

    def reply(self, site: str, message: site_to_site.Message, *data: memoryview) -> bool:
        """Send to a site that asked; False when it is out of reach."""
        channel, peer = self._dialling, b"t-"
        if self._listening is not None:
            channel, peer = self._listening, b"p-"
        return _try(channel, peer + site.encode(), codec.encode(message), *data)

    def find(self, site: str) -> None:
        """Ask anew where a site is."""
        self._find(site, False)

    def find_copies(self, site: str) -> None:
        """A site is gone: ask for those who have copies of its objects."""
        self._find(site, True)

    def stands_for(self, site: str) -> str:
        """Under which name it is reached."""
        return self._stands_for.get(site, site)

    def found(self, site: str, at: str, endpoint: str) -> None:
        """The scheduler said where a site is; ``at``, which stands for it, is empty when it is no more."""
        if not at:
            self._waiting.pop(site, None)
            if self._stands_for.pop(site, site) == site:
                self._hang_up(site)
            self._party.on_site_gone(site)
            return
        self.dial(at, endpoint)
        self._stands_for[site] = at
        if at not in self._down:  # otherwise when it is back
            self._reached(site)

    def dial(self, site: str, endpoint: str) -> None:
        """Connect to a site that listens."""
        if self._endpoints.get(site) == endpoint:
            self._send(site, _HELLO)
            return
        self._hang_up(site)
        try:
            self._dialling.connect(endpoint, b"t-" + site.encode())
        except OSError:
            return  # its host is not known here: it stays out of reach
        self._endpoints[site] = endpoint
        self._stands_for[site] = site
        self._down.add(site)  # until it answers

    def _hang_up(self, site: str) -> None:
        self._down.discard(site)
        if self._endpoints.pop(site, None) is not None:
            self._dialling.disconnect(b"t-" + site.encode())

    def _send(self, site: str, data: bytes) -> bool:
        if is_driver(site):
            return self._listening is not None and _try(self._listening, b"p-" + site.encode(), data)
        at = self._stands_for.get(site)
        return at is not None and at not in self._down and _try(self._dialling, b"t-" + at.encode(), data)

    def _reached(self, site: str) -> None:
        for data in self._waiting.pop(site, ()):
            self._send(site, data)
        self._party.on_link_up(site)

    def _on_readable(self, channel: Channel) -> None:
        for peer, frames in channel.drain_woken():
            try:
                site = peer[2:].decode()
                message = _decode(frames[0])
            except (msgspec.DecodeError, UnicodeDecodeError, IndexError):
                continue  # no message of a site: as if it had not come
            if isinstance(message, site_to_site.SiteHello):
                if is_driver(site):
                    self._reached(site)
            elif isinstance(message, site_to_site.Chunk):
                if len(frames) == 2:
                    self._party.on_chunk(site, message, memoryview(frames[1]))
            else:
                self._party.on_site_said(site, message)

    def _on_links(self) -> None:
        self._bell.answer()
        events = self._dialling.link_events
        while events:
            event = events.popleft()
            if not isinstance(event, (LinkUp, LinkDown)):
                continue
            site = event.peer[2:].decode()
            names = [name for name, at in self._stands_for.items() if at == site]
            if isinstance(event, LinkUp):
                self._down.discard(site)
                self._send(site, _HELLO)
                for name in names:
                    self._reached(name)
            else:
                self._down.add(site)
                for name in names:
                    self._party.on_link_lost(name)


def _try(channel: Channel, peer: bytes, *parts: bytes | memoryview) -> bool:
    try:
        channel.send(peer, parts)
    except PeerUnreachable:
        return False
    return True
