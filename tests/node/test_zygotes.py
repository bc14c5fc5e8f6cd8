"""What becomes of forks that a zygote is asked for."""

from __future__ import annotations

import errno
import os
import socket
from typing import Any

import pytest

from distpool.node.control import AgentEnd, Fork, Ready, ZygoteEnd
from distpool.node.events import Event, ForkFailed
from distpool.node.loop import Loop
from distpool.node.stderr import StandardErrors
from distpool.node.zygotes import Zygotes


def _fork(worker: str) -> Fork:
    return Fork(worker, "n", "ipc://agent", f"ipc://{worker}", "ipc://scheduler", "/store")


def test_a_request_that_cannot_be_sent_fails_although_the_zygote_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = Loop()
    ours, theirs = socket.socketpair()
    events: list[Event] = []
    zygotes = Zygotes(loop, ours, lambda: ours, _fork, events.append, StandardErrors(loop))
    with theirs:
        zygote = ZygoteEnd(theirs)
        zygote.send(Ready(0, 1, (), ()))
        loop.run_once()
        assert zygotes.ready

        def no_room(end: AgentEnd, *message: Any) -> None:
            raise OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))

        with monkeypatch.context() as full:
            full.setattr(AgentEnd, "send", no_room)
            for worker in ("a", "b"):
                zygotes.fork(worker, 0)
            assert events == [], "the core is still at work"
            loop.run_once()
        assert events == [ForkFailed(worker, os.strerror(errno.ENOBUFS)) for worker in ("a", "b")]
        assert not zygotes.busy
        zygotes.fork("c", 0)
        assert zygote.receive() == [_fork("c")]
        os.close(zygote.descriptors.popleft())
        loop.run_once()
        zygotes.close()
