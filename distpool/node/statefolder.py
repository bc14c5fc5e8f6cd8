"""What distpool keeps in the user's state folder: tokens of clusters, and one file and log per node that runs here.

All files are 0600 in folders that are 0700.  The file of a node is locked for as long as the node lives: the lock, and
not the process id in it, says whether it does.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from pathlib import Path

import msgspec

from distpool.errors import ConnectError
from distpool.node.machine import is_own_address
from distpool.wire.security import Token, parse_address

#: Where a token may be given to programs and to ``distpool start --join``.
TOKEN_VARIABLE = "DISTPOOL_TOKEN"
TOKEN_FILE_VARIABLE = "DISTPOOL_TOKEN_FILE"


def state_folder() -> Path:
    """``$XDG_STATE_HOME/distpool``, by default ``~/.local/state/distpool``; made when it is not there.

    :raises ConnectError: when that is not possible.
    """
    folder = _place()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise ConnectError(
            f"the folder {folder}, in which tokens of clusters and logs of nodes are kept, cannot be made: "
            f"{error.strerror or error}. Set XDG_STATE_HOME to a folder that can be written"
        ) from error
    return folder


def _place() -> Path:
    base = os.environ.get("XDG_STATE_HOME", "")
    # The specification wants relative paths ignored.
    return (Path(base) if os.path.isabs(base) else Path.home() / ".local" / "state") / "distpool"


def _subfolder(name: str) -> Path:
    folder = _place() / name
    # A network file system knows by itself that a folder is there; it has to ask to be told that it cannot be made.
    if not folder.is_dir():
        (state_folder() / name).mkdir(mode=0o700, exist_ok=True)
    return folder


def write_private(path: Path, data: bytes) -> None:
    """Write a file of mode 0600; readers see the old one or the new one.

    :raises ConnectError: when that is not possible; nothing is left then.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(data)
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise ConnectError(f"{path} cannot be written: {error.strerror or error}") from error


# -- tokens --------------------------------------------------------------------------------------------------


def token_path(address: str) -> Path:
    """Where the token of the cluster at ``address`` is kept."""
    return _subfolder("clusters") / f"{address.replace('/', '_')}.token"


def save_token(token: Token) -> Path:
    """Keep a token, so that this user's programs here need the address only."""
    path = token_path(token.address)
    write_private(path, f"{token.line()}\n".encode())
    return path


def read_token_file(path: str | Path) -> Token:
    """The token in a file.

    :raises ConnectError: when it cannot be read, is none, or others than its owner may read it.
    """
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            mode = os.fstat(file.fileno()).st_mode
            text = file.read(4096)
    except OSError as error:
        raise ConnectError(f"the token file {path} cannot be read: {error.strerror}") from error
    if stat.S_ISREG(mode) and mode & 0o077:
        permissions = f"{stat.S_IMODE(mode):04o}"
        raise ConnectError(f"the token file {path} may be read by others (mode {permissions}): run chmod 600 {path}")
    try:
        return Token.parse(text)
    except ValueError as error:
        raise ConnectError(f"{path}: {error}") from error


def given_token() -> Token | None:
    """The token in the environment, if there is one.

    :raises ConnectError: when what stands there is none.
    """
    text = os.environ.get(TOKEN_VARIABLE, "")
    if text:
        try:
            return Token.parse(text)
        except ValueError as error:
            raise ConnectError(f"{TOKEN_VARIABLE}: {error}") from error
    path = os.environ.get(TOKEN_FILE_VARIABLE, "")
    return read_token_file(path) if path else None


def find_token(address: str) -> Token:
    """All that is needed to reach a cluster.

    :param address: ``host:port``, or the path of a token file (it has a ``/`` in it, or ends in ``.token``).
    :raises ConnectError: when there is no token for it, saying where one was looked for.
    """
    if "://" not in address and ("/" in address or address.endswith(".token")):
        return read_token_file(address)
    try:
        wanted = parse_address(address)
    except ValueError as error:
        raise ConnectError(str(error)) from error
    given = given_token()
    if given is not None:
        # The address decides where to go: it may be another name, or a forwarded port.
        return Token(wanted, given.secret)
    path = token_path(wanted)
    if path.exists():
        return read_token_file(path)
    announced = _announced_here(wanted)
    if announced is not None:
        return announced
    raise ConnectError(
        f"there is no token for the cluster at {wanted}: {TOKEN_VARIABLE} and {TOKEN_FILE_VARIABLE} are not set, and "
        f"there is no {path}; copy the token file from the machine where the cluster was started"
    )


def _announced_here(wanted: str) -> Token | None:
    """The token of a cluster of this machine, for an address of this machine other than the one it is known by."""
    host, _, port = wanted.rpartition(":")
    if not is_own_address(host):
        return None
    running = [node.address for node in running_nodes() if node.head]
    known = [path.name.removesuffix(".token") for path in sorted(_subfolder("clusters").glob("*.token"))]
    for address in dict.fromkeys([*running, *known]):
        its_host, _, its_port = address.rpartition(":")
        path = token_path(address)
        if its_port != port or not path.exists():
            continue
        if is_own_address(its_host):
            return read_token_file(path)  # which says where it listens
        if address in running:  # in a container, known by an address of the machine around it
            return Token(wanted, read_token_file(path).secret)
    return None


# -- nodes of this machine -----------------------------------------------------------------------------------


class NodeFile(msgspec.Struct, frozen=True):
    """What is known of a node that runs (or ran) here."""

    node: str
    pid: int
    address: str
    head: bool
    log: str


def log_path(node: str) -> Path:
    """Where a node in the background writes its log."""
    return _subfolder("logs") / f"{node}.log"


def _node_path(node: str) -> Path:
    return _subfolder("nodes") / f"{node}.json"


def hold_node_file(facts: NodeFile) -> int:
    """Write the file of this process' node and lock it; returns the descriptor that holds the lock."""
    path = _node_path(facts.node)
    temporary = path.with_name(f".{path.name}")
    fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    # Locked before it has its name, or somebody could take the node for a dead one.
    fcntl.flock(fd, fcntl.LOCK_EX)
    os.write(fd, msgspec.json.encode(facts))
    os.replace(temporary, path)
    return fd


def remove_node_file(node: str) -> None:
    """The node ends."""
    _node_path(node).unlink(missing_ok=True)


def running_nodes() -> list[NodeFile]:
    """The nodes of this user that run here; files of others that do not any more are removed."""
    found: list[NodeFile] = []
    try:
        paths = sorted(_subfolder("nodes").glob("*.json"))
    except OSError:
        return found  # there is no such folder, and none can be made: no node can have told of itself
    for path in paths:
        if is_running(path.stem):
            with contextlib.suppress(OSError, msgspec.DecodeError):
                found.append(msgspec.json.decode(path.read_bytes(), type=NodeFile))
        else:
            with contextlib.suppress(OSError):  # read-only by now
                path.unlink()
    return found


def is_running(node: str) -> bool:
    """Whether a node of this name runs here."""
    try:
        fd = os.open(_node_path(node), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
