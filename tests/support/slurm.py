"""A Slurm cluster of a test's own: real daemons on this machine, with a configuration, a key and ports that nobody else
uses, as root or as any user.

Its machines are several ``slurmd`` of different names on the loopback interface; they claim to have GPUs.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

_PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "squeue")
#: Debian installs daemons where users who are not root do not look.
_PATH = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))


def missing() -> str:
    """What is not installed here; empty: nothing."""
    return ", ".join(name for name in _PROGRAMS if shutil.which(name, path=_PATH) is None)


class SlurmCluster:
    """See the module's description.

    :param folder: a new one, with a path short enough for sockets.
    :param ports: that of the controller and one for each machine; these have two CPUs and a GPU (which is none) each.
    """

    def __init__(self, folder: Path, ports: Sequence[int]) -> None:
        self.folder = folder
        self._ports = ports
        # What runs on a machine is found by its name, and another test run may have a cluster, too.
        name = f"m{os.urandom(4).hex()}n"
        self.machines = [f"{name}{number}" for number in range(1, len(ports))]
        self.configuration = folder / "slurm.conf"
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}
        self._configure()

    def start(self) -> None:
        """Start all daemons, and wait until the machines are idle."""
        munge = self.folder / "munge"
        options = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        words = [f"--{name}={munge / file}" for name, file in options.items()]
        self._run("munged", "munged", "--foreground", "--force", "--num-threads=2", *words)
        self.eventually((munge / "socket").exists, "munged")
        self._run("slurmctld", "slurmctld", "-D", "-f", str(self.configuration))
        for machine in self.machines:
            self.start_machine(machine)
        self.eventually(lambda: self("sinfo", "-h", "-p", "main", "-o", "%T").split() == ["idle"], "slurmctld")

    def start_machine(self, machine: str) -> None:
        """Start a machine's daemon."""
        self._run(machine, "slurmd", "-D", "-N", machine, "-f", str(self.configuration))

    def stop(self) -> None:
        """End everything, by process id."""
        if "slurmctld" in self.daemons:
            for job in self("squeue", "-h", "-o", "%i").split():
                self("scancel", job)
            self.eventually(lambda: not self("squeue", "-h"), "the end of all jobs")
        for name in reversed(list(self.daemons)):
            self.end(name)

    def end(self, name: str) -> None:
        """End a daemon."""
        daemon = self.daemons.pop(name)
        daemon.terminate()
        try:
            daemon.wait(20)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()

    def lose(self, machine: str) -> None:
        """A machine dies: its daemon, and all processes of its jobs."""
        daemon = self.daemons.pop(machine)
        daemon.kill()
        daemon.wait()
        for pid in self.processes(machine):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self("scontrol", "update", f"NodeName={machine}", "State=DOWN", "Reason=lost")

    @staticmethod
    def processes(machine: str) -> list[int]:
        """What jobs run on a machine."""
        found = []
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and f"\0SLURMD_NODENAME={machine}\0" in "\0" + (entry / "environ").read_text():
                    found.append(int(entry.name))
            except (OSError, UnicodeDecodeError):
                pass
        return found

    def __call__(self, *words: str) -> str:
        """What one of Slurm's commands says."""
        environment = {**os.environ, "SLURM_CONF": str(self.configuration)}
        done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60)
        return done.stdout.strip()

    def eventually(self, what: Callable[[], bool], whom: str) -> None:
        """Wait until it is so."""
        deadline = time.monotonic() + 60
        while not what():
            assert time.monotonic() < deadline, f"{whom} has nothing to show: {self._logs()}"
            time.sleep(0.05)

    # -- within -------------------------------------------------------------------------------------------------

    def _run(self, name: str, *command: str) -> None:
        environment = {**os.environ, "SLURM_CONF": str(self.configuration), "PATH": _PATH}
        with open(self.folder / f"{name}.log", "ab") as log:
            self.daemons[name] = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder
            )

    def _logs(self) -> str:
        return "".join(f"\n{path.name}: {path.read_text()[-2000:]}" for path in self.folder.glob("*.log"))

    def _configure(self) -> None:
        for name in ("munge", "state", *(f"spool-{machine}" for machine in self.machines)):
            (self.folder / name).mkdir(mode=0o755)
        key = self.folder / "munge" / "key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(128))
        host = socket.gethostname().partition(".")[0]
        (self.folder / "nvidia0").symlink_to("/dev/null")  # some device, with a number
        (self.folder / "gres.conf").write_text(f"AutoDetect=off\nName=gpu File={self.folder}/nvidia0\n")
        lines = {
            "ClusterName": "test",
            "SlurmctldHost": f"{host}(127.0.0.1)",
            "SlurmctldPort": self._ports[0],
            "SlurmUser": f"{_user()}",
            "SlurmdUser": f"{_user()}",
            "AuthType": "auth/munge",
            "AuthInfo": f"socket={self.folder}/munge/socket",
            "CredType": "cred/munge",
            "StateSaveLocation": self.folder / "state",
            "SlurmdSpoolDir": f"{self.folder}/spool-%n",
            "SlurmctldPidFile": self.folder / "slurmctld.pid",
            "SlurmdPidFile": f"{self.folder}/slurmd-%n.pid",
            "ProctrackType": "proctrack/linuxproc",
            "TaskPlugin": "task/none",
            "SelectType": "select/cons_tres",
            "SelectTypeParameters": "CR_Core_Memory",
            "SchedulerParameters": "batch_sched_delay=0,bf_interval=1,sched_interval=1",
            "GresTypes": "gpu",
            "SlurmdParameters": "config_overrides",
            "ReturnToService": 2,
            "KillWait": 5,
            "MailProg": "/bin/true",
            "SwitchType": "switch/none",
            "MpiDefault": "none",
            "AccountingStorageType": "accounting_storage/none",
            "JobAcctGatherType": "jobacct_gather/none",
            "PropagateResourceLimits": "NONE",
        }
        nodes = [
            f"NodeName={machine} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=2 RealMemory=2000 Gres=gpu:1"
            for machine, port in zip(self.machines, self._ports[1:], strict=True)
        ]
        partitions = [
            "PartitionName=main Nodes=ALL Default=YES MaxTime=60 DefaultTime=10 State=UP",
            "PartitionName=closed Nodes=ALL State=DOWN",
        ]
        text = "\n".join([*(f"{name}={value}" for name, value in lines.items()), *nodes, *partitions])
        self.configuration.write_text(text + "\n")


def _user() -> str:
    import pwd

    return pwd.getpwuid(os.getuid()).pw_name
