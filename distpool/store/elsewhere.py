"""What lies in the stores of other sites, as a process' store sees it.

A worker asks its agent, which has what is needed brought to the node (``transfer``); a driver of a cluster is a site of
its own.  A store without an ``Elsewhere`` knows only its own folder.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from distpool.errors import ObjectLostError
from distpool.store.room import Room
from distpool.wire import codec, site_to_site
from distpool.wire.agent_to_store_client import ObjectsHere
from distpool.wire.objects import Extent, Place
from distpool.wire.store_client_to_agent import ObjectsWanted, PassOn

if TYPE_CHECKING:

    class Elsewhere(Protocol):
        """See the module's description.  Any thread may call any method."""

        def bring(self, extents: Sequence[Extent]) -> list[Place]:
            """Have these objects on this site; waits.

            :raises ObjectLostError: when one of them cannot be had.
            """

        def tell(self, site: str, message: site_to_site.Message) -> None:
            """Send to a site, which may be this one; soon, and never waits.  May be called from finalizers."""


def check(lost: dict[str, str]) -> None:
    """Raise what follows from objects that cannot be had, by their ids, with the reasons.

    :raises ObjectLostError: if there are any.
    """
    if lost:
        object_id, reason = next(iter(lost.items()))
        more = f" (and {len(lost) - 1} more)" if len(lost) > 1 else ""
        raise ObjectLostError(f"object {object_id}{more} is lost: {reason}", tuple(lost))


class ThroughAgent:
    """A worker's."""

    def __init__(self, room: Room) -> None:
        self._room = room
        #: What waits until there is a reason to make the agent's acquaintance.
        self._waiting: deque[PassOn] = deque(maxlen=10_000)

    def bring(self, extents: Sequence[Extent]) -> list[Place]:
        """See ``Elsewhere``."""
        answer = self._room.ask(lambda request: ObjectsWanted(request, list(extents)))
        if not isinstance(answer, ObjectsHere):
            raise ObjectLostError(
                f"object {extents[0].object_id} cannot be fetched: the agent of this node is gone",
                [extent.object_id for extent in extents],
            )
        while self._waiting:
            self._room.say_later(self._waiting.popleft())
        check(answer.lost)
        return answer.places

    def tell(self, site: str, message: site_to_site.Message) -> None:
        """See ``Elsewhere``."""
        passed = PassOn(site, codec.encode(message))
        if isinstance(message, site_to_site.MakerEnded) and message.keep:
            self._room.link()  # what is needed goes if nobody says so
        if not self._room.say_later(passed):
            self._waiting.append(passed)
