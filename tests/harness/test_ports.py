"""Ports that a test has to itself while it has nothing listening there."""

from __future__ import annotations

import socket

import pytest
import zmq

from tests.support import ports


def test_a_port_of_ones_own_refuses_until_one_listens_there() -> None:
    with ports.reserved(2) as [one, other]:
        assert one != other
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", one))
        with pytest.raises(OSError, match="in use"), socket.socket() as stranger:
            stranger.bind(("127.0.0.1", one))
        for _ in range(2):  # also a second time, as after a restart
            with zmq.Context() as context, context.socket(zmq.ROUTER) as listener:
                listener.bind(f"tcp://127.0.0.1:{one}")
                socket.create_connection(("127.0.0.1", one)).close()
