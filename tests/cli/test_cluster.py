"""``distpool start``, ``status`` and ``stop``, and programs that use what they start; all on this machine."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from distpool.node import statefolder

pytestmark = pytest.mark.watchdog(120)


class Command:
    """Runs the command line with a state folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.environment = {
            **os.environ,
            "XDG_STATE_HOME": str(folder),
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "DISTPOOL_SPARE_WORKERS": "0",
        }
        self.folder = folder

    def words(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "distpool", *words]

    def __call__(self, *words: str, status: int = 0, text: str = "", **environment: str) -> str:
        done = subprocess.run(
            self.words(*words),
            env={**self.environment, **environment},
            input=text,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=100,
        )
        assert done.returncode == status, done.stdout
        return done.stdout

    def start_head(self, *words: str) -> str:
        """Returns the address."""
        said = self("start", "--head", "--host", "127.0.0.1", "--port", "0", "--num-cpus", "2", *words)
        found = re.search(r"listens at (\S+);", said)
        assert found is not None, said
        return found[1]

    def token_file(self, address: str) -> Path:
        return self.folder / "distpool" / "clusters" / f"{address}.token"


@pytest.fixture
def distpool(tmp_path: Path) -> Iterator[Command]:
    command = Command(tmp_path / "state")
    yield command
    command("stop")


def test_a_cluster_from_start_to_stop(distpool: Command, run_script: Callable[..., str]) -> None:
    address = distpool.start_head()
    assert distpool.token_file(address).stat().st_mode & 0o777 == 0o600
    assert "joined" in distpool(
        "start", "--join", address, "--num-cpus", "1", "--resources", "licence=2", "--node", "b"
    )
    status = distpool("status")
    assert "2 nodes, 0 of 3 CPUs in use" in status
    assert re.search(r"^  b +\S+ +0/1 CPUs", status, re.MULTILINE)
    assert "0/2 licence" in status
    program = """
import distpool, os, sys
from distpool import DistExecutor
from distpool.multiprocessing import Pool

if __name__ == "__main__":
    with DistExecutor(address=sys.argv[1]) as executor:
        print(executor.max_workers, list(executor.map(abs, [-1, -2])))
    distpool.init(address=sys.argv[1])
    print(distpool.cpu_count())
    with Pool() as pool:
        print(pool.map(abs, [-3]), len(pool._pool))
        executor = DistExecutor(1, address="127.0.0.1:1")
        try:
            executor.submit(abs, 1)
        except RuntimeError as error:
            print("cannot use 127.0.0.1:1 at the same time" in str(error))
"""
    environment = {**distpool.environment, "DISTPOOL_ADDRESS": "127.0.0.1:1"}
    assert run_script(program, address, env=environment).splitlines() == ["3 [1, 2]", "3", "[3] 3", "True"]
    assert "0 of 3 CPUs in use" in distpool("status", "--address", address)
    assert "and with it the cluster" in distpool("stop")
    assert "No node of yours" in distpool("status")


def test_a_setting_that_means_nothing_is_one_line(distpool: Command) -> None:
    words = ("start", "--head", "--host", "127.0.0.1", "--port", "0")
    for name, value in (("SPILL_URI", "/proc/nowhere"), ("NUM_CPUS", "two"), ("SPARE_WORKERS", "two")):
        said = distpool(*words, status=1, **{f"DISTPOOL_{name}": value})
        assert said.startswith("distpool: "), said
        assert f"DISTPOOL_{name}" in said
        assert repr(value) in said
        assert said.count("\n") == 1


def test_a_setting_that_means_nothing_is_one_error_of_a_program(
    distpool: Command, run_script: Callable[..., str]
) -> None:
    program = """
import distpool
from distpool import DistExecutor

try:
    DistExecutor().submit(abs, 1)
except distpool.ConnectError as error:
    print(error)
"""
    for name in ("NUM_CPUS", "NUM_GPUS", "SPARE_WORKERS"):
        said = run_script(program, env={**distpool.environment, f"DISTPOOL_{name}": "two"})
        assert said.endswith(f"DISTPOOL_{name} must be a whole number, 0 or more, not 'two'\n")
        assert said.count("\n") == 1


