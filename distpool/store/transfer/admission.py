"""Room for copies of other sites' objects.

On a node the agent's books decide (``store.core``), for which the site is one more client: it asks and waits like every
producer of values, and when memory runs short its copies go first, not to disk but away: they can be had again.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable

from distpool.store.file_system import free_bytes
from distpool.store.transfer.site import Site
from distpool.wire import agent_to_store_client as agent_says
from distpool.wire import store_client_to_agent as client_says


class NodeAdmission:
    """By the agent's books.

    :param tell: says something to them, in the site's name; the answer comes later, to ``on_message``.
    """

    def __init__(self, tell: Callable[[client_says.Message], None]) -> None:
        self._tell = tell
        self._requests = itertools.count(1)
        self._waiting: dict[int, tuple[int, Callable[[bool], None]]] = {}
        self._greeted = False
        #: Whose copies they are.
        self.site: Site | None = None

    def ask(self, size_bytes: int, then: Callable[[bool], None]) -> None:
        """See ``site.Admission``."""
        if not self._greeted:
            self._greeted = True
            self._tell(client_says.StoreHello(os.getpid(), 0))
        request = next(self._requests)
        # The padding of a copy is two pages at most.
        self._waiting[request] = size_bytes, then
        self._tell(client_says.MemoryWanted(request, _charged(size_bytes)))

    def give_back(self, size_bytes: int) -> None:
        """See ``site.Admission``."""
        self._tell(client_says.MemoryReturned(_charged(size_bytes)))

    def on_message(self, message: agent_says.Message) -> None:
        """The books said something."""
        if isinstance(message, (agent_says.MemoryGranted, agent_says.UseDisk)):
            size_bytes, then = self._waiting.pop(message.request)
            granted = isinstance(message, agent_says.MemoryGranted)
            if isinstance(message, agent_says.MemoryGranted) and message.size_bytes > _charged(size_bytes):
                self._tell(client_says.MemoryReturned(message.size_bytes - _charged(size_bytes)))
            then(granted)
        elif isinstance(message, agent_says.Reclaim):
            copies = self.site.copies() if self.site is not None else []
            facts = [client_says.SegmentFacts(*copy) for copy in copies]
            self._tell(client_says.StoreReport(message.round, facts, []))
        elif isinstance(message, agent_says.Spill):
            for segment in message.segments:
                size_bytes = self.site.evict(segment) if self.site is not None else 0
                self._tell(client_says.SegmentSpilled(segment, size_bytes))
        elif isinstance(message, agent_says.DescribeContents):
            used = sum(size_bytes for _, size_bytes, _ in self.site.copies()) if self.site is not None else 0
            self._tell(client_says.StoreContents(message.request, used, used, []))


class DriverAdmission:
    """In a driver: in memory as long as there is enough.

    :param folder: where copies are kept in memory.
    :param budget_bytes: how much of it they may take.
    """

    def __init__(self, folder: str, budget_bytes: int) -> None:
        self._folder = folder
        self._left_bytes = budget_bytes

    def ask(self, size_bytes: int, then: Callable[[bool], None]) -> None:
        """See ``site.Admission``."""
        charged = _charged(size_bytes)
        in_memory = charged <= min(self._left_bytes, free_bytes(self._folder) * 9 // 10)
        if in_memory:
            self._left_bytes -= charged
        then(in_memory)

    def give_back(self, size_bytes: int) -> None:
        """See ``site.Admission``."""
        self._left_bytes += _charged(size_bytes)


def _charged(size_bytes: int) -> int:
    """For an object of so many bytes: whole pages, and one more for those that do not begin with one."""
    return -(-size_bytes // 4096) * 4096 + 4096
