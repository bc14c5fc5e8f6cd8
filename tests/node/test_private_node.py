"""A private node of real processes, driven by hand; its workers are stubs."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from distpool.errors import ConnectError
from distpool.node.config import NodeConfig, write_config
from distpool.node.launch import PrivateNode, start_private_node
from distpool.node.machine import process_space
from distpool.node.spawn import spawn
from distpool.version import __version__
from distpool.wire import codec, driver_to_scheduler, scheduler_to_driver
from distpool.wire.channel import Channel
from distpool.wire.resources import Shape

ROOT = str(Path(__file__).parents[2])
STUB: dict[str, Any] = {"worker_module": "tests.node.stub_worker", "import_path": [os.fsencode(ROOT)]}


class Driver:
    """One driver with one pool."""

    def __init__(self, node: PrivateNode, name: str = "d-test", slots: int = 4) -> None:
        self.node = node
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.channel = Channel(self._context, name.encode())
        self.channel.connect(node.endpoint, b"s")
        host = os.uname().nodename
        self.tell(
            driver_to_scheduler.DriverHello(
                codec.PROTOCOL, codec.PYTHON, __version__, host, os.getpid(), machine=process_space()
            )
        )
        self.tell(driver_to_scheduler.OpenPool("p", slots))
        self._unread: list[Any] = []
        self._answers: list[bytes] = []

    def tell(self, message: Any) -> None:
        self.channel.send(b"s", [codec.encode(message)])

    def want(self, workers: int) -> None:
        self.tell(driver_to_scheduler.Demand("p", Shape(), workers))

    def expect(self, kind: type) -> Any:
        """The next message of that kind."""
        while True:
            for message in self._unread:
                if isinstance(message, kind):
                    self._unread.remove(message)
                    return message
            self._receive()

    def lease(self, workers: int = 1) -> scheduler_to_driver.LeaseGranted:
        self.want(workers)
        granted: scheduler_to_driver.LeaseGranted = self.expect(scheduler_to_driver.LeaseGranted)
        self.channel.connect(granted.endpoint, granted.worker.encode())
        return granted

    def order(self, granted: scheduler_to_driver.LeaseGranted, *words: str) -> None:
        self.channel.send(granted.worker.encode(), [word.encode() for word in words])

    def ask(self, granted: scheduler_to_driver.LeaseGranted, *words: str) -> str:
        self.order(granted, *words)
        while not self._answers:
            self._receive()
        return self._answers.pop().decode()

    def _receive(self) -> None:
        for peer, frames in self.channel.receive():
            if peer == b"s":
                self._unread.append(codec.decode_from_scheduler_at_driver(frames[0]))
            else:
                self._answers.append(frames[0])

    def close(self) -> None:
        self.channel.close()
        self._context.term()


@contextlib.contextmanager
def running(slots: int = 4, **options: Any) -> Iterator[Driver]:
    node = start_private_node(**STUB, **options)
    driver = Driver(node, slots=slots)
    try:
        yield driver
    finally:
        driver.close()
        node.stop()
        assert not os.path.exists(node.folder)
        assert not os.path.exists(node.store_folder)


def gone(pid: int) -> bool:
    """Whether the process has ended (a zombie has)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] in "ZX"
    except OSError:
        return True


def wait_gone(*pids: int) -> None:
    """Wait for the ends of processes that are not our children."""
    for pid in pids:
        try:
            fd = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        select.select([fd], [], [])
        os.close(fd)


