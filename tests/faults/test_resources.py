"""Programs that are short of something other than memory: a clear error or a degraded service, never a hang or a leak.

Each is a process of its own, which takes something away from itself; mounts are in a mount namespace of its own.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from shutil import which

import pytest

RunScript = Callable[..., str]
_root = pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root may mount")

PROGRAM = '''
import contextlib, ctypes, os, resource, subprocess, sys

def alone(*mounts, read_only=()):
    """Have a mount namespace of our own, with these in memory and those as they are, but read-only."""
    if ctypes.CDLL(None).unshare(0x00020000):
        print("SKIP: may not make a mount namespace")
        sys.exit()
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    for options, folder in mounts:
        if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", folder]).returncode:
            print("SKIP: may not mount")
            sys.exit()
    for folder in read_only:
        subprocess.run(["mount", "--bind", folder, folder], check=True)
        subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True)

def size(data): return len(data)

def open_all():
    """Open files until there are no more; give them back."""
    held = []
    try:
        while True:
            held.append(os.open("/dev/null", os.O_RDONLY))
    except OSError as error:
        return error.errno
    finally:
        for descriptor in held:
            os.close(descriptor)

def show(call):
    try:
        print(call())
    except Exception as error:
        print(f"{type(error).__name__}: {error}")

if __name__ == "__main__":
'''
BIG = "        show(lambda: executor.submit(size, bytes(5_000_000)).result(40))\n"
BIG_BACK = "        show(lambda: size(executor.submit(bytes, 5_000_000).result(40)))\n"
SMALL = "        show(lambda: executor.submit(size, b'four').result(40))\n"
POOL = "    import distpool\n    with distpool.DistExecutor(2) as executor:\n"


def lines_of(run_script: RunScript, taken: str, calls: str, **options: object) -> list[str]:
    lines = run_script(PROGRAM + taken + POOL + calls + "    print('end')\n", **options).splitlines()
    if lines and lines[0].startswith("SKIP"):
        pytest.skip(lines[0])
    return lines


@_root
@pytest.mark.parametrize("options", ["size=1m", "size=64k,ro"])
def test_hardly_any_shared_memory(run_script: RunScript, options: str) -> None:
    taken = f"    alone(({options!r}, '/dev/shm'))\n"
    assert lines_of(run_script, taken, BIG + BIG_BACK + SMALL) == ["5000000", "5000000", "4", "end"]


@_root
def test_neither_shared_memory_nor_disk(run_script: RunScript) -> None:
    # Not over /tmp, where the interpreter's environment may be.
    taken = "    alone(('size=1m', '/dev/shm'), ('size=2m', '/var/tmp'))\n    os.environ['TMPDIR'] = '/var/tmp'\n"
    there, back, small, end = lines_of(run_script, taken, BIG + BIG_BACK + SMALL)
    for line in (there, back):
        assert line.startswith("ObjectStoreFullError: no room for 5,000,000 bytes in /var/tmp/")
        assert "bytes are free" in line
    assert (small, end) == ("4", "end")


@_root
def test_no_folder_that_can_be_written(run_script: RunScript) -> None:
    taken = "    alone(read_only=['/tmp', '/var/tmp'])\n    os.environ.pop('TMPDIR', None)\n    os.chdir('/proc')\n"
    line, end = lines_of(run_script, taken, SMALL)
    assert line.startswith("ConnectError: no folder for temporary files can be used (/tmp: Read-only file system")
    assert end == "end"


@pytest.mark.parametrize("name", ["HOME", "TMPDIR", "XDG_STATE_HOME"])
def test_a_folder_that_is_not_there(run_script: RunScript, name: str) -> None:
    taken = f"    os.environ[{name!r}] = '/nonexistent/folder'\n"
    assert lines_of(run_script, taken, SMALL + BIG) == ["4", "5000000", "end"]


def test_few_descriptors(run_script: RunScript) -> None:
    taken = "    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))\n"
    calls = "        show(lambda: executor.submit(open_all).result(40))\n" + BIG + BIG_BACK + SMALL
    assert lines_of(run_script, taken, calls) == ["24", "5000000", "5000000", "4", "end"]


def test_too_few_descriptors_for_a_node(run_script: RunScript) -> None:
    taken = "    resource.setrlimit(resource.RLIMIT_NOFILE, (20, 20))\n"
    line, end = lines_of(run_script, taken, SMALL)
    assert line.startswith("ConnectError: ")
    assert "ulimit -n" in line
    assert end == "end"


def _as_nobody(tmp_path: Path, source: str) -> list[str]:
    """The command that runs a program as a user of whom there are no other processes, and who may read ours."""
    if os.geteuid() or which("setpriv") is None:
        pytest.skip("needs root and setpriv: processes are counted by user, and root's are not")
    script = tmp_path / "limited.py"
    script.write_text(source)
    caps = "-all,+dac_override"
    return ["setpriv", "--reuid=65533", "--regid=65533", "--clear-groups", f"--inh-caps={caps}",
            f"--ambient-caps={caps}", f"--bounding-set={caps}", sys.executable, "-B", str(script)]  # fmt: skip


@pytest.mark.parametrize(("more", "outcome"), [(1, "ConnectError"), (5, "ConnectError"), (40, "4")])
def test_few_processes(run_script: RunScript, tmp_path: Path, more: int, outcome: str) -> None:
    limit = f"    resource.setrlimit(resource.RLIMIT_NPROC, ({more} + 1, {more} + 1))\n"
    command = _as_nobody(tmp_path, PROGRAM + limit + POOL + SMALL + "    print('end')\n")
    driver = (
        "import subprocess, sys\n"
        f"ended = subprocess.run({command!r}, capture_output=True, text=True, timeout=45, cwd='/')\n"
        "print(ended.stdout, ended.stderr if ended.returncode else '', end='')\n"
    )
    lines = [line for line in run_script(driver).splitlines() if line.strip()]
    assert lines[0].startswith(outcome), lines
    assert lines[-1].strip() == "end", lines


COMMANDS = """
    def command(*words):
        done = subprocess.run([sys.executable, "-m", "distpool", *words], capture_output=True, text=True, timeout=40)
        print(done.returncode, " ".join((done.stdout + done.stderr).split()))
    command("start", "--head", "--host", "127.0.0.1", "--port", "0", "--num-cpus", "1")
    command("status")
    command("stop")
