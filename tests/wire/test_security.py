"""Who gets through to a channel, and what a stranger can do to it."""

from __future__ import annotations

import os
import random
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from distpool.errors import ConnectError
from distpool.node import statefolder
from distpool.wire.channel import Channel
from distpool.wire.frames import FRAME_BYTES
from distpool.wire.gatekeeper import Gatekeeper
from distpool.wire.links import OTHER_KEY, CallerRefused, LinkDown, LinkFailed, LinkUp
from distpool.wire.security import Keys, Token, new_secret, parse_address

KEYS = Keys.derive(b"s" * 32)
OTHER = Keys.derive(b"t" * 32)


class Rig:
    """A listener, and diallers in other contexts."""

    def __init__(self) -> None:
        self._contexts: list[zmq.Context[Any]] = []
        self._channels: list[Channel] = []
        context = self._context()
        self.gate = Gatekeeper(context, KEYS)
        self.listener = self._channel(context, b"s", KEYS)
        self.endpoint = self.listener.bind("tcp://127.0.0.1:*")
        self.port = int(self.endpoint.rpartition(":")[2])

    def dial(self, name: bytes, keys: Keys) -> Channel:
        channel = self._channel(self._context(), name, keys)
        channel.connect(self.endpoint, b"s")
        return channel

    def _channel(self, context: zmq.Context[Any], name: bytes, keys: Keys) -> Channel:
        channel = Channel(context, name, keys)
        channel.watch_links(channel.wake)
        self._channels.append(channel)
        return channel

    def _context(self) -> zmq.Context[Any]:
        self._contexts.append(zmq.Context())
        return self._contexts[-1]

    def close(self) -> None:
        for channel in self._channels:
            channel.close()
        for context in self._contexts:
            context.term()


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.close()


def receive(channel: Channel) -> tuple[bytes, list[bytes]]:
    while True:
        for message in channel.receive():
            return message


def news(channel: Channel, *kinds: type) -> Any:
    """The next event of one of these kinds."""
    while True:
        while channel.link_events:
            event = channel.link_events.popleft()
            if isinstance(event, kinds):
                return event
        channel.wait()


def still_serves(rig: Rig) -> None:
    friend = rig.dial(b"d-friend", KEYS)
    friend.send(b"s", [b"hello"])
    assert receive(rig.listener) == (b"d-friend", [b"hello"])
    rig.listener.send(b"d-friend", [b"welcome"])
    assert receive(friend) == (b"s", [b"welcome"])


def test_the_same_key_gets_through(rig: Rig) -> None:
    still_serves(rig)


def test_large_messages_arrive_whole(rig: Rig) -> None:
    friend = rig.dial(b"d-1", KEYS)
    large = random.Random(0).randbytes(5 * FRAME_BYTES + 17)
    friend.send(b"s", [large])
    assert receive(rig.listener) == (b"d-1", [large])
    rig.listener.send(b"d-1", [large[:FRAME_BYTES]])
    assert receive(friend) == (b"s", [large[:FRAME_BYTES]])


def test_another_key_is_told_so_and_nothing_arrives(rig: Rig) -> None:
    stranger = rig.dial(b"d-stranger", OTHER)
    stranger.send(b"s", [b"let me in"])
    event = news(stranger, LinkFailed, LinkUp)
    while event.reason != OTHER_KEY:
        event = news(stranger, LinkFailed, LinkUp)
    assert news(rig.listener, CallerRefused)
    assert rig.listener.drain() == []
    still_serves(rig)


def test_the_listeners_public_key_alone_opens_nothing(rig: Rig) -> None:
    """Encryption without authentication would let this one in."""
    mixed = Keys(b"s" * 32, OTHER.dialler_public, OTHER.dialler_secret)
    stranger = rig.dial(b"d-stranger", mixed)
    stranger.send(b"s", [b"let me in"])
    news(stranger, LinkFailed)
    assert rig.listener.drain() == []