def zygote_of(granted: scheduler_to_driver.LeaseGranted) -> int:
    return int(Path(f"/proc/{granted.pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


@pytest.mark.parametrize("spares", [0, 2])
def test_workers_come_and_go(spares: int) -> None:
    with running(spares=spares) as driver:
        driver.want(3)
        leases = [driver.lease(3) for _ in range(3)]
        assert sorted(granted.ordinal for granted in leases) == [1, 2, 3]
        assert len({granted.pid for granted in leases}) == 3
        driver.want(0)
        for granted in leases:
            driver.tell(driver_to_scheduler.ReturnLease(granted.lease, 0.0))
            ended = driver.expect(scheduler_to_driver.LeaseEnded)
            assert (ended.exit_code, ended.reason) == (-signal.SIGKILL, "")
            assert gone(granted.pid)


def test_a_crash_is_reported_and_the_worker_replaced() -> None:
    with running(spares=0) as driver:
        granted = driver.lease()
        driver.order(granted, "crash", str(int(signal.SIGSEGV)))
        ended = driver.expect(scheduler_to_driver.LeaseEnded)
        assert (ended.lease, ended.pid, ended.exit_code) == (granted.lease, granted.pid, -signal.SIGSEGV)
        assert "SIGSEGV" in ended.reason
        assert ended.stderr_tail == "first line\nlast words\n"
        assert ended.peak_rss_bytes > 2**20
        assert driver.expect(scheduler_to_driver.LeaseGranted).ordinal == 2


def test_an_exit_code_is_reported() -> None:
    with running(spares=0) as driver:
        driver.order(driver.lease(), "exit", "3")
        ended = driver.expect(scheduler_to_driver.LeaseEnded)
        assert (ended.exit_code, ended.reason) == (3, "the worker ended with exit code 3")


def test_sigterm_first_and_sigkill_when_the_grace_is_over() -> None:
    with running(spares=0) as driver:
        polite, stubborn = driver.lease(), driver.lease(2)
        driver.ask(stubborn, "ignore-sigterm")
        driver.want(0)
        driver.tell(driver_to_scheduler.ReturnLease(polite.lease, 60.0, terminate=True))
        assert driver.expect(scheduler_to_driver.LeaseEnded).exit_code == -signal.SIGTERM
        driver.tell(driver_to_scheduler.ReturnLease(stubborn.lease, 0.05, terminate=True))
        assert driver.expect(scheduler_to_driver.LeaseEnded).exit_code == -signal.SIGKILL


def test_a_kill_takes_along_what_the_task_started() -> None:
    with running(spares=0) as driver:
        granted = driver.lease()
        child = int(driver.ask(granted, "spawn"))
        driver.want(0)
        driver.tell(driver_to_scheduler.ReturnLease(granted.lease, 0.0))
        driver.expect(scheduler_to_driver.LeaseEnded)
        wait_gone(child)


def test_a_worker_has_a_group_of_its_own_no_terminal_and_nothing_open_that_it_should_not() -> None:
    with running(spares=0) as driver:
        granted = driver.lease()
        zygote, group, session = map(int, driver.ask(granted, "parents").split())
        assert (group, session) == (granted.pid, driver.node.pid)
        assert zygote not in (driver.node.pid, os.getpid())
        assert driver.ask(granted, "death-signal") == str(int(signal.SIGKILL))
        other = driver.lease(2)
        for worker in (granted, other):
            open_now = dict(line.split(":", 1) for line in driver.ask(worker, "descriptors").splitlines())
            assert open_now["0"] == "/dev/null"
            pipes = [fd for fd, target in open_now.items() if target.startswith("pipe:")]
            assert set(pipes) <= {"1", "2"}, open_now
            assert not any(".owner" in target for target in open_now.values())


def test_imported_modules_are_loaded_ahead_for_later_workers() -> None:
    with running(spares=1) as driver:
        first = driver.lease()
        assert driver.ask(first, "is-loaded", "colorsys") == "False"
        # One that cannot be preloaded must not keep the others from it.
        driver.ask(first, "import", "colorsys", "tests.node.thread_starter", "tests.node.broken_worker")
        workers = 1
        while True:
            workers += 1
            later = driver.lease(workers)
            if driver.ask(later, "is-loaded", "colorsys") == "True":
                break
            workers -= 1
            driver.want(workers)
            driver.tell(driver_to_scheduler.ReturnLease(later.lease, 0.0))
            driver.expect(scheduler_to_driver.LeaseEnded)
        assert driver.ask(later, "is-loaded", "tests.node.thread_starter") == "False"
        assert driver.ask(first, "is-loaded", "colorsys") == "True"
        assert zygote_of(first) != zygote_of(later)


def test_a_killed_zygote_is_replaced() -> None:
    with running(spares=0) as driver:
        granted = driver.lease()
        os.kill(zygote_of(granted), signal.SIGKILL)
        ended = driver.expect(scheduler_to_driver.LeaseEnded)
        assert "forked was killed" in ended.reason
        wait_gone(granted.pid)
        again = driver.expect(scheduler_to_driver.LeaseGranted)
        driver.channel.connect(again.endpoint, again.worker.encode())
        assert driver.ask(again, "is-loaded", "sys") == "True"


@pytest.mark.parametrize("module", ["tests.node.stub_worker", "tests.node.broken_worker"])
def test_a_zygote_whose_node_has_ended_before_it_was_ready_ends_without_a_word(module: str) -> None:
    config = NodeConfig("n", "", "", "", os.getpid(), [os.fsencode(ROOT)], worker_module=module)
    life_read, life_write = os.pipe()
    said_read, said_write = os.pipe()
    ours, theirs = socket.socketpair()
    with theirs:
        ours.close()
        pid = spawn("zygote", life_read, theirs.fileno(), said_write)
    os.close(said_write)
    write_config(life_write, config)
    with open(said_read) as said:
        assert said.read() == ""
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == (1 if "broken" in module else 0)
    os.close(life_read)
    os.close(life_write)


def test_a_program_that_dies_while_its_node_starts_leaves_nothing_and_no_word(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    config = NodeConfig("n", str(root), str(tmp_path / "swept"), str(root / "spill"), os.getpid(), [os.fsencode(ROOT)])
    life_read, life_write = os.pipe()
    status_read, status_write = os.pipe()
    said_read, said_write = os.pipe()
    pid = spawn("private", life_read, status_write, said_write)
    for fd in (life_read, status_write, status_read, said_write):
        os.close(fd)
    write_config(life_write, config)
    os.close(life_write)
    with open(said_read) as said:
        assert said.read() == ""
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1
    assert not root.exists()


def test_nothing_is_left_when_the_node_is_killed() -> None:
    node = start_private_node(**STUB, spares=1)
    driver = Driver(node)
    granted = driver.lease()
    zygote = zygote_of(granted)
    os.kill(node.pid, signal.SIGKILL)
    # The driver hears of it.
    assert select.select([node.sentinel], [], [], None)[0]
    wait_gone(zygote, granted.pid)
    # A process lets go of its descriptors a moment before its parent can hear of its end.
    os.waitid(os.P_PID, node.pid, os.WEXITED | os.WNOWAIT)
    assert not node.alive()
    driver.close()
    node.stop()
    assert not os.path.exists(node.folder)
    assert not os.path.exists(node.store_folder)


_KILLED_DRIVER = """
import os, signal, sys
sys.path.insert(0, {root!r})
from tests.node.test_private_node import *
node = start_private_node(**STUB, spares=1)
driver = Driver(node)
granted = driver.lease()
child = os.fork()
if not child:
    signal.pause()  # holds copies of all our descriptors
print(node.pid, zygote_of(granted), granted.pid, child, node.folder, node.store_folder, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_nothing_is_left_when_the_driver_is_killed() -> None:
    command = [sys.executable, "-c", _KILLED_DRIVER.format(root=ROOT)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        *pids, folder, store = program.stdout.readline().split()
    node, zygote, worker, fork = map(int, pids)
    try:
        wait_gone(node, zygote, worker)
        assert not os.path.exists(folder)
        assert not os.path.exists(store)
    finally:
        os.kill(fork, signal.SIGKILL)
        wait_gone(fork)


def test_a_program_may_close_its_standard_descriptors_and_reap_all_children() -> None:
    source = f"""
import os, sys
sys.path.insert(0, {ROOT!r})
report = os.dup(1)
for fd in (0, 1, 2):
    os.close(fd)
from tests.node.test_private_node import *
with running(spares=0) as driver:
    assert driver.ask(driver.lease(), "is-loaded", "sys") == "True"
    while True:
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                break
        except ChildProcessError:
            break
os.write(report, b"fine")
"""
    program = subprocess.run([sys.executable, "-c", source], stdout=subprocess.PIPE, check=False)
    assert program.stdout == b"fine"


def test_a_program_in_a_folder_of_deceptive_names(tmp_path: Path) -> None:
    for name in ("random", "socket", "select", "msgspec", "zmq"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('shadowed')")
    code = (
        f"import sys; sys.path[:1] = [{ROOT!r}]; from tests.node.test_private_node import *\n"
        "with running(spares=0) as driver: print(driver.ask(driver.lease(), 'is-loaded', 'sys'))"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-c", code]
    program = subprocess.run(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    assert program.stdout.strip() == "True"


def test_what_keeps_a_node_from_starting_is_said() -> None:
    with pytest.raises(ConnectError, match="this module is broken on purpose"):
        start_private_node(worker_module="tests.node.broken_worker", import_path=[os.fsencode(ROOT)])


def test_a_python_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    with pytest.raises(ConnectError, match="could not be started"):
        start_private_node()


def test_a_node_that_never_gets_ready_is_given_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    slow = tmp_path / "python"
    slow.write_text("#!/bin/sh\nexec sleep 1000\n")
    slow.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(slow))
    node = start_private_node(wait=False)
    with pytest.raises(ConnectError, match="did not start within"):
        node.wait_ready(0.05)
    assert gone(node.pid)


def test_a_terminal_interrupt_does_not_reach_the_node() -> None:
    with running(spares=0) as driver:
        granted = driver.lease()
        assert os.getsid(driver.node.pid) == driver.node.pid
        for pid in (driver.node.pid, zygote_of(granted)):
            os.kill(pid, signal.SIGINT)
        assert driver.ask(granted, "is-loaded", "sys") == "True"


def test_sigterm_ends_a_node_in_order() -> None:
    node = start_private_node(**STUB, spares=1)
    os.kill(node.pid, signal.SIGTERM)
    wait_gone(node.pid)
    # The driver's values are in there.
    assert os.path.exists(node.store_folder)
    node.stop()
    assert not os.path.exists(node.folder)
    assert not os.path.exists(node.store_folder)


def test_a_node_takes_the_place_of_one_that_was_killed() -> None:
    first = start_private_node(**STUB, spares=1)
    kept = os.path.join(first.store_folder, "d-1.1")
    with open(kept, "w"):
        os.kill(first.pid, signal.SIGKILL)
    second = start_private_node(**STUB, spares=1, predecessor=first)
    assert (second.folder, second.store_folder) == (first.folder, first.store_folder)
    assert second.node != first.node
    assert os.path.exists(kept)
    driver = Driver(second)
    assert driver.lease().node == second.node
    driver.close()
    first.stop()
    assert second.alive()
    second.stop()
    assert not os.path.exists(second.folder)
    assert not os.path.exists(second.store_folder)


def test_strangers_and_nonsense_are_ignored() -> None:
    with running(spares=0) as driver:
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        for name in (b"x-1", b"d-\xff", b"a-other", b"w-none"):
            stranger = Channel(context, name)
            for number, endpoint in enumerate((driver.node.endpoint, driver.node.agent_endpoint)):
                stranger.connect(endpoint, b"%d" % number)
                for frames in ([b""], [b"\x00\xff"], [b"\x91\xa9WorkerAge"], [b"a", b"b", b"c"]):
                    stranger.send(b"%d" % number, frames)
            stranger.close()
        context.term()
        assert driver.ask(driver.lease(), "is-loaded", "sys") == "True"


def test_an_idle_node_does_nothing() -> None:
    with running(spares=2) as driver:
        granted = driver.lease()
        driver.ask(granted, "is-loaded", "sys")
        pids = (driver.node.pid, zygote_of(granted))
        # The spare that was used is replaced a moment later; when that is over, nothing wakes any more.
        before = [_switches(pid) for pid in pids]
        for _ in range(100):
            time.sleep(0.05)
            now = [_switches(pid) for pid in pids]
            if now == before:
                return
            before = now
        raise AssertionError("the node never comes to rest")


def _switches(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if "ctxt_switches" in line)


def test_the_interpreter_flags_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []

    def posix_spawn(path: str, arguments: list[str], environment: object, **options: object) -> int:
        seen.append(arguments)
        return 1

    monkeypatch.setattr(os, "posix_spawn", posix_spawn)
    read, write = os.pipe()
    spawn("private", read, write)
    os.close(read)
    os.close(write)
    assert seen[0][0] == sys.executable
    assert seen[0][-1] == "private"
