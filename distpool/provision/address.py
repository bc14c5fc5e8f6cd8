"""What an address says: ``scheme://target?option=value&...``, or the same as a Python object.

Each engine is a dataclass whose fields are the options; its text is the address, and the text is all that travels.  So
a program, an environment variable and a command line say the same thing, and what one can say the others can.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar
from urllib.parse import parse_qsl, quote, unquote

from msgspec import structs

from distpool.errors import ConnectError
from distpool.provision.interface import NodeType, Provisioner
from distpool.wire.resources import Shape
from distpool.wire.security import Token

E = TypeVar("E", bound="Engine")


def option(default: Any, kind: Callable[[str], Any], words: str) -> Any:
    """A field of an engine that an address may set.

    :param kind: makes the value of the option's text; ``ValueError`` when it is none.
    :param words: what it means, for ``docs/reference/addresses.md``.
    """
    return dataclasses.field(default=default, metadata={"kind": kind, "words": words})


# -- kinds of values -----------------------------------------------------------------------------------------------


def duration(text: str) -> float:
    """Seconds from ``90``, ``90s``, ``5m``, ``2h``, ``1d``, ``30:00`` (minutes) or ``2:00:00`` (hours)."""
    if re.fullmatch(r"\d+(:\d\d){1,2}", text):
        seconds = 0.0
        for part in text.split(":"):
            seconds = seconds * 60 + int(part)
        return seconds
    found = re.fullmatch(r"(\d+(?:\.\d*)?)\s*([smhd]?)", text)
    if found is None:
        raise ValueError("a duration is a number of seconds, or as in 90s, 5m, 2h, 1d, 2:00:00")
    return float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}[found[2]]


def size(text: str) -> int:
    """Bytes from ``1000``, ``8GB``, ``8GiB`` (``8G`` is ``8GiB``, as batch systems have it)."""
    found = re.fullmatch(r"(\d+(?:\.\d*)?)\s*(?:([kmgt])(i?b)?|b)?", text.lower())
    if found is None:
        raise ValueError("a size is a number of bytes, or as in 500MB, 8GB, 8GiB")
    power = " kmgt".index(found[2] or " ")
    return int(float(found[1]) * (1000 if found[3] == "b" else 1024) ** power)


def words(text: str) -> tuple[str, ...]:
    """What is separated by commas."""
    return tuple(part for part in text.split(",") if part)


def switch(text: str) -> bool:
    """``yes`` or ``no``."""
    known = {"yes": True, "true": True, "1": True, "": True, "no": False, "false": False, "0": False}
    if text.lower() not in known:
        raise ValueError("yes or no?")
    return known[text.lower()]


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return ",".join(value)
    return f"{value:.15g}" if isinstance(value, float) else str(value)


# -- engines -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Engine:
    """Where nodes come from; what all engines can be told.

    A program that is given one starts a scheduler of its own and has the engine start nodes for it, which end with the
    program.  ``str(engine)`` is the address that says the same.

    :raises ValueError: when values contradict each other.
    """

    #: What stands before ``://``.
    scheme: ClassVar[str]
    #: The field that is written between ``://`` and ``?``; empty: nothing may stand there.
    target: ClassVar[str] = ""

    nodes: int | None = option(None, int, "so many nodes, neither more nor less")
    min: int | None = option(None, int, "so many nodes are kept; more come while work waits")
    max: int | None = option(None, int, "more nodes there never are")
    cpus: float | None = option(None, float, "CPUs of each node; default: what it has")
    gpus: float | None = option(None, float, "GPUs of each node; default: what it has")
    memory: int | None = option(None, size, "memory of each node, as in `8GB`; default: what it has")
    idle: float = option(60.0, duration, "a node beyond `min` that has been idle for so long is ended")
    timeout: float = option(600.0, duration, "for so long the first node is waited for (0: for ever)")
    wait: float = option(30.0, duration, "when the first node is there, the others of `min` are waited for so long")
    head_host: str = option("", str, "name or number by which nodes reach the machine of the program; default: found")
    head_port: int = option(0, int, "the port on which the program's scheduler listens; default: any")

    def __post_init__(self) -> None:
        least, most = self.bounds()
        if not 0 <= least <= most or most < 1:
            raise ValueError(f"between {least} and {most} nodes: 0 <= min <= max and 1 <= max")

    def bounds(self) -> tuple[int, int]:
        """How many nodes are kept, and how many there may be."""
        if self.nodes is not None:
            return self.nodes if self.min is None else self.min, self.nodes if self.max is None else self.max
        usual = self.usual_nodes()
        if self.max is not None:
            return min(usual, self.max) if self.min is None else self.min, self.max
        return usual if self.min is None else self.min, usual if self.min is None else max(usual, self.min)

    def usual_nodes(self) -> int:
        """How many nodes there are when nobody says."""
        return 1

    def near(self) -> str:
        """A host that nodes are on or near, from whose side this machine is to be reached; empty: this machine."""
        return ""

    def capacity(self) -> Shape:
        """What a node offers; fields that are negative: what the machine has."""
        return Shape(
            -1.0 if self.cpus is None else self.cpus,
            -1.0 if self.gpus is None else self.gpus,
            -1 if self.memory is None else self.memory,
        )

    def node_type(self, start_s: float, cpus: float = -1.0) -> NodeType:
        """The one kind of node of an engine that has no more.

        :param start_s: how long a node takes to start, about.
        :param cpus: those of a node when nobody says how many it shall have, if that is known.
        """
        capacity = self.capacity()
        if capacity.num_cpus < 0:
            capacity = structs.replace(capacity, num_cpus=cpus)
        return NodeType(self.scheme, capacity, self.bounds()[1], start_s)

    def provisioner(self, token: Token) -> Provisioner:
        """What starts and ends nodes of the cluster with this token.

        :raises ProvisionError: when the engine is not to be had here, and why.
        """
        raise NotImplementedError

    def __str__(self) -> str:
        target = quote(_text(getattr(self, self.target)), safe=",@:[]/.*") if self.target else ""
        options = [
            f"{field.name}={quote(_text(value), safe=',@:[]/.*')}"
            for field in dataclasses.fields(self)
            if field.name != self.target and (value := getattr(self, field.name)) != field.default
        ]
        return f"{self.scheme}://{target}{'?' if options else ''}{'&'.join(options)}"

    @classmethod
    def from_address(cls: type[E], address: str) -> E:
        """The engine that an address describes.

        :raises ConnectError: when there is no such option, or a value is wrong.
        """
        rest = address.partition("://")[2]
        target, _, query = rest.partition("?")
        fields = {field.name: field for field in dataclasses.fields(cls)}
        texts: dict[str, str] = {}
        for name, text in parse_qsl(query, keep_blank_values=True):
            name = name.replace("-", "_")
            if name in texts:
                raise ConnectError(f"{address}: {name} is given twice")
            if name not in fields:
                near = difflib.get_close_matches(name, fields, 1)
                hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(sorted(fields))}"
                raise ConnectError(f"{address}: {cls.scheme}:// has no option {name!r}; {hint}")
            texts[name] = text
        target = unquote(target).rstrip("/")
        if target and not cls.target:
            raise ConnectError(f"{address}: nothing stands between {cls.scheme}:// and the options, not {target!r}")
        if target:
            texts[cls.target] = target
        values = {}
        for name, text in texts.items():
            try:
                values[name] = fields[name].metadata["kind"](text)
            except ValueError as error:
                raise ConnectError(f"{address}: {name}={text}: {error}") from None
        try:
            return cls(**values)
        except (TypeError, ValueError) as error:
            raise ConnectError(f"{address}: {error}") from None
