"""``distpool start``, ``status`` and ``stop``."""

from __future__ import annotations

import argparse
import os
import secrets
import signal
import socket
import sys
import threading
import time

import msgspec

from distpool.errors import ConnectError
from distpool.node import launch, machine, statefolder
from distpool.node.config import MemberConfig
from distpool.wire.resources import Shape
from distpool.wire.security import Token, new_secret, parse_address

#: The scheduler's port unless told otherwise.
DEFAULT_PORT = 47621
#: How long a node may take to end after SIGTERM.
_STOP_S = 20.0


def add_start(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The grammar of ``distpool start``."""
    parser = commands.add_parser(
        "start",
        help="make this machine a node of a cluster",
        description="Make this machine a node of a cluster: the first one (--head), or one that joins (--join).",
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--head", action="store_true", help="start a new cluster, with its scheduler here")
    which.add_argument(
        "--join",
        nargs="?",
        const="",
        metavar="HOST:PORT",
        help="join the cluster whose scheduler is there (default: what the token says)",
    )
    parser.add_argument(
        "--token-file",
        metavar="FILE",
        help="with --join: the cluster's token; - reads it from standard input (default: DISTPOOL_TOKEN, "
        "DISTPOOL_TOKEN_FILE, or what this user's state folder has for the address)",
    )
    parser.add_argument(
        "--port", type=int, default=DEFAULT_PORT, help="with --head: the scheduler's port (default %(default)s; 0: any)"
    )
    parser.add_argument(
        "--host",
        metavar="ADDRESS",
        help="the address by which other machines reach this one (default: that of the interface which leads to them)",
    )
    parser.add_argument(
        "--bind", metavar="ADDRESS", help="the address to listen on (default: that of --host; 0.0.0.0: all)"
    )
    parser.add_argument(
        "--worker-ports",
        metavar="FIRST-LAST",
        help="workers listen on one of these ports each (default: any that is free)",
    )
    parser.add_argument(
        "--num-cpus", type=float, metavar="N", help="CPUs to offer (default: all that may be used here)"
    )
    parser.add_argument(
        "--num-gpus", type=float, metavar="N", help="GPUs to offer (default: all that may be used here)"
    )
    parser.add_argument("--memory-bytes", type=int, metavar="N", help="memory to offer (default: all)")
    parser.add_argument(
        "--resources",
        action="append",
        default=[],
        metavar="NAME=AMOUNT",
        help="further resources to offer; may be given several times",
    )
    parser.add_argument(
        "--node", metavar="NAME", help="its name in the cluster, which no other node may have (default: one is made)"
    )
    parser.add_argument("--foreground", action="store_true", help="stay in the foreground, and log to standard error")
    parser.add_argument(
        "--private",
        action="store_true",
        help="with --join: for one program's own cluster; nothing is kept here, and without its scheduler it soon ends",
    )
    parser.add_argument(
        "--until-eof", action="store_true", help="with --foreground: end as soon as standard input does, as over ssh"
    )
    parser.set_defaults(run=start)


def start(arguments: argparse.Namespace) -> int:
    """Run ``distpool start``."""
    token = _new_token(arguments) if arguments.head else _found_token(arguments)
    host = arguments.host or (
        token.address.rpartition(":")[0] if arguments.head else machine.address_towards(token.address)
    )
    if arguments.foreground:  # nothing is left of a node that is told to end before it is up
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    if arguments.until_eof:
        threading.Thread(target=_end_with_input, daemon=True).start()
    first_port, last_port = _port_range(arguments.worker_ports)
    node = f"{_safe(socket.gethostname())}-{secrets.token_hex(3)}" if arguments.node is None else arguments.node
    if node != _safe(node):
        raise ConnectError(f"--node {node}: a name has at most 40 letters, digits and hyphens")
    log = "" if arguments.foreground else str(statefolder.log_path(node))
    member = MemberConfig(
        token=token.line(),
        head=arguments.head,
        bind_host=arguments.bind or host,
        advertised_host=host,
        first_port=first_port,
        last_port=last_port,
        capacity=_capacity(arguments),
        working_directory=os.getcwdb(),
        foreground=arguments.foreground,
        log=log,
        private=arguments.private,
    )
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600) if log else -1
    try:
        started = launch.start_member(member, node, output)
    except ConnectError:
        if log and not os.path.getsize(log):
            os.unlink(log)
        raise
    finally:
        if output >= 0:
            os.close(output)
    if arguments.foreground:  # before anybody can know that it is up, and have it end
        signal.signal(signal.SIGTERM, lambda *_: _ask_to_end(started.pid))
    print(_words(started.announcement, member), flush=True)
    return _stay(started) if arguments.foreground else 0


def _stay(started: launch.MemberStart) -> int:
    """Until the node ends; Ctrl-C and SIGTERM end it."""
    while True:
        try:
            _, status = os.waitpid(started.pid, 0)
        except KeyboardInterrupt:
            _ask_to_end(started.pid)
            continue
        os.close(started.life)
        code = os.waitstatus_to_exitcode(status)
        return code if code >= 0 else 128 - code


def _end_with_input() -> None:
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _ask_to_end(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        pass


def _words(announcement: bytes, member: MemberConfig) -> str:
    joined = msgspec.json.decode(announcement)
    capacity = msgspec.convert(joined["capacity"], Shape)
    node, address, path = joined["node"], joined["address"], joined["token_file"]
    offer = f"{capacity.num_cpus:g} CPUs" + (f" and {capacity.num_gpus:g} GPUs" if capacity.num_gpus else "")
    log = f"\nIts log: {member.log}" if member.log else ""
    if not member.head:
        return f"Node {node} joined the cluster at {address} with {offer}.{log}"
    return f"""The cluster's scheduler listens at {address}; node {node} offers {offer}.{log}

On each other machine, once the token file {path} was copied there (keep its mode, 0600):
    distpool start --join --token-file FILE

Programs, here or on any machine that joined:
    DISTPOOL_ADDRESS={address} python program.py
and elsewhere, with a copy of the token file:
    DISTPOOL_ADDRESS=/path/to/FILE python program.py"""


# -- what the arguments mean ---------------------------------------------------------------------------------


def _new_token(arguments: argparse.Namespace) -> Token:
    if not 0 <= arguments.port < 65536:
        raise ConnectError(f"--port {arguments.port}: ports are numbers from 1 to 65535 (0: any)")
    host = arguments.host or machine.address_towards("192.0.2.1:9")
    address = f"[{host}]:{arguments.port}" if ":" in host and not host.startswith("[") else f"{host}:{arguments.port}"
    path = statefolder.token_path(address)
    # A head that is started again at its address is the same cluster: nodes and programs find it again.
    secret = statefolder.read_token_file(path).secret if arguments.port and path.exists() else new_secret()
    return Token(address, secret)


def _found_token(arguments: argparse.Namespace) -> Token:
    if arguments.token_file == "-":
        try:
            token = Token.parse(_line_of_input())
        except ValueError as error:
            raise ConnectError(f"standard input: {error}") from error
    elif arguments.token_file:
        token = statefolder.read_token_file(arguments.token_file)
    else:
        given = statefolder.given_token()
        if given is None and not arguments.join:
            raise ConnectError(
                "which cluster? Give --token-file FILE (- for standard input), set DISTPOOL_TOKEN or "
                "DISTPOOL_TOKEN_FILE, or name the address of a cluster whose token is in your state folder"
            )
        token = given if given is not None else statefolder.find_token(arguments.join)
    if arguments.join:
        try:
            token = Token(parse_address(arguments.join, DEFAULT_PORT), token.secret)
        except ValueError as error:
            raise ConnectError(str(error)) from error
    return token


def _line_of_input() -> str:
    """One line and no more: what is behind it is not ours to read."""
    line = b""
    while not line.endswith(b"\n") and (byte := os.read(0, 1)):
        line += byte
    return line.decode(errors="replace")


def _port_range(text: str | None) -> tuple[int, int]:
    if text is None:
        return 0, 0
    first, _, last = text.partition("-")
    if first.isdigit() and (last or first).isdigit() and 0 < int(first) <= int(last or first) < 65536:
        return int(first), int(last or first)
    raise ConnectError(f"--worker-ports {text}: give a range of ports such as 47700-47799")


def _capacity(arguments: argparse.Namespace) -> Shape:
    custom = {}
    for text in arguments.resources:
        name, equals, amount = text.partition("=")
        try:
            custom[name] = float(amount)
        except ValueError:
            equals = ""
        if not equals or not name or not custom[name] >= 0:
            raise ConnectError(f"--resources {text}: give a name and an amount, as in --resources licences=2")
    return Shape(
        -1.0 if arguments.num_cpus is None else arguments.num_cpus,
        -1.0 if arguments.num_gpus is None else arguments.num_gpus,
        -1 if arguments.memory_bytes is None else arguments.memory_bytes,
        tuple(sorted(custom.items())),
    )


def _safe(name: str) -> str:
    """A host name as part of a file name and routing id."""
    return (
        "".join(c if c.isascii() and (c.isalnum() or c == "-") else "-" for c in name.partition(".")[0])[:40] or "node"
    )


# -- stop ----------------------------------------------------------------------------------------------------


def add_stop(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The grammar of ``distpool stop``."""
    parser = commands.add_parser(
        "stop",
        help="end the nodes that run on this machine",
        description="End nodes of yours that run on this machine. With the head, the whole cluster ends.",
    )
    parser.add_argument("nodes", nargs="*", metavar="NODE", help="which (default: all)")
    parser.set_defaults(run=stop)


def stop(arguments: argparse.Namespace) -> int:
    """Run ``distpool stop``."""
    running = statefolder.running_nodes()
    unknown = set(arguments.nodes) - {node.node for node in running}
    if unknown:
        raise ConnectError(f"no node {', '.join(sorted(unknown))} runs here; there is {_names(running)}")
    chosen = [node for node in running if not arguments.nodes or node.node in arguments.nodes]
    if not chosen:
        print("No node of yours runs on this machine.")
        return 0
    for node in sorted(chosen, key=lambda node: node.head):
        _ask_to_end(node.pid)
    deadline = time.monotonic() + _STOP_S
    for node in chosen:
        while statefolder.is_running(node.node) and time.monotonic() < deadline:
            time.sleep(0.02)
        if statefolder.is_running(node.node):
            os.kill(node.pid, signal.SIGKILL)
            print(f"Node {node.node} did not end within {_STOP_S:g} s and was killed.")
        else:
            print(f"Node {node.node} ended{', and with it the cluster' if node.head else ''}.")
    return 0


def _names(running: list[statefolder.NodeFile]) -> str:
    return ", ".join(node.node for node in running) or "none"