def test_nobody_gets_in_while_nobody_answers_whom_to_let_in() -> None:
    context: zmq.Context[Any] = zmq.Context()
    listener = Channel(context, b"s", KEYS)
    endpoint = listener.bind("tcp://127.0.0.1:*")
    friend = Channel(context, b"d", KEYS)
    friend.watch_links(friend.wake)
    friend.connect(endpoint, b"s")
    friend.send(b"s", [b"hello"])
    assert isinstance(news(friend, LinkUp, LinkDown, LinkFailed), LinkFailed)
    assert listener.drain() == []
    for channel in (listener, friend):
        channel.close()
    context.term()


def test_without_keys_there_is_no_tcp() -> None:
    context: zmq.Context[Any] = zmq.Context()
    channel = Channel(context, b"s")
    with pytest.raises(PermissionError):
        channel.bind("tcp://127.0.0.1:*")
    with pytest.raises(PermissionError):
        channel.connect("tcp://127.0.0.1:1", b"d")
    channel.close()
    context.term()


def test_a_plain_zeromq_peer_gets_nothing(rig: Rig) -> None:
    context: zmq.Context[Any] = zmq.Context()
    plain = context.socket(zmq.DEALER)
    plain.setsockopt(zmq.LINGER, 0)
    plain.connect(rig.endpoint)
    plain.send(b"hello")
    assert news(rig.listener, CallerRefused)
    assert rig.listener.drain() == []
    plain.close()
    context.term()
    still_serves(rig)


def _greeting(mechanism: bytes = b"CURVE") -> bytes:
    return b"\xff" + bytes(8) + b"\x7f" + b"\x03\x01" + mechanism.ljust(20, b"\0") + b"\0" + bytes(31)


_RANDOM = random.Random(1)
_NOISE = {
    "nothing": b"",
    "random": _RANDOM.randbytes(4096),
    "http": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "half a greeting": _greeting()[:20],
    "no hello": _greeting(),
    "another mechanism": _greeting(b"NULL") + b"\x04\x05\x05READY",
    "random hello": _greeting() + b"\x04\xc8\x05HELLO" + _RANDOM.randbytes(194),
    "truncated hello": _greeting() + b"\x04\xc8\x05HELLO" + bytes(10),
    "a frame of 1 EiB": _greeting() + b"\x06" + struct.pack(">Q", 1 << 60) + bytes(1000),
    "a frame of 1 GiB": _greeting() + b"\x06" + struct.pack(">Q", 1 << 30) + bytes(1000),
    "a message before the handshake": _greeting() + b"\x00\x05hello" * 100,
    "an endless command": _greeting() + b"\x06" + struct.pack(">Q", FRAME_BYTES) + b"\x05HELLO" + bytes(FRAME_BYTES),
}


@pytest.mark.parametrize("noise", _NOISE.values(), ids=_NOISE)
def test_noise_does_nothing(rig: Rig, noise: bytes) -> None:
    with socket.create_connection(("127.0.0.1", rig.port)) as stranger:
        stranger.settimeout(20)
        try:
            stranger.sendall(noise)
            stranger.shutdown(socket.SHUT_WR)
            while stranger.recv(65536):
                pass
        except OSError:
            pass  # hung up on
    assert rig.listener.drain() == []
    still_serves(rig)


def test_random_noise_does_nothing(rig: Rig) -> None:
    rng = random.Random(2)
    for _ in range(100):
        noise = bytearray(_greeting() + b"\x04\xc8\x05HELLO" + rng.randbytes(194))
        for _ in range(rng.randrange(4)):
            noise[rng.randrange(len(noise))] = rng.randrange(256)
        with socket.create_connection(("127.0.0.1", rig.port)) as stranger:
            stranger.sendall(noise[: rng.randrange(len(noise) + 1)])
    assert rig.listener.drain() == []
    still_serves(rig)


