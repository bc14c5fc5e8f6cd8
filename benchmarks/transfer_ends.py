"""The two ends of a transfer, each a process of its own: ``python -m benchmarks.transfer_ends ROLE ADDRESS BYTES``.

``plain-give`` and ``plain-take`` are ZeroMQ with CURVE and nothing else; ``give`` and ``take`` are two sites.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import zmq

from distpool.node.loop import Loop
from distpool.store.transfer.admission import DriverAdmission
from distpool.store.transfer.connections import Connections
from distpool.store.transfer.files import Files
from distpool.store.transfer.site import Site
from distpool.wire.channel import Channel
from distpool.wire.frames import FRAME_BYTES
from distpool.wire.gatekeeper import Gatekeeper
from distpool.wire.objects import Extent, Place
from distpool.wire.security import Keys

_SECRET = bytes(32)
PORT = 47900


def plain_give(address: str, size_bytes: int) -> None:
    socket = zmq.Context().socket(zmq.PUSH)
    public, secret = Keys.derive(_SECRET).listener(b"plain")
    del public
    socket.setsockopt(zmq.CURVE_SERVER, 1)
    socket.setsockopt(zmq.CURVE_SECRETKEY, secret)
    socket.bind(f"tcp://{address}:{PORT}")
    print("up", flush=True)
    piece = bytes(FRAME_BYTES)
    for _ in range(size_bytes // FRAME_BYTES):
        socket.send(piece)
    sys.stdin.readline()


def plain_take(address: str, size_bytes: int) -> float:
    keys = Keys.derive(_SECRET)
    socket = zmq.Context().socket(zmq.PULL)
    socket.setsockopt(zmq.CURVE_SERVERKEY, keys.listener(b"plain")[0])
    socket.setsockopt(zmq.CURVE_PUBLICKEY, keys.dialler_public)
    socket.setsockopt(zmq.CURVE_SECRETKEY, keys.dialler_secret)
    began = time.perf_counter()
    socket.connect(f"tcp://{address}:{PORT}")
    for _ in range(size_bytes // FRAME_BYTES):
        socket.recv()
    return time.perf_counter() - began


def _site(name: str, address: str, folder: Path, giver: bool) -> tuple[Loop, Site]:
    loop = Loop()
    keys = Keys.derive(_SECRET)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    listening = None
    if giver:
        Gatekeeper(context, keys)
        listening = Channel(context, f"t-{name}".encode(), keys, bulk=True)
        listening.bind(f"tcp://{address}:{PORT}")
    dialling = Channel(context, f"p-{name}".encode(), keys, bulk=True)

    def connect(site: Site) -> Connections:
        def find(wanted: str, copies: bool) -> None:
            loop.soon(lambda: site.connections.found(wanted, wanted, f"tcp://{address}:{PORT}"))

        return Connections(loop, dialling, listening, find, site)

    site = Site(name, loop, Files(folder, f"a-{name}"), DriverAdmission(folder, 1 << 60), connect)
    site.connections.start()
    return loop, site


def give(address: str, size_bytes: int) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        (Path(folder) / "w-1.1").write_bytes(bytes(size_bytes))
        loop, _ = _site("giver", address, Path(folder), giver=True)
        loop.watch(0, loop.stop)
        print("up", flush=True)
        loop.run()


def take(address: str, size_bytes: int) -> float:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        loop, site = _site("taker", address, Path(folder), giver=False)

        def done(places: list[Place], lost: dict[str, str]) -> None:
            assert not lost, lost
            loop.stop()

        began = time.perf_counter()
        site.want([Extent("w-1.1", "giver", "w-1.1", 0, size_bytes)], done)
        loop.run()
        return time.perf_counter() - began


if __name__ == "__main__":
    role, host, size = sys.argv[1], sys.argv[2], int(sys.argv[3])
    if role.endswith("give"):
        (plain_give if role.startswith("plain") else give)(host, size)
    else:
        print((plain_take if role.startswith("plain") else take)(host, size))
    sys.stdout.flush()
    import os

    os._exit(0)
