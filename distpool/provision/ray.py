"""``ray://``: nodes inside of actors of a Ray cluster, which reserve what the nodes offer.

Ray has room for them or not, starts machines if it can, and ends them with the program.  Tasks and their data do not
pass through Ray.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from distpool.provision import holder
from distpool.provision.address import Engine, option
from distpool.provision.interface import Machine, NodeType, Phase, ProvisionError
from distpool.provision.reach import require_listener
from distpool.wire.resources import Shape
from distpool.wire.security import Token

#: How long nodes may take to end when the program does.
_END_S = 20.0
#: So many characters of an error of Ray's are shown.
_LONGEST = 500


@dataclass(frozen=True, kw_only=True)
class Ray(Engine):
    """Actors of a Ray cluster, of this machine's unless an address of Ray's client server is given."""

    scheme: ClassVar[str] = "ray"
    target: ClassVar[str] = "cluster"

    cluster: str = option(
        "auto", str, "`auto`: the Ray cluster of this machine; `host:10001`: through Ray's client server"
    )
    python: str = option("", str, "the Python to run nodes with; default: the one that Ray runs there")

    def near(self) -> str:
        """The machine of Ray's client server."""
        return "" if self.cluster == "auto" else self.cluster.rpartition(":")[0]

    def provisioner(self, token: Token) -> RayProvisioner:
        """See ``Engine``."""
        return RayProvisioner(self, token)


@dataclass(slots=True)
class _Actor:
    handle: Any
    #: results of calls that are made one after the other: it is there; its agent has joined; its agent has ended
    here: Any
    joined: Any
    ended: Any = None


