"""Store client → agent: how much shared memory a process needs, gives back, and what of it could be spilled.

A client is one process' object store; its routing id is ``o-`` and the process' own.  It dials the agent only when it
needs more than the first few megabytes, which everyone may use without asking.
"""

from __future__ import annotations

import msgspec

from distpool.wire.objects import Extent


class _Message(msgspec.Struct, frozen=True, array_like=True, tag=True):
    pass


class StoreHello(_Message, frozen=True):
    """First message.  ``allowed_bytes`` is what the process could use without asking."""

    pid: int
    allowed_bytes: int


class MemoryWanted(_Message, frozen=True):
    """A value needs ``size_bytes`` more than the process is allowed; answered by ``MemoryGranted`` or ``UseDisk``,
    perhaps not soon: the process waits."""

    request: int
    size_bytes: int


class MemoryNoLongerWanted(_Message, frozen=True):
    """Memory of the process' own became free meanwhile.  An answer may be on its way and counts."""

    request: int


class MemoryReturned(_Message, frozen=True):
    """The process is allowed so much less from now on; it already uses less."""

    size_bytes: int


class SegmentFacts(msgspec.Struct, frozen=True, array_like=True):
    """A segment of the client's with objects in it; ``last_used`` by the machine's monotonic clock."""

    name: str
    size_bytes: int
    last_used: float


class StoreReport(_Message, frozen=True):
    """Answer to ``Reclaim``: what the process made and could be spilled, and which segments, anyone's, it looks at."""

    round: int
    segments: list[SegmentFacts]
    viewed: list[str]


class SegmentSpilled(_Message, frozen=True):
    """Answer to ``Spill``, for each segment.  ``size_bytes`` is the memory that came free by that (it is returned by a
    ``MemoryReturned`` before this), 0 when it failed or was not needed; ``problem`` says why it failed."""

    segment: str
    size_bytes: int
    problem: str = ""


class ObjectFacts(msgspec.Struct, frozen=True, array_like=True):
    """An object as a process that has to do with it sees it.

    ``kind`` is ``own`` (made there), ``adopted``, ``borrowed``, or empty if there are only views; ``where`` is
    ``memory``, ``disk``, or empty when the process cannot tell, and then ``size_bytes`` is 0.
    """

    object_id: str
    size_bytes: int
    where: str
    kind: str
    handles: int
    viewed: bool
    pinned_by: tuple[str, ...]


class StoreContents(_Message, frozen=True):
    """Answer to ``DescribeContents``."""

    request: int
    allowed_bytes: int
    used_bytes: int
    objects: list[ObjectFacts]


class ContentsWanted(_Message, frozen=True):
    """A person wants to know what is in the node's store; answered by ``NodeContents``."""

    request: int


class ObjectsWanted(_Message, frozen=True):
    """The process needs objects that were made on other sites; answered by ``ObjectsHere``."""

    request: int
    extents: list[Extent]


class PassOn(_Message, frozen=True):
    """Send an encoded ``site_to_site`` message (that something is no longer needed) to this site."""

    site: str
    message: bytes


class StoreGoodbye(_Message, frozen=True):
    """The client closes; what it made is removed."""


Message = (
    StoreHello
    | MemoryWanted
    | MemoryNoLongerWanted
    | MemoryReturned
    | StoreReport
    | SegmentSpilled
    | StoreContents
    | ContentsWanted
    | ObjectsWanted
    | PassOn
    | StoreGoodbye
)
"""Everything that a store client may send."""
