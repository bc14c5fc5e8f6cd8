"""The shell around the autoscaling core: asks the scheduler, and has the provisioner do what was decided."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable

from distpool.errors import ConnectError
from distpool.provision.core import AutoscalerCore, Drain, Looked, Refused, Release, Start
from distpool.provision.interface import Phase, Provisioner, ProvisionError
from distpool.provision.link import OperatorLink
from distpool.wire.security import Token

#: Until the next look while nodes are on their way.
_SOON_S = 0.2


class Autoscaler:
    """Keeps the number of a cluster's nodes between two bounds, as its work needs.

    :param address: of the cluster: ``host:port`` of its scheduler, or a token file, or a token.
    :param provisioner: starts and ends machines.
    :param least: so many machines of the provisioner's are kept.
    :param most: more there never are.
    :param patience_s: for so long work may wait before machines are started for it.
    :param idle_s: for so long a machine may be idle before it is ended.
    :param say: takes one line for each thing that is done.
    :param complain: takes one line for each thing that went wrong; default: ``say``.
    :ivar core: what decides.
    :raises ConnectError: when the cluster is not known.
    """

    def __init__(
        self,
        address: str | Token,
        provisioner: Provisioner,
        least: int = 0,
        most: int = 10,
        *,
        patience_s: float = 1.0,
        idle_s: float = 60.0,
        say: Callable[[str], object] = lambda line: None,
        complain: Callable[[str], object] | None = None,
    ) -> None:
        self._link = OperatorLink(address)
        self._provisioner = provisioner
        self._say = say
        self._complain = complain or say
        prefix = f"auto-{secrets.token_hex(3)}"
        self.core = AutoscalerCore(provisioner.node_types(), prefix, least, most, patience_s, idle_s)
        self._stopped = threading.Event()

    def run(self) -> None:
        """Go on until ``stop`` is called; a scheduler that is away for a while is waited for."""
        away = False
        while not self._stopped.is_set():
            try:
                self.look()
                away = False
            except ConnectError as error:
                if not away:
                    self._say(f"waiting for the scheduler: {error}")
                away = True
            self._stopped.wait(1.0 if away else self.pause_s())

    def look(self) -> None:
        """Look once, and do what is to be done.

        :raises ConnectError: when the scheduler does not answer.
        """
        load = self._link.load(self.core.offers())
        looked = Looked(load, self._provisioner.list())
        for name, machine in looked.machines.items():
            if machine.phase is Phase.FAILED:
                self._complain(f"node {name} failed: {machine.reason or 'its engine gives no reason'}")
        for effect in self.core.handle(looked, time.monotonic()):
            if isinstance(effect, Start):
                self._start(effect)
            elif isinstance(effect, Drain):
                self._say(f"node {effect.node} has been idle and is drained")
                self._link.drain(effect.node)
            else:
                assert isinstance(effect, Release)
                self._say(f"node {effect.node} is released")
                self._provisioner.release(effect.node)

    def pause_s(self, soon: bool = False) -> float:
        """How long until the next look.

        :param soon: something is expected to change.
        """
        due = self.core.next_deadline()
        pause_s = 1.0 if due is None else max(0.0, due - time.monotonic())
        return min(_SOON_S, pause_s) if soon else pause_s

    def stop(self) -> None:
        """Make ``run`` return; may be called from any thread and from a signal handler."""
        self._stopped.set()

    def close(self) -> None:
        """Hang up; the machines are the provisioner's."""
        self._link.close()

    def _start(self, effect: Start) -> None:
        self._say(f"node {effect.node} ({effect.node_type}) is started")
        try:
            self._provisioner.start(effect.node, effect.node_type)
        except ProvisionError as error:
            self._complain(f"node {effect.node} was refused: {error}")
            self.core.handle(Refused(effect.node, error.hopeless), time.monotonic())