def test_why_a_worker_of_a_cluster_died(distpool: Command, run_script: Callable[..., str]) -> None:
    """The driver sees at once that the connection is gone; the cause comes by way of agent and scheduler."""
    address = distpool.start_head("--num-cpus", "0")
    distpool("start", "--join", address, "--num-cpus", "1")
    program = """
import os, signal, sys, time
import distpool
from distpool import DistExecutor

def leave():
    os.write(2, b"last words")
    os._exit(7)

def fill():
    block = b"x" * (200 << 20)
    time.sleep(60)

if __name__ == "__main__":
    with DistExecutor(1, address=sys.argv[1]) as executor:
        with distpool.options(max_retries=0):
            errors = [executor.submit(leave).exception(50)]
            errors.append(executor.submit(signal.raise_signal, signal.SIGKILL).exception(50))
        with distpool.options(memory_bytes=100 << 20):
            errors.append(executor.submit(fill).exception(50))
        for error in errors:
            text = " ".join(str(error).split())
            print(type(error).__name__, [word for word in (
                "exit code 7", "last words", "by SIGKILL", "memory_bytes allows", "given up") if word in text])
"""
    assert run_script(program, address, env=distpool.environment).splitlines() == [
        "WorkerDiedError ['exit code 7', 'last words']",
        "WorkerDiedError ['by SIGKILL']",
        "OutOfMemoryError ['memory_bytes allows']",
    ]


def test_what_a_killed_program_has_stored_goes_with_the_node_at_the_latest(
    distpool: Command, run_script: Callable[..., str]
) -> None:
    address = distpool.start_head()
    program = """
import distpool, os, sys
from distpool.store import current

distpool.init(address=sys.argv[1])
ref = distpool.put(bytes(1_000_000))
print(current.store_of_this_process().folder, flush=True)
os.kill(os.getpid(), 9)
"""
    folder = run_script(program, address, status=-9, env=distpool.environment).strip()
    distpool("stop")
    assert folder
    assert not os.path.exists(folder)