class RayProvisioner:
    """Starts an actor for each node.

    :raises ProvisionError: when there is no Ray, or no cluster of it.
    """

    def __init__(self, engine: Ray, token: Token) -> None:
        try:
            import ray
        except ImportError as error:
            raise ProvisionError(
                f"Ray is not installed here ({error}): pip install 'distpool[ray]'", hopeless=True
            ) from error
        self._ray: Any = ray
        self._engine = engine
        self._token = holder.Secret(token.line())
        self._connect()
        ray.cloudpickle.register_pickle_by_value(holder)
        self._kind = self._node_type()
        self._actors: dict[str, _Actor] = {}
        self._released: list[_Actor] = []

    def node_types(self) -> Sequence[NodeType]:
        """See ``Provisioner``."""
        return (self._kind,)

    def start(self, node: str, node_type: str) -> None:
        """See ``Provisioner``."""
        if node_type != self._kind.name:
            raise ProvisionError(f"there is no type {node_type!r}; there is {self._kind.name}")
        if node in self._actors:
            return
        if len(self._actors) >= self._kind.most:
            raise ProvisionError(f"there are {len(self._actors)} actors, which is the most")
        shape = self._kind.capacity
        words = ["--num-cpus", f"{shape.num_cpus:g}", "--num-gpus", f"{shape.num_gpus:g}"]
        words += ["--memory-bytes", str(shape.memory_bytes)] if shape.memory_bytes >= 0 else []
        # Calls that wait must not keep the one that ends the agent from being heard.
        options = {"num_cpus": shape.num_cpus, "num_gpus": shape.num_gpus, "max_concurrency": 3, "max_restarts": 0}
        options |= {"memory": shape.memory_bytes} if shape.memory_bytes > 0 else {}
        actor = self._ray.remote(holder.Holder).options(**options, scheduling_strategy="SPREAD")
        handle = actor.remote(node, self._engine.python, tuple(words), self._token)
        self._actors[node] = _Actor(handle, handle.__ray_ready__.remote(), handle.start.remote())

    def release(self, node: str) -> None:
        """See ``Provisioner``."""
        actor = self._actors.pop(node, None)
        if actor is None:
            return
        if self._is_done(actor.here):
            actor.ended = actor.handle.end.remote()
            self._released.append(actor)
        else:
            self._kill(actor)  # it has no process yet

    def list(self) -> Mapping[str, Machine]:
        """See ``Provisioner``."""
        for actor in [actor for actor in self._released if self._is_done(actor.ended)]:
            self._released.remove(actor)
            self._kill(actor)
        found = {node: self._machine(actor) for node, actor in self._actors.items()}
        for node in [node for node, machine in found.items() if machine is None]:
            self._kill(self._actors.pop(node))
        return {node: machine for node, machine in found.items() if machine is not None}

    def close(self) -> None:
        """End all, wait until they have ended, and leave the Ray cluster."""
        for node in list(self._actors):
            self.release(node)
        if self._released:
            ended = [actor.ended for actor in self._released]
            self._ray.wait(ended, num_returns=len(ended), timeout=_END_S)
        for actor in self._released:
            self._kill(actor)
        self._released.clear()
        self._ray.shutdown()

    # -- within -------------------------------------------------------------------------------------------------

    def _connect(self) -> None:
        cluster = self._engine.cluster
        address, whom, cure = (
            "auto",
            "Ray on this machine",
            "see `ray status`, or name its head, as in ray://head:10001",
        )
        if cluster != "auto":
            address, whom, cure = (
                f"ray://{cluster}",
                f"Ray's client server at {cluster}",
                "is it Ray, and this version?",
            )
            require_listener(cluster, "Ray's client server", "it is on the head of a Ray cluster, usually at 10001")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what it warns of comes as an error, too
                self._ray.init(address=address, namespace="distpool", log_to_driver=False, logging_level="error")
        except Exception as error:
            words = " ".join(str(error).split())[:_LONGEST] or type(error).__name__
            raise ProvisionError(f"{whom} does not answer: {words}; {cure}", hopeless=True) from error

    def _node_type(self) -> NodeType:
        """A node is as large as the smallest machine of the cluster unless the address says otherwise."""
        kind = self._engine.node_type(start_s=10.0)
        shape = kind.capacity
        cpus = [node["Resources"].get("CPU", 0.0) for node in self._ray.nodes() if node["Alive"]]
        least = min(filter(None, cpus), default=1.0)
        shape = Shape(shape.num_cpus if shape.num_cpus >= 0 else least, max(0.0, shape.num_gpus), shape.memory_bytes)
        return replace(kind, capacity=shape)

    def _machine(self, actor: _Actor) -> Machine | None:
        name = self._kind.name
        try:
            if not self._is_done(actor.here):
                return Machine(name, Phase.QUEUED, self._why_queued())
            self._ray.get(actor.here)
            if not self._is_done(actor.joined):
                return Machine(name, Phase.STARTING)
            self._ray.get(actor.joined)
            if actor.ended is None:
                actor.ended = actor.handle.wait.remote()
            if not self._is_done(actor.ended):
                return Machine(name, Phase.RUNNING)
            self._ray.get(actor.ended)
            return None
        except self._ray.exceptions.RayTaskError as error:
            return Machine(name, Phase.FAILED, str(error.cause))
        except self._ray.exceptions.RayError as error:
            return Machine(name, Phase.FAILED, f"its actor is lost: {_first_line(error)}")

    def _why_queued(self) -> str:
        shape = self._kind.capacity
        free = self._ray.available_resources()
        wanted = {"CPU": shape.num_cpus, "GPU": shape.num_gpus, "memory": float(max(0, shape.memory_bytes))}
        parts = [f"{amount:g} {name} wanted, {free.get(name, 0.0):g} free" for name, amount in wanted.items() if amount]
        return f"in Ray ({', '.join(parts)})"

    def _is_done(self, result: Any) -> bool:
        return bool(self._ray.wait([result], timeout=0)[0])

    def _kill(self, actor: _Actor) -> None:
        with contextlib.suppress(Exception):  # it has ended by itself
            self._ray.kill(actor.handle)


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
