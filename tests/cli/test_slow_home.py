"""A home directory on a network file system that is slow: pools and clusters stay usable, and no task touches it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.watchdog(300)

#: Every operation below the home that is audited, or looks at a file, takes its time and is noted elsewhere.
_HOOK = """
import functools, os, sys, time
_home, _log = os.environ["HOME"] + "/", os.environ["SLOW_LOG"]
_kinds = {"open", "os.mkdir", "os.listdir", "os.scandir", "os.remove", "os.rename", "os.chmod", "os.rmdir", "stat"}

def _hook(event, args):
    if event in _kinds and args and isinstance(args[0], (str, bytes, os.PathLike)):
        path = os.fsdecode(args[0])
        if path.startswith(_home):
            fd = os.open(_log, os.O_WRONLY | os.O_APPEND)
            os.write(fd, f"{event} {path}\\n".encode())
            os.close(fd)
            time.sleep(0.05)

def _slowly(plain, path, *args, **keywords):
    _hook("stat", (path,))
    return plain(path, *args, **keywords)

sys.addaudithook(_hook)
os.stat, os.lstat = functools.partial(_slowly, os.stat), functools.partial(_slowly, os.lstat)
"""
_PROGRAM = """
import sys
from distpool import DistExecutor

def work(x):
    return x + 1

if __name__ == "__main__":
    address, log = sys.argv[1] or None, sys.argv[2]
    with DistExecutor(1, **({"address": address} if address else {})) as executor:
        counts = []
        for tasks in (1, 300):
            assert list(executor.map(work, range(tasks))) == list(range(1, tasks + 1))
            assert executor.submit(sum, [b"x" * 200_000 and 1] * 3).result() == 3
            counts.append(len(open(log).readlines()))
    print(*counts)
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """One in which the home is slow."""
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    (hooks / "sitecustomize.py").write_text(_HOOK)
    (tmp_path / "home").mkdir()
    (tmp_path / "log").touch()
    (tmp_path / "program.py").write_text(_PROGRAM)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("XDG_")}
    paths = [str(hooks), *(path for path in sys.path if path)]
    return {
        **environment,
        "HOME": str(tmp_path / "home"),
        "SLOW_LOG": str(tmp_path / "log"),
        "PYTHONPATH": os.pathsep.join(paths),
        "DISTPOOL_SPARE_WORKERS": "0",
    }


def _run(environment: dict[str, str], *words: str) -> str:
    done = subprocess.run(
        [sys.executable, *words], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def cluster(environment: dict[str, str]) -> Iterator[str]:
    """The address of a head and another node; their home is slow."""
    words = ("start", "--head", "--host", "127.0.0.1", "--port", "0", "--num-cpus", "1")
    found = re.search(r"listens at (\S+);", _run(environment, "-m", "distpool", *words))
    assert found is not None
    try:
        yield found[1]
    finally:
        _run(environment, "-m", "distpool", "stop")


def test_a_pool_touches_the_home_for_no_task(environment: dict[str, str], tmp_path: Path) -> None:
    first, second = map(int, _run(environment, str(tmp_path / "program.py"), "", str(tmp_path / "log")).split())
    assert second == first, (tmp_path / "log").read_text()


def test_a_cluster_is_usable_and_touches_the_home_for_no_task(
    environment: dict[str, str], cluster: str, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    assert "open" in log.read_text(), "the hook is in force, and the node's files are in the home"
    _run(environment, "-m", "distpool", "start", "--join", cluster, "--num-cpus", "1")
    assert "2 nodes" in _run(environment, "-m", "distpool", "status", "--address", cluster)
    first, second = map(int, _run(environment, str(tmp_path / "program.py"), cluster, str(log)).split())
    assert second == first, log.read_text()
