"""``ssh://``: nodes on machines that the user may log in to, started over the system's ``ssh``.

Everything that the user has told ``ssh`` holds: configuration, agent, jump hosts, known hosts.  The cluster's key goes
through the connection, as the first line of the command's standard input; the end of that input ends the node.  With
``tunnel`` the connection also carries what the node and the program's scheduler tell each other.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from distpool.provision.address import Engine, option, switch, words
from distpool.provision.base import CURES, BaseProvisioner, Cure, agent_words
from distpool.provision.interface import Machine, Phase, ProvisionError
from distpool.wire.security import Token

_ALWAYS = (
    "-T",
    *("-o", "BatchMode=yes"),  # nobody is there to type a password
    *("-o", "ConnectTimeout=20"),
    *("-o", "ServerAliveInterval=15"),
    *("-o", "ServerAliveCountMax=4"),
)
#: What ``ssh`` or the other side says → what to do about it.
_CURES = {
    "Permission denied": Cure(
        "log in with a key (ssh-copy-id), and load it into your agent; passwords are not asked for", True
    ),
    "Host key verification failed": Cure("log in once by hand, and confirm that it is the right machine", True),
    "Could not resolve hostname": Cure("is that its name, or has your ~/.ssh/config another one for it?", False),
    "Connection refused": Cure("no sshd listens there; is the port right?", False),
    "timed out": Cure("no answer from there: is it up, and is the way there open?", False),
    "forwarding failed": Cure("its sshd forwards no ports (AllowTcpForwarding), so there can be no tunnel", True),
    "no answer from the cluster": Cure(
        "it must reach the program's machine: head_host says where; or tunnel=yes", False
    ),
}
#: ``ssh`` says which port it got.
_FORWARDED = re.compile(r"Allocated port (\d+) for remote forward")


@dataclass(frozen=True, kw_only=True)
class SSH(Engine):
    """One node on each of some machines.

    A user name stands in front of a machine, as in ``user@host``, and is meant for those behind it as well.
    """

    scheme: ClassVar[str] = "ssh"
    target: ClassVar[str] = "hosts"

    hosts: tuple[str, ...] = option(
        (), words, "machines as `[user@]host[:port]`, separated by commas, or a file with one in each line"
    )
    python: str = option("", str, "the Python to run there; default: the one at the same path as the program's")
    setup: str = option("", str, "a shell command that comes first, as in `. /opt/conda/bin/activate my-environment`")
    tunnel: bool = option(False, switch, "`yes`: nodes, which cannot call the program's machine, do so through `ssh`")
    config: str = option("", str, "a configuration file for `ssh` in place of the usual ones")

    def __post_init__(self) -> None:
        object.__setattr__(self, "hosts", tuple(self.hosts))
        if not self.machines():
            raise ValueError("which machines? As in ssh://user@host1,host2 or ssh://?hosts=FILE")
        super().__post_init__()
        if self.bounds()[1] > len(self.machines()):
            raise ValueError(f"{self.bounds()[1]} nodes, and {len(self.machines())} machines")

    def machines(self) -> list[str]:
        """Where nodes may run, each as ``[user@]host[:port]``."""
        found, user = [], ""
        for host in _from_file(self.hosts[0]) if len(self.hosts) == 1 else self.hosts:
            own, at, name = host.rpartition("@")
            user = own if at else user
            found.append(f"{user}@{name}" if user else name)
        return found

    def usual_nodes(self) -> int:
        """All machines."""
        return len(self.machines())

    def near(self) -> str:
        """The first machine, as ``ssh`` knows it; with a tunnel nobody but ``ssh`` calls this one."""
        if self.tunnel:
            return ""
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            said = subprocess.run(
                ["ssh", *self.options(), "-G", *_destination(self.machines()[0])],
                capture_output=True, text=True, timeout=20, stdin=subprocess.DEVNULL,
            ).stdout  # fmt: skip
            for line in said.splitlines():
                if line.startswith("hostname "):
                    return line.partition(" ")[2]
        return self.machines()[0].rpartition("@")[2].partition(":")[0]

    def options(self) -> list[str]:
        """What every ``ssh`` is told."""
        return [*_ALWAYS, *(("-F", self.config) if self.config else ())]

    def provisioner(self, token: Token) -> SSHProvisioner:
        """See ``Engine``."""
        return SSHProvisioner(self, token)


@dataclass(slots=True, eq=False)
class _Login:
    host: str
    process: subprocess.Popen[str]
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=40))
    listener: threading.Thread | None = None
    joined: bool = False

    def tell(self, token: Token) -> None:
        """Give the node the cluster's token."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError, ValueError):  # it has ended, or been released
            self.process.stdin.write(f"{token.line()}\n")
            self.process.stdin.flush()

    def hear_out(self) -> None:
        """It has ended: wait for its last words."""
        assert self.listener is not None
        assert self.process.stdout is not None
        self.listener.join(1.0)
        if not self.listener.is_alive():
            self.process.stdout.close()


