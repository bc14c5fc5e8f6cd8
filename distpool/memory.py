"""``distpool.memory()``: what is in the object store, and why it is still there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distpool.wire.agent_to_store_client import NodeContents
    from distpool.wire.store_client_to_agent import StoreContents


@dataclass(frozen=True)
class ObjectInfo:
    """One object of the store.

    :ivar object_id: its name.
    :ivar size_bytes: bytes that it takes.
    :ivar owner: the process that decides when it ends.
    :ivar maker: the process in whose segment it lies.
    :ivar references: handles in this and other programs' processes: futures, references, arguments of unfinished tasks.
    :ivar where: ``"memory"``, ``"disk"``, or ``"lost"`` when its maker is gone or does not answer.
    :ivar viewed_by: processes in which an array, or anything else, looks at it.
    :ivar pinned_by: processes that told the owner that they still need it.
    :ivar reasons: why it is still there, in words.
    """

    object_id: str
    size_bytes: int
    owner: str
    maker: str
    references: int
    where: str
    viewed_by: tuple[str, ...] = ()
    pinned_by: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True)
class MemoryReport:
    """What ``memory`` returns; printing it gives a table.

    :ivar objects: the largest first.
    :ivar budget_bytes: how much shared memory the node's objects may take.
    :ivar allowed_bytes: how much of that is lent to processes, in use or for their next objects.
    :ivar orphaned_bytes: what is held by segments of processes that are gone, or that hold very little.
    """

    objects: list[ObjectInfo] = field(default_factory=list)
    budget_bytes: int = 0
    allowed_bytes: int = 0
    orphaned_bytes: int = 0

    @property
    def total_bytes(self) -> int:
        """Of all objects."""
        return sum(found.size_bytes for found in self.objects)

    def __str__(self) -> str:
        lent, left = _size(self.allowed_bytes), _size(self.orphaned_bytes)
        budget = f"budget {_size(self.budget_bytes)}, of which {lent} lent to processes and {left} left by others"
        lines = [f"{len(self.objects)} objects, {_size(self.total_bytes)}; {budget}"]
        if self.objects:
            lines.append(f"{'object':<24} {'size':>10} {'where':<7} {'refs':>4}  why it is still there")
        for found in self.objects:
            why = "; ".join(found.reasons)
            size = _size(found.size_bytes)
            lines.append(f"{found.object_id:<24} {size:>10} {found.where:<7} {found.references:>4}  {why}")
        return "\n".join(lines)


def memory() -> MemoryReport:
    """List the objects that are in this program's object store.

    Asks every process of the node that has stored anything larger; one that does not answer within two seconds is left
    out.  ``distpool memory`` does the same from the command line, for all nodes of this user on the machine.
    """
    from distpool.store.current import store_of_this_process

    store = store_of_this_process()
    if store is None:
        return MemoryReport()
    node = store.describe_node()
    contents = dict(node.clients) if node is not None else {}
    contents[store.owner] = store.describe()
    return report(node, contents, store.owner)


def report(node: NodeContents | None, contents: Mapping[str, StoreContents], own: str = "") -> MemoryReport:
    """Put together what the processes of a node told of themselves.

    :param node: what the agent says, if there is one.
    :param own: the name of this process, if it is one of them.
    """
    sizes: dict[str, tuple[int, str]] = {}
    owners: dict[str, str] = {}
    counts: dict[str, int] = {}
    reasons: dict[str, list[str]] = {}
    viewers: dict[str, list[str]] = {}
    pins: dict[str, list[str]] = {}
    adopted = {facts.object_id for told in contents.values() for facts in told.objects if facts.kind == "adopted"}
    for name, told in contents.items():
        here = "this process" if name == own else name
        for facts in told.objects:
            object_id = facts.object_id
            why = reasons.setdefault(object_id, [])
            if facts.where and (facts.size_bytes or object_id not in sizes):
                sizes[object_id] = facts.size_bytes, facts.where
            handles = facts.handles
            if facts.kind == "adopted" or (facts.kind == "own" and object_id not in adopted):
                owners[object_id] = name
            elif facts.kind == "own":
                handles -= 1  # the one that was handed over
            if handles > 0:
                counts[object_id] = counts.get(object_id, 0) + handles
                kind = "borrowed reference" if facts.kind == "borrowed" else "future, reference or unfinished task"
                why.append(f"{handles} × {kind} in {here}")
            if facts.viewed:
                viewers.setdefault(object_id, []).append(name)
                why.append(f"viewed in {here}")
            for holder in facts.pinned_by:
                pins.setdefault(object_id, []).append(holder)
                why.append(f"pinned by {holder}")
    objects = []
    for object_id, why in reasons.items():
        size_bytes, where = sizes.get(object_id, (0, "lost"))
        maker = object_id.rpartition(".")[0]
        objects.append(
            ObjectInfo(
                object_id,
                size_bytes,
                owners.get(object_id, maker),
                maker,
                counts.get(object_id, 0),
                where,
                tuple(viewers.get(object_id, ())),
                tuple(pins.get(object_id, ())),
                tuple(why) or (f"kept by {maker}, which handed it over to somebody who has not told yet",),
            )
        )
    objects.sort(key=lambda found: (-found.size_bytes, found.object_id))
    if node is None:
        return MemoryReport(objects)
    return MemoryReport(objects, node.budget_bytes, node.allowed_bytes, node.orphaned_bytes)


def _size(size_bytes: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size_bytes < 1000:
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.1f} TB"