def test_what_a_program_that_is_killed_held_is_given_back(distpool: Command, tmp_path: Path) -> None:
    address = distpool.start_head()
    script = tmp_path / "sleeper.py"
    script.write_text(
        "import time\nfrom distpool import DistExecutor\n"
        "if __name__ == '__main__':\n    with DistExecutor() as executor:\n"
        "        executor.submit(abs, 1).result()\n        executor.submit(time.sleep, 1000)\n"
        "        print('runs', flush=True)\n        time.sleep(1000)\n"
    )
    environment = {**distpool.environment, "DISTPOOL_ADDRESS": address}
    process = subprocess.Popen([sys.executable, str(script)], env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "runs\n"
    assert f"process {process.pid} on " in distpool("status")
    process.kill()
    process.communicate()
    while "0 of 2 CPUs" not in distpool("status"):
        pass


def test_messages_that_tell_what_is_wrong(distpool: Command, tmp_path: Path, own_port: int) -> None:
    address = distpool.start_head()
    port = address.rpartition(":")[2]
    again = distpool("start", "--head", "--host", "127.0.0.1", "--port", port, status=1)
    assert f"cannot listen on port {port}" in again
    assert "--port" in again
    other = tmp_path / "other.token"
    statefolder.write_private(other, statefolder.Token(address, b"o" * 32).line().encode())
    assert "another key" in distpool("start", "--join", "--token-file", str(other), status=1)
    token = distpool.token_file(address).read_text()
    refused = distpool("start", "--join", f"127.0.0.1:{own_port}", "--token-file", "-", text=token, status=1)
    assert "nobody listens there" in refused
    assert "is no token" in distpool("start", "--join", "--token-file", "-", text="hello\n", status=1)
    assert "which cluster?" in distpool("start", "--join", status=1)
    assert "--node a/b: a name has" in distpool("start", "--join", address, "--node", "a/b", status=1)
    assert "no node nobody runs here" in distpool("stop", "nobody", status=1)
    assert "give a name and an amount" in distpool("start", "--head", "--resources", "x", status=1)
    log = next((distpool.folder / "distpool" / "logs").glob("*.log")).read_text()
    assert log.count("did not authenticate") == 1
    assert token[10:30] not in log


def test_a_program_of_another_version_is_refused_with_both_named(
    distpool: Command, run_script: Callable[..., str]
) -> None:
    address = distpool.start_head()
    program = """
import sys
from distpool.wire import codec
codec.PROTOCOL, codec.PYTHON = int(sys.argv[2]) or codec.PROTOCOL, sys.argv[3] or codec.PYTHON
import distpool
try:
    distpool.init(sys.argv[1])
except distpool.ConnectError as error:
    print(error)
"""
    said = run_script(program, address, "99", "", env=distpool.environment)
    assert "(protocol 99), the cluster distpool" in said
    said = run_script(program, address, "0", "2.7", env=distpool.environment)
    assert f"runs Python 2.7, the cluster's workers run 3.{sys.version_info.minor}" in said


def test_in_the_foreground_it_ends_with_the_signal(distpool: Command) -> None:
    words = distpool.words("start", "--head", "--host", "127.0.0.1", "--port", "0", "--foreground")
    process = subprocess.Popen(
        words, env=distpool.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    assert any("listens at" in line for line in iter(process.stdout.readline, ""))
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "ends: it was told to" in output


def test_a_worker_port_range_is_kept_to(distpool: Command, run_script: Callable[..., str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as one:
        first = one.getsockname()[1]
    address = distpool.start_head("--worker-ports", f"{first}-{min(first + 20, 65535)}")
    program = """
import sys
from distpool import DistExecutor
from distpool.driver.current import existing_session
if __name__ == "__main__":
    with DistExecutor(2, address=sys.argv[1]) as executor:
        list(executor.map(abs, range(4)))
        print(*[int(e.rpartition(":")[2]) for p, e in existing_session().channel._endpoints.items() if p[:1] == b"w"])
"""
    ports = [int(port) for port in run_script(program, address, env=distpool.environment).split()]
    assert ports
    assert all(first <= port <= first + 20 for port in ports)


def test_a_program_does_not_wait_for_ever_for_a_scheduler_that_is_gone(
    distpool: Command, run_script: Callable[..., str]
) -> None:
    address = distpool.start_head()
    head = re.search(r"process (\d+)", distpool("status"))
    assert head is not None
    program = """
import os, signal, sys
from distpool import DistExecutor
from distpool.driver import links
links.SCHEDULER_LOST_S = 0.5

if __name__ == "__main__":
    with DistExecutor(1, address=sys.argv[1]) as executor:
        executor.submit(abs, 1).result()
        os.kill(int(sys.argv[2]), signal.SIGKILL)
        try:
            while True:
                executor.submit(abs, 1).result()
        except Exception as error:
            print(type(error).__name__, error)
"""
    said = run_script(program, address, head[1], env=distpool.environment)
    assert "the scheduler of the cluster at 127.0.0.1:" in said
    assert "has been out of reach for" in said
    distpool.start_head()  # a node that starts removes what one that was killed has left


def test_a_head_that_is_killed_comes_back_at_its_address(
    distpool: Command, run_script: Callable[..., str], own_port: int
) -> None:
    address = distpool.start_head("--port", str(own_port))
    distpool("start", "--join", address, "--num-cpus", "1")
    head = re.search(r"head (\S+), process (\d+)", distpool("status"))
    assert head is not None
    os.kill(int(head[2]), signal.SIGKILL)
    while head[1] in distpool("status", status=1):
        pass
    assert distpool.start_head("--port", str(own_port)) == address
    while "2 nodes" not in distpool("status"):
        pass
    program = "import sys\nfrom distpool import DistExecutor\nif __name__ == '__main__':\n    with "
    program += "DistExecutor(3, address=sys.argv[1]) as executor:\n        print(list(executor.map(abs, range(9))))\n"
    assert run_script(program, address, env=distpool.environment) == f"{list(range(9))}\n"
