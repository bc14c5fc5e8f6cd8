"""Who may talk to a cluster: whoever has its secret, and nobody else.

A cluster has one secret of 32 random bytes. CURVE key pairs are derived from it: one for each *listener*, by its
name, which it proves to have, and the *dialler's*, which every socket that dials proves to have. Both sides are
checked before anything else is exchanged, so what arrives on a channel comes from a process that has the secret; and
whoever answers is the one that was dialled, and not another that listens at that port by now.

The secret travels in a *token*, one line that also says where the scheduler listens.  Tokens are read from files, the
environment or standard input, and never appear on a command line, in a log or in a ``repr``.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from dataclasses import dataclass, field

_PREFIX = "dp1-"
_SECRET_BYTES = 32
_CHECK_BYTES = 4


@dataclass(frozen=True, slots=True)
class Keys:
    """A cluster's key pairs, in the form that ZeroMQ takes (Z85)."""

    _secret: bytes = field(repr=False)
    dialler_public: bytes = field(repr=False)
    dialler_secret: bytes = field(repr=False)

    @classmethod
    def derive(cls, secret: bytes) -> Keys:
        """The key pairs of the cluster with this secret."""
        if len(secret) != _SECRET_BYTES:
            raise ValueError(f"a cluster's secret has {_SECRET_BYTES} bytes, not {len(secret)}")
        return cls(secret, *_key_pair(secret, b"dialler"))

    def listener(self, name: bytes) -> tuple[bytes, bytes]:
        """Public and secret key of the listener with this routing id."""
        return _key_pair(self._secret, b"listener", name)


def _key_pair(secret: bytes, role: bytes, name: bytes = b"") -> tuple[bytes, bytes]:
    import zmq
    from zmq.utils import z85

    # Any 32 bytes are a secret key of Curve25519; the hash keeps the roles' and names' apart.
    private = z85.encode(hashlib.blake2b(name, key=secret, person=b"dp-" + role, digest_size=32).digest())
    return zmq.curve_public(private), private


def new_secret() -> bytes:
    """For a new cluster."""
    return os.urandom(_SECRET_BYTES)


@dataclass(frozen=True, slots=True)
class Token:
    """All that is needed to reach a cluster.

    :param address: of its scheduler, ``host:port``.
    :param secret: shared by all its processes.
    """

    address: str
    secret: bytes = field(repr=False)

    @property
    def keys(self) -> Keys:
        """Derived from the secret."""
        return Keys.derive(self.secret)

    def line(self) -> str:
        """The token in one line; ``parse`` reads it."""
        check = _check(self.secret, self.address)
        return f"{_PREFIX}{base64.urlsafe_b64encode(self.secret + check).decode().rstrip('=')}@{self.address}"

    @classmethod
    def parse(cls, text: str) -> Token:
        """Read a token.

        :raises ValueError: when it is none, or damaged; the message does not repeat the text.
        """
        text = text.strip()
        body, at, address = text.removeprefix(_PREFIX).partition("@")
        if not text.startswith(_PREFIX) or not at or len(text.split()) != 1:
            raise ValueError(f"that is no token of a distpool cluster (one line that begins with {_PREFIX})")
        try:
            data = base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))
        except (binascii.Error, ValueError):
            data = b""
        secret, check = data[:_SECRET_BYTES], data[_SECRET_BYTES:]
        if len(secret) != _SECRET_BYTES or check != _check(secret, address):
            raise ValueError("the token is damaged: some of it is missing or was changed on the way")
        return cls(address, secret)


def _check(secret: bytes, address: str) -> bytes:
    return hashlib.blake2b(address.encode(), key=secret, person=b"dp-check", digest_size=_CHECK_BYTES).digest()


def parse_address(text: str, default_port: int = 0) -> str:
    """``host:port`` from what people write (``tcp://`` in front is fine, IPv6 addresses stand in brackets).

    :raises ValueError: when it is no address.
    """
    rest = text.strip().removeprefix("tcp://")
    host, colon, port = rest.rpartition(":")
    if default_port and (not colon or rest.endswith("]")):
        host, port = rest, str(default_port)
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536 or "/" in host:
        raise ValueError(f"{text!r} is no address of the form host:port")
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise ValueError(f"{text!r}: an IPv6 address stands in brackets, as in [::1]:{port}")
    return f"{host}:{int(port)}"