class SSHProvisioner(BaseProvisioner[_Login]):
    """See the module's description.

    :raises ProvisionError: when there is no ``ssh`` here.
    """

    END_S = 15.0
    cures: ClassVar[Mapping[str, Cure]] = {**CURES, **_CURES}

    def __init__(self, engine: SSH, token: Token) -> None:
        if shutil.which("ssh") is None:
            raise ProvisionError("there is no ssh on this machine", hopeless=True)
        super().__init__(engine.node_type(start_s=10.0))
        self._engine = engine
        self._token = token
        #: least recently used first
        self._free = deque(engine.machines())

    def request(self, node: str) -> _Login:
        """See ``BaseProvisioner``."""
        if not self._free:
            raise ProvisionError(f"all of {len(self._engine.machines())} machines are in use")
        host = self._free.popleft()
        command = ["ssh", *self._engine.options(), *self._forwarding(), *_destination(host), "--", self._command(node)]
        try:
            # A session of its own: Ctrl-C is the program's.
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                errors="replace", start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            self._free.append(host)
            raise ProvisionError(f"ssh cannot be run: {error}") from error
        login = _Login(host, process)
        if not self._engine.tunnel:
            login.tell(self._token)
        login.listener = threading.Thread(target=_listen, args=(node, login, self._token), daemon=True)
        login.listener.start()
        return login

    def look(self, node: str, login: _Login) -> Machine | None:
        """See ``BaseProvisioner``."""
        code = login.process.poll()
        if code is None:
            return self.seen(Phase.RUNNING) if login.joined else self.seen(Phase.STARTING, "over ssh")
        login.hear_out()
        if code == 0 and login.joined:
            return None
        said = "; ".join(_telling(login.lines)) or f"ssh ended with exit status {code} and said nothing"
        return self.failed(f"{login.host}: {said}")

    def end(self, node: str, login: _Login) -> None:
        """See ``BaseProvisioner``."""
        assert login.process.stdin is not None
        with contextlib.suppress(OSError):
            login.process.stdin.close()
        if not login.joined:
            login.process.terminate()  # it may not have come so far as to hear of that

    def has_ended(self, login: _Login) -> bool:
        """See ``BaseProvisioner``."""
        return login.process.poll() is not None

    def kill(self, login: _Login) -> None:
        """See ``BaseProvisioner``."""
        login.process.kill()

    def tidy(self, login: _Login) -> None:
        """See ``BaseProvisioner``."""
        login.hear_out()
        self._free.append(login.host)

    # -- within -------------------------------------------------------------------------------------------------

    def _command(self, node: str) -> str:
        """What the other machine's shell runs."""
        engine = self._engine
        agent = agent_words(node, engine.capacity(), "--until-eof", "--token-file", "-")
        plain = command = f"exec {shlex.join([engine.python or sys.executable, *agent])}"
        if engine.tunnel:
            # The other side of a tunnel is everybody's own loopback interface: others reach it where this ssh did.
            command = f'set -- $SSH_CONNECTION; {command} --host "$3"'
        if engine.setup:
            command = f"{engine.setup} && {command}"
        # Its login shell may be any; what goes through it then has no more in it than quotes.
        return plain if command == plain else f"exec sh -c {shlex.quote(command)}"

    def _forwarding(self) -> Sequence[str]:
        """That a port of the node's own leads to the scheduler: any, which ``ssh`` then tells us."""
        if not self._engine.tunnel:
            return ()
        # A shared connection would keep the port for longer than the node lives.
        settings = ("ExitOnForwardFailure=yes", "LogLevel=INFO", "ControlPath=none")
        return ("-R", f"127.0.0.1:0:{self._token.address}", *(word for one in settings for word in ("-o", one)))


def _listen(node: str, login: _Login, token: Token) -> None:
    assert login.process.stdout is not None
    for line in login.process.stdout:
        forwarded = _FORWARDED.match(line)
        if forwarded is not None:
            login.tell(Token(f"127.0.0.1:{forwarded[1]}", token.secret))
            continue
        login.lines.append(line.strip())
        login.joined = login.joined or line.startswith(f"Node {node} joined")


def _telling(lines: deque[str]) -> list[str]:
    """The end of what was said, without what says nothing: a log's ordinary lines."""
    telling = [line for line in lines if line and " INFO " not in line and not line.startswith("Warning: Perm")]
    return telling[-2:]


def _destination(host: str) -> list[str]:
    """``[user@]host[:port]`` as ``ssh`` has it."""
    name, colon, port = host.rpartition(":")
    if not colon or not port.isdigit() or (":" in name.rpartition("@")[2] and not name.endswith("]")):
        return [host]
    user, at, bare = name.rpartition("@")
    return ["-p", port, f"{user}{at}{bare.strip('[]')}"]


def _from_file(text: str) -> list[str]:
    """The machines in a file, if it is one."""
    if "/" not in text and not os.path.isfile(text):
        return [text]
    try:
        with open(text, encoding="utf-8") as file:
            return [line for raw in file if (line := raw.partition("#")[0].strip())]
    except OSError as error:
        raise ValueError(f"the file of machines {text} cannot be read: {error.strerror}") from None
