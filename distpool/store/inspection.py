"""Asks the agent of a node what is in its store, from a process that has nothing to do with it.

Called by the command line.
"""

from __future__ import annotations

import os

from distpool.store.link import Asked, Link, node_lives
from distpool.store.spill import NodeFacts
from distpool.wire.agent_to_store_client import NodeContents
from distpool.wire.store_client_to_agent import ContentsWanted, StoreContents, StoreReport


class _Onlooker:
    """A client that has nothing; see ``link.Party``."""

    def on_granted(self, size_bytes: int, asked: Asked | None) -> None:
        pass

    def on_reclaim(self, round: int) -> tuple[int, StoreReport]:
        return 0, StoreReport(round, [], [])

    def on_spill(self, segment: str) -> tuple[int, str]:
        return 0, ""

    def describe(self, request: int) -> StoreContents:
        return StoreContents(request, 0, 0, [])


def ask_node(folder: str, timeout_s: float) -> tuple[str, NodeContents] | None:
    """The node's name, and what its processes say.

    :param folder: a store folder.
    :returns: None when no agent keeps its books, or none answers in time.
    """
    if not node_lives(folder) or (facts := NodeFacts.read(folder)) is None:
        return None
    name = f"look-{os.getpid()}-{os.urandom(4).hex()}"
    link = Link(folder, facts, name, 0, _Onlooker())
    try:
        asked = link.ask(Asked(), ContentsWanted)
        asked.wait(timeout_s)
    finally:
        link.close()
    if not isinstance(asked.answer, NodeContents):
        return None
    asked.answer.clients.pop(name, None)
    return facts.agent.removeprefix("a-"), asked.answer
