"""``distpool doctor``: what it finds on machines made up for it, and whole runs of the command."""

from __future__ import annotations

import os
import re
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
from collections import namedtuple
from pathlib import Path

import pytest
import zmq

from distpool.cli.doctor import Report, compare
from distpool.node import checkup, machine
from distpool.node.checkup import BEWARE, OK, WRONG, Finding, examine
from distpool.worker import thread_budget

pytestmark = pytest.mark.watchdog(180)

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with control groups."""
    group = tmp_path / "root" / "sys/fs/cgroup"
    (group / "job").mkdir(parents=True)
    (group / "cgroup.controllers").write_text("pids memory")
    (tmp_path / "root/proc/self").mkdir(parents=True)
    (tmp_path / "root/proc/self/cgroup").write_text("0::/job\n")
    (tmp_path / "root/proc/meminfo").write_text("MemTotal: 8000000 kB\n")
    (tmp_path / "root/dev/shm").mkdir(parents=True)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(machine, "cpu_count", lambda *_, **__: 4)
    for name in (*checkup._THREAD_VARIABLES, "DISTPOOL_TOKEN", "DISTPOOL_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "root"


def found(root: Path, subject: str) -> Finding:
    [finding] = [finding for finding in examine(root) if finding.subject == subject]
    return finding


def test_a_machine_with_nothing_to_complain_of(root: Path) -> None:
    levels = {finding.subject: finding.level for finding in examine(root)}
    assert levels["encryption"] == levels["processes"] == levels["keys"] == OK
    assert all(finding.cure for finding in examine(root) if finding.level != OK)


def test_little_shared_memory(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(64 << 20, 0, 64 << 20))
    assert found(root, "shared memory").level == BEWARE
    assert "--shm-size" in found(root, "shared memory").cure
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(8 << 30, 8 << 30, 1 << 20))
    assert found(root, "shared memory").words.startswith("only 0.0 of 8.0 GiB free")
    (root / "dev/shm").rmdir()
    assert found(root, "shared memory").level == WRONG


def test_few_descriptors(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda what: (128, 4096))
    assert found(root, "open files") == Finding(
        BEWARE, "open files", "128 (at most 4096): few for 4 workers", "ulimit -n 384"
    )
    monkeypatch.setattr(resource, "getrlimit", lambda what: (128, 128))
    assert found(root, "open files").level == WRONG


def test_few_processes_in_the_control_group(root: Path) -> None:
    group = root / "sys/fs/cgroup/job"
    (group / "pids.max").write_text("100\n")
    (group / "pids.current").write_text("95\n")
    finding = found(root, "processes")
    assert (finding.level, finding.words) == (WRONG, "95 of 100 of the control group: few are left")
    (group / "pids.current").write_text("5\n")
    assert found(root, "processes").level == OK


def test_little_memory_in_the_control_group(root: Path) -> None:
    (root / "sys/fs/cgroup/job/memory.max").write_text(f"{512 << 20}\n")
    assert found(root, "CPUs and memory").words.endswith("0.5 GiB of memory")
    finding = found(root, "memory")
    assert (finding.level, finding.words) == (BEWARE, "128 MiB per worker")
    assert "--num-cpus" in finding.cure


def test_an_address_space_with_a_limit(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = resource.getrlimit
    limits = {resource.RLIMIT_AS: (8 << 30, 8 << 30)}
    monkeypatch.setattr(resource, "getrlimit", lambda what: limits.get(what) or real(what))
    assert found(root, "address space").level == BEWARE
    assert "ulimit -v unlimited" in found(root, "address space").cure


def test_a_full_temporary_folder_with_a_long_path(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(8 << 30, 8 << 30, 1 << 20))
    monkeypatch.setattr(tempfile, "gettempdir", lambda: f"/{'long' * 30}")
    long, full = (finding for finding in examine(root) if finding.subject == "temporary folder")
    assert (long.level, full.level) == (BEWARE, BEWARE)
    assert "TMPDIR" in long.cure
    assert "DISTPOOL_SPILL_URI" in full.cure


def test_a_library_that_cannot_encrypt(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zmq, "has", lambda what: what != "curve")
    assert found(root, "encryption").level == WRONG
    assert "pip install" in found(root, "encryption").cure


def test_a_token_that_is_none(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTPOOL_TOKEN", "nonsense")
    assert [finding.level for finding in examine(root) if finding.subject == "keys"] == [WRONG, OK]


def test_many_threads_in_each_worker(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "16")
    monkeypatch.setenv("MKL_NUM_THREADS", "16")
    finding = found(root, "threads of numeric libraries")
    assert finding.level == BEWARE
    assert finding.words == "OMP_NUM_THREADS=16, MKL_NUM_THREADS=16: so many in each of 4 workers"
    assert "unset OMP_NUM_THREADS MKL_NUM_THREADS" in finding.cure


def test_the_share_of_a_worker_is_no_setting_of_the_users(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thread_budget, "own", set())
    for name in thread_budget.VARIABLES:
        monkeypatch.setenv(name, "")  # so that it is as before afterwards
        monkeypatch.delenv(name)
    thread_budget.limit_threads(2)
    assert os.environ["OMP_NUM_THREADS"] == "2"
    assert found(root, "threads of numeric libraries").level == OK


def test_keys_that_others_can_read(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "state/distpool/clusters"
    folder.mkdir(parents=True, mode=0o700)
    folder.parent.chmod(0o700)
    token = folder / "host:1.token"
    token.write_text("secret")
    token.chmod(0o644)
    finding = found(root, "keys")
    assert finding == Finding(WRONG, "keys", f"{token} may be read by others", f"chmod 600 {token}")
    token.chmod(0o600)
    assert found(root, "keys").level == OK


def test_a_machine_that_does_not_know_its_name(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    finding = found(root, "name of this machine")
    assert finding.level == BEWARE
    assert "Name or service not known" in finding.words


def test_versions_and_clocks_are_compared() -> None:
    own = {"distpool": "1", "numpy": "2.0", "pandas": "2"}
    report = Report("n", "h", 0.0, {"distpool": "1", "numpy": "1.26"}, [])
    words = [finding.words for finding in compare(report, own, off_s=100.0)]
    assert words == [
        "it differs by 100 s or more from the one here",
        "numpy 1.26 there, 2.0 here",
        "pandas 2 here, none there",
    ]
    assert [finding.level for finding in compare(report._replace(versions=own), own, off_s=0.5)] == [OK]


def doctor(*words: str, tmp_path: Path, **environment: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "distpool", "doctor", *words],
        capture_output=True,
        text=True,
        timeout=150,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "XDG_STATE_HOME": str(tmp_path / "state"),
            **environment,
        },
    )
    # An engine that is slow to start says how far it is.
    other = [line for line in done.stderr.splitlines() if not re.match(r"distpool: \d+ of \d+ nodes up", line)]
    assert not other, done.stderr
    return done.returncode, done.stdout


def test_this_machine_alone(tmp_path: Path) -> None:
    status, output = doctor(tmp_path=tmp_path)
    assert status == 0, output
    assert "ok      a call in a worker: answered" in output


def test_each_node_of_an_engine(tmp_path: Path) -> None:
    status, output = doctor("local://?nodes=2", tmp_path=tmp_path)
    assert status == 0, output
    assert "has 2 nodes" in output
    assert output.count("\nNode auto-") == 2
    assert output.count("versions and clock: the same as here") == 2


@pytest.mark.parametrize(
    ("address", "words"),
    [("locl://", "did you mean local://"), ("127.0.0.1:1", "there is no token for the cluster")],
)
def test_what_is_wrong_is_said_and_is_the_exit_status(tmp_path: Path, address: str, words: str) -> None:
    status, output = doctor(tmp_path=tmp_path, DISTPOOL_ADDRESS=address)
    assert status == 1
    assert f"WRONG   the way there: {words}" in output or words in output
    assert output.endswith("Something does not work; what to do stands behind ->.\n")