def test_a_recorded_connection_cannot_be_played_again(rig: Rig) -> None:
    """A relay records what a friend says; a stranger says it again."""
    said = bytearray()
    with socket.create_server(("127.0.0.1", 0)) as server:
        friend = rig._channel(rig._context(), b"d-1", KEYS)
        friend.connect(f"tcp://127.0.0.1:{server.getsockname()[1]}", b"s")
        friend.send(b"s", [b"do it"])
        near, _ = server.accept()
        far = socket.create_connection(("127.0.0.1", rig.port))
        with near, far:
            import select

            while not (arrived := rig.listener.drain()):
                for ready in select.select([near, far], [], [], 0.1)[0]:
                    data = ready.recv(65536)
                    said += data if ready is near else b""
                    (far if ready is near else near).sendall(data)
        assert arrived == [(b"d-1", [b"do it"])]
    friend.close()
    with socket.create_connection(("127.0.0.1", rig.port)) as again:
        again.sendall(said)
        again.shutdown(socket.SHUT_WR)
        try:
            while again.recv(65536):
                pass
        except OSError:
            pass
    assert rig.listener.drain() == []


def test_a_thousand_half_open_connections_do_not_shut_others_out(rig: Rig) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    strangers = []
    try:
        for _ in range(1000):
            stranger = socket.create_connection(("127.0.0.1", rig.port))
            stranger.sendall(_greeting()[:11])
            strangers.append(stranger)
        still_serves(rig)
    finally:
        for stranger in strangers:
            stranger.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# -- tokens --------------------------------------------------------------------------------------------


def test_a_token_is_one_line_and_comes_back() -> None:
    token = Token("10.0.0.1:47621", new_secret())
    assert token.line().count("\n") == 0
    assert len(token.line().split()) == 1
    assert Token.parse(f"  {token.line()}\n") == token


def test_a_damaged_token_is_noticed_and_not_repeated() -> None:
    line = Token("10.0.0.1:47621", b"x" * 32).line()
    for damaged in (line[:-1], line.replace("10.", "11."), line[:20] + line[21:], "dp1-", "hello", "", line + " x"):
        with pytest.raises(ValueError) as raised:
            Token.parse(damaged)
        assert line[4:20] not in str(raised.value)


def test_secrets_are_not_shown() -> None:
    token = Token("10.0.0.1:1", b"verysecret".ljust(32))
    assert "verysecret" not in repr(token)
    assert token.keys.dialler_secret.decode() not in repr(token.keys)


@pytest.mark.parametrize("text", ["host", "host:", ":1", "host:x", "host:70000", "a/b:1", "::1:47", "http://h:1"])
def test_addresses_that_are_none(text: str) -> None:
    with pytest.raises(ValueError):
        parse_address(text)


def test_addresses() -> None:
    assert parse_address("tcp://host:047") == "host:47"
    assert parse_address("[::1]:47") == "[::1]:47"
    assert parse_address("host", 5) == "host:5"


def test_a_token_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.token"
    path.write_text(Token("h:1", new_secret()).line())
    path.chmod(0o644)
    with pytest.raises(ConnectError, match="chmod 600"):
        statefolder.read_token_file(path)
    path.chmod(0o600)
    assert statefolder.read_token_file(path).address == "h:1"


def test_files_of_ours_are_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    path = statefolder.save_token(Token("h:1", new_secret()))
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert statefolder.find_token("h:1").address == "h:1"
    with pytest.raises(ConnectError, match="there is no token"):
        statefolder.find_token("h:2")


def test_any_address_of_this_machine_finds_the_token_of_its_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    own, elsewhere = Token("127.0.0.2:5", new_secret()), Token("198.51.100.7:6", new_secret())
    for token in (own, elsewhere):
        statefolder.save_token(token)
    for address in ("127.0.0.1:5", "localhost:5", f"{socket.gethostname()}:5"):
        assert statefolder.find_token(address) == own
    for address in ("127.0.0.1:6", "127.0.0.1:7", "198.51.100.8:5"):
        with pytest.raises(ConnectError, match="there is no token"):
            statefolder.find_token(address)
    # In a container, where the head is known by an address of the machine around it.
    lock = statefolder.hold_node_file(statefolder.NodeFile("n", os.getpid(), elsewhere.address, True, ""))
    try:
        assert statefolder.find_token("127.0.0.1:6") == Token("127.0.0.1:6", elsewhere.secret)
    finally:
        os.close(lock)


def test_wire_modules_do_not_load_what_a_private_node_never_needs() -> None:
    code = "import sys, distpool.worker.main; print('distpool.wire.security' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout == "False\n"
