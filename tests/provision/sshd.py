"""A real ``sshd`` for one test: its own keys, its own configuration, on loopback or on a host of its own."""

from __future__ import annotations

import getpass
import os
import shlex
import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.provision.contract import eventually


def missing() -> str:
    """Why there can be none here; empty if there can."""
    absent = [name for name in ("ssh", "ssh-keygen") if shutil.which(name) is None]
    if program() is None:
        absent.append("sshd (openssh-server)")
    return f"not installed: {', '.join(absent)}" if absent else ""


def program() -> str | None:
    return shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


class Sshd:
    """See the module's description.

    :param folder: for its files; made.
    :param environment: what commands that run there see beside what ``sshd`` gives them.
    :param client_folder: where the client finds its key, if that is not ``folder``.
    :ivar client: the configuration file for ``ssh``; ``client_key``: its key.
    """

    def __init__(self, folder: Path, address: str, port: int, environment: dict[str, str]) -> None:
        folder.mkdir(mode=0o700)
        self.folder, self.address, self.port = folder, address, port
        for name in ("host", "client"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
        shutil.copy(folder / "client.pub", folder / "authorized")
        given = " ".join(shlex.quote(f"{name}={value}") for name, value in environment.items())
        (folder / "sshd_config").write_text(
            f"ListenAddress {address}\nPort {port}\nHostKey {folder}/host\nPidFile none\nUsePAM no\n"
            f"AuthorizedKeysFile {folder}/authorized\nStrictModes no\nPasswordAuthentication no\n"
            f"KbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\nSetEnv {given}\n"
        )
        self.config = folder / "config"
        self.config.write_text(
            f"Host *\n  IdentityFile {folder}/client\n  IdentitiesOnly yes\n  User {getpass.getuser()}\n"
            f"  UserKnownHostsFile {folder}/known\n  StrictHostKeyChecking accept-new\n  LogLevel ERROR\n"
        )
        self._process: subprocess.Popen[str] | None = None

    def start(self, popen: Callable[..., subprocess.Popen[str]], answers: Callable[[], bool]) -> None:
        """Start it.

        :param popen: runs a command on the host where it shall run.
        :param answers: whether it takes connections.
        """
        sshd = program()
        assert sshd is not None
        if os.geteuid() == 0:
            os.makedirs("/run/sshd", mode=0o755, exist_ok=True)  # sshd insists
        self._log = (self.folder / "sshd.log").open("w")
        self._process = popen(
            sshd, "-D", "-e", "-f", str(self.folder / "sshd_config"), stdout=self._log, stderr=self._log
        )
        eventually(answers)

    def listens(self) -> bool:
        """Whether it takes connections, seen from here."""
        with socket.socket() as probe:
            return probe.connect_ex((self.address, self.port)) == 0

    def close(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(20)
            self._log.close()
