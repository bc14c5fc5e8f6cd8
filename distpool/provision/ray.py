"""``ray://``: nodes inside of actors of a Ray cluster, which reserve what the nodes offer.

Ray has room for them or not, starts machines if it can, and ends them with the program.  Tasks and their data do not
pass through Ray.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from msgspec import structs

from distpool.provision import holder
from distpool.provision.address import Engine, option
from distpool.provision.base import BaseProvisioner, agent_words
from distpool.provision.interface import Machine, Phase, ProvisionError
from distpool.provision.reach import require_listener
from distpool.wire.security import Token

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


class RayProvisioner(BaseProvisioner[_Actor]):
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
        os.environ["RAY_IGNORE_UNHANDLED_ERRORS"] = "1"  # it would print those of calls that were given up
        self._connect()
        ray.cloudpickle.register_pickle_by_value(holder)
        # A node is as large as the smallest machine of the cluster unless the address says otherwise.
        cpus = [node["Resources"].get("CPU", 0.0) for node in ray.nodes() if node["Alive"]]
        kind = engine.node_type(start_s=10.0, cpus=min(filter(None, cpus), default=1.0))
        super().__init__(replace(kind, capacity=structs.replace(kind.capacity, num_gpus=engine.gpus or 0.0)))

    def request(self, node: str) -> _Actor:
        """See ``BaseProvisioner``."""
        shape = self.kind.capacity
        words = agent_words(node, shape, "--until-eof", "--token-file", "-")
        # Calls that wait must not keep the one that ends the agent from being heard.
        options = {"num_cpus": shape.num_cpus, "num_gpus": shape.num_gpus, "max_concurrency": 3, "max_restarts": 0}
        options |= {"memory": shape.memory_bytes} if shape.memory_bytes > 0 else {}
        actor = self._ray.remote(holder.Holder).options(**options, scheduling_strategy="SPREAD")
        handle = actor.remote(node, self._engine.python, tuple(words), self._token)
        return _Actor(handle, handle.__ray_ready__.remote(), handle.start.remote())

    def end(self, node: str, actor: _Actor) -> None:
        """See ``BaseProvisioner``."""
        # What has not been placed yet has no process to be told.
        actor.ended = actor.handle.end.remote() if self._is_done(actor.here) else None

    def has_ended(self, actor: _Actor) -> bool:
        """See ``BaseProvisioner``."""
        return actor.ended is None or self._is_done(actor.ended)

    def kill(self, actor: _Actor) -> None:
        """See ``BaseProvisioner``."""
        with contextlib.suppress(Exception):  # it has ended by itself
            self._ray.kill(actor.handle)

    def tidy(self, actor: _Actor) -> None:
        """See ``BaseProvisioner``; an actor whose agent has ended goes on, and one without room waits for it."""
        self.kill(actor)

    def look(self, node: str, actor: _Actor) -> Machine | None:
        """See ``BaseProvisioner``."""
        try:
            if not self._is_done(actor.here):
                return self.seen(Phase.QUEUED, self._why_queued())
            self._ray.get(actor.here)
            if not self._is_done(actor.joined):
                return self.seen(Phase.STARTING)
            self._ray.get(actor.joined)
            if actor.ended is None:
                actor.ended = actor.handle.wait.remote()
            if not self._is_done(actor.ended):
                return self.seen(Phase.RUNNING)
            self._ray.get(actor.ended)
            return None
        except self._ray.exceptions.RayTaskError as error:
            return self.failed(str(error.cause))
        except self._ray.exceptions.RayError as error:
            return self.failed(f"its actor is lost: {_first_line(error)}")

    def close(self) -> None:
        """See ``Provisioner``; leaves the Ray cluster."""
        super().close()
        self._ray.shutdown()

    # -- within -------------------------------------------------------------------------------------------------

    def _connect(self) -> None:
        cluster = self._engine.cluster
        if cluster == "auto":
            address, whom = "auto", "Ray on this machine"
            cure = "see `ray status`, or name its head, as in ray://head:10001"
        else:
            address, whom = f"ray://{cluster}", f"Ray's client server at {cluster}"
            cure = "is it Ray, and this version? The logs of its head say more"
            require_listener(cluster, "Ray's client server", "it is on the head of a Ray cluster, usually at 10001")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what it warns of comes as an error, too
                self._ray.init(address=address, namespace="distpool", log_to_driver=False, logging_level="error")
        except Exception as error:
            text = str(error).strip()
            if "Traceback (most recent call last)" in text:
                text = text.splitlines()[-1]  # of the server's, only the end says what happened
            words = " ".join(text.split())[:_LONGEST] or type(error).__name__
            raise ProvisionError(f"{whom} does not answer: {words}; {cure}", hopeless=True) from error

    def _why_queued(self) -> str:
        shape = self.kind.capacity
        free = self._ray.available_resources()
        wanted = {"CPU": shape.num_cpus, "GPU": shape.num_gpus, "memory": float(max(0, shape.memory_bytes))}
        parts = [f"{amount:g} {name} wanted, {free.get(name, 0.0):g} free" for name, amount in wanted.items() if amount]
        return f"in Ray ({', '.join(parts)})"

    def _is_done(self, result: Any) -> bool:
        return bool(self._ray.wait([result], timeout=0)[0])


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