"""


@_root
@pytest.mark.parametrize("inside", ["", "state"])
def test_a_home_that_is_read_only(run_script: RunScript, tmp_path: Path, inside: str) -> None:
    home = tmp_path / "home"
    home.mkdir()
    taken = f"    os.environ['HOME'] = os.environ['XDG_STATE_HOME'] = {str(home / inside)!r}\n"
    taken += f"    alone(read_only=[{str(home)!r}])\n"
    start, status, stop, task, end = lines_of(run_script, taken + COMMANDS, SMALL)
    assert start.startswith(f"1 distpool: the folder {home / inside}/distpool, in which tokens of clusters and logs")
    assert "cannot be made: Read-only file system. Set XDG_STATE_HOME to a folder that can be written" in start
    assert "Traceback" not in status + stop
    assert (status[0], stop[0]) == ("0", "0")
    assert (task, end) == ("4", "end")


@_root
def test_a_home_that_is_full(run_script: RunScript, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    taken = f"    os.environ['HOME'] = os.environ['XDG_STATE_HOME'] = {str(home)!r}\n"
    taken += f"    alone(('size=64k', {str(home)!r}))\n"
    taken += f"    with contextlib.suppress(OSError), open({str(home / 'filler')!r}, 'wb', 0) as filler:\n"
    taken += "        while True:\n            filler.write(bytes(4096))\n"
    start, status, stop, task, end = lines_of(run_script, taken + COMMANDS, SMALL)
    assert start.startswith(f"1 distpool: {home}/distpool/"), start
    assert start.endswith("cannot be written: No space left on device"), start
    assert "Traceback" not in start + status + stop
    assert (task, end) == ("4", "end")
