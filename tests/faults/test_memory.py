"""Memory that runs short on a real node whose share of it is made small by a setting."""

from __future__ import annotations

import fcntl
import os
import resource
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest

import distpool
from distpool import DistExecutor, OutOfMemoryError

MB = 1 << 20
pytestmark = pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="memory is watched on Linux only")


@pytest.fixture(autouse=True)
def _small_node(monkeypatch: pytest.MonkeyPatch):
    distpool.shutdown()
    monkeypatch.setenv("DISTPOOL_MEMORY_LIMIT_BYTES", str(500 * MB))
    yield
    distpool.shutdown()


def fill(size: int, folder: str = "", gate: str = "") -> int:
    """Use so much memory; note that it was tried; with a gate, keep it until that is there."""
    if folder:
        (Path(folder) / str(os.getpid())).touch()
    block = b"x" * size
    while gate and not os.path.exists(gate):
        os.sched_yield()
    return len(block)


def double(x: int) -> int:
    return 2 * x


def test_what_does_not_fit_fails_by_itself(tmp_path: Path) -> None:
    with DistExecutor(2) as executor:
        with distpool.options(max_retries=1):
            future = executor.submit(fill, 900 * MB, str(tmp_path), f"{tmp_path}/never")
        assert [f.result(60) for f in [executor.submit(double, i) for i in range(20)]] == [2 * i for i in range(20)]
        error = future.exception(60)
        assert isinstance(error, OutOfMemoryError), str(error)
        assert isinstance(error, MemoryError)
        assert isinstance(error, BrokenExecutor)
        for part in (".fill in ", "each of 2 attempts", "of the 500 MiB of the node's memory limit",
                     "the largest processes: ", ", a worker) ", "peak memory", "What to do: "):  # fmt: skip
            assert part in str(error)
        assert len(list(tmp_path.iterdir())) == 2
        assert executor.submit(double, 4).result(60) == 8


def test_what_does_not_fit_at_once_is_done_with_fewer_workers() -> None:
    with DistExecutor(4) as executor:
        assert list(executor.map(fill, [150 * MB] * 12)) == [150 * MB] * 12


def test_who_may_run_again_gives_way(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with DistExecutor(2) as executor:
        with distpool.options(max_retries=0):
            (tmp_path / "once").mkdir()
            once = executor.submit(fill, 200 * MB, f"{tmp_path}/once", str(gate))
        while not list((tmp_path / "once").iterdir()):
            os.sched_yield()
        (tmp_path / "again").mkdir()
        again = executor.submit(fill, 350 * MB, f"{tmp_path}/again", str(gate))
        first = int(_first_file(tmp_path / "again"))
        while os.path.exists(f"/proc/{first}"):
            os.sched_yield()
        gate.touch()
        assert once.result(60) == 200 * MB
        assert again.result(60) == 350 * MB


def _first_file(folder: Path) -> str:
    while not (names := os.listdir(folder)):
        os.sched_yield()
    return names[0]


def test_a_strict_pool_breaks_and_says_why(tmp_path: Path) -> None:
    with distpool.futures.ProcessPoolExecutor(1) as executor:
        error = executor.submit(fill, 900 * MB, "", f"{tmp_path}/never").exception(60)
    assert isinstance(error, BrokenProcessPool)
    assert "memory ran short" in str(error)


def test_a_tasks_own_limit(tmp_path: Path) -> None:
    with DistExecutor(2) as executor:
        with distpool.options(memory_bytes=150 * MB):
            future = executor.submit(fill, 250 * MB, str(tmp_path), f"{tmp_path}/never")
            within = executor.submit(fill, 50 * MB)
        assert within.result(60) == 50 * MB
        error = future.exception(60)
        assert isinstance(error, OutOfMemoryError), str(error)
        assert "of the 150 MiB that memory_bytes allows" in str(error)
        assert len(list(tmp_path.iterdir())) == 1, "it would use as much again"
        with distpool.options(memory_bytes=400 * MB):
            assert executor.submit(fill, 250 * MB).result(60) == 250 * MB


def fill_in_a_child(size: int, gate: str) -> int:
    """As ``fill``, in a process that the task starts."""
    program = "import os, sys; block = b'x' * int(sys.argv[1])\nwhile not os.path.exists(sys.argv[2]): os.sched_yield()"
    return subprocess.run([sys.executable, "-S", "-c", program, str(size), gate], check=False).returncode


def test_the_processes_of_a_task_count(tmp_path: Path) -> None:
    with DistExecutor(2) as executor:
        with distpool.options(memory_bytes=150 * MB):
            future = executor.submit(fill_in_a_child, 250 * MB, f"{tmp_path}/never")
        error = future.exception(60)
        assert isinstance(error, OutOfMemoryError), str(error)
        assert "of the 150 MiB that memory_bytes allows" in str(error)
        with distpool.options(max_retries=0):
            future = executor.submit(fill_in_a_child, 900 * MB, f"{tmp_path}/never")
        error = future.exception(60)
        assert isinstance(error, OutOfMemoryError), str(error)
        assert "of the 500 MiB of the node's memory limit" in str(error)
        assert executor.submit(double, 4).result(60) == 8


KEPT: list[bytes] = []


def leak(size: int) -> int:
    KEPT.append(b"x" * size)
    return os.getpid()


def test_a_worker_that_keeps_memory_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTPOOL_WORKER_GROWTH_BYTES", str(60 * MB))
    with DistExecutor(1) as executor:
        pids = [executor.submit(leak, 25 * MB).result(60) for _ in range(12)]
        runs = [pids.count(pid) for pid in dict.fromkeys(pids)]
        assert len(runs) >= 2, "it was replaced"
        assert runs[0] >= 2, "but not before it had grown"
    with DistExecutor(1) as executor:
        pid = executor.submit(os.getpid).result(60)
        for _ in range(3):
            executor.submit(fill, 100 * MB).result(60)
            assert executor.submit(os.getpid).result(60) == pid, "what a task gives back does not count"
    monkeypatch.setenv("DISTPOOL_WORKER_GROWTH_BYTES", "much")
    with DistExecutor(1) as executor, pytest.raises(ValueError, match="DISTPOOL_WORKER_GROWTH_BYTES"):
        executor.submit(double, 1)


def test_an_idle_pool_costs_nothing() -> None:
    """Looks at memory are few while nothing happens, also where little is left."""
    with DistExecutor(2) as executor:
        assert executor.submit(fill, 350 * MB).result(60)
        from distpool.driver.current import existing_session

        current = existing_session()
        assert current is not None
        assert current.node is not None
        before = _cpu_s(current.node.pid)
        executor.submit(_wait, 2.0).result(60)
        assert _cpu_s(current.node.pid) - before <= 0.03


def _wait(seconds: float) -> None:
    import time

    time.sleep(seconds)


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_the_limit_of_address_space_is_left_alone() -> None:
    with DistExecutor(1) as executor, distpool.options(memory_bytes=200 * MB):
        assert executor.submit(resource.getrlimit, resource.RLIMIT_AS).result(60) == resource.getrlimit(
            resource.RLIMIT_AS
        )


def test_the_kernel_would_take_a_worker_before_the_program() -> None:
    score = Path("/proc/self/oom_score_adj")
    with DistExecutor(1) as executor:
        assert int(executor.submit(score.read_text).result(60)) == min(1000, int(score.read_text()) + 300)


@pytest.fixture
def control_group() -> Iterator[Path]:
    """A control group of the kernel's, of 200 MiB and without swap; removed when it is empty."""
    name = f"distpool-test-{uuid.uuid4().hex[:8]}"
    base = Path("/sys/fs/cgroup")
    legacy = (base / "memory/memory.limit_in_bytes").exists()
    folder = (base / "memory" if legacy else base) / name
    limits = ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes") if legacy else ("memory.max", "memory.swap.max")
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"may not make a control group: {error}")
    # The kernel counts whom it kills for memory for the whole machine: one such test at a time, also when the suite
    # runs beside itself.
    turn = os.open(folder.parent, os.O_RDONLY)
    fcntl.flock(turn, fcntl.LOCK_EX)
    try:
        try:
            (folder / limits[0]).write_text(str(200 * MB))
            if (folder / limits[1]).exists():
                (folder / limits[1]).write_text(str(200 * MB) if legacy else "0")
        except OSError as error:
            pytest.skip(f"control groups have no memory limits here: {error}")
        yield folder
    finally:
        for pid in (folder / "cgroup.procs").read_text().split():
            os.kill(int(pid), 9)
        while (folder / "cgroup.procs").read_text():
            os.sched_yield()
        folder.rmdir()
        os.close(turn)


def fill_in_group(folder: str, size: int) -> int:
    """As ``fill``, with what the kernel allows to a control group."""
    (Path(folder) / "cgroup.procs").write_text(str(os.getpid()))
    return len(b"x" * size)


def test_the_kernel_kills(control_group: Path) -> None:
    """What the watch cannot see coming is found out afterwards: the kernel has counted whom it killed for memory."""
    with DistExecutor(2) as executor:
        with distpool.options(max_retries=1):
            future = executor.submit(fill_in_group, str(control_group), 400 * MB)
        others = [executor.submit(double, number) for number in range(50)]
        error = future.exception(60)
        assert isinstance(error, OutOfMemoryError), str(error)
        for part in ("SIGKILL", "the kernel's out-of-memory killer was at work", "each of 2 attempts"):
            assert part in str(error)
        assert [other.result(60) for other in others] == [2 * number for number in range(50)]
        # Somebody's kill is not the kernel's.
        with distpool.options(max_retries=0):
            killed = executor.submit(os.kill, 0, 9).exception(60)
        assert isinstance(killed, distpool.WorkerDiedError)
        assert not isinstance(killed, OutOfMemoryError)


INSIDE = """
import os, sys, time
import distpool

def fill(folder, size):
    blocks = []
    while len(blocks) << 20 < size:
        blocks.append(b"x" * (1 << 20))
        for name in ("memory.usage_in_bytes", "memory.current"):
            if os.path.exists(f"{folder}/{name}") and int(open(f"{folder}/{name}").read()) > 170 << 20:
                time.sleep(0.1)  # for the watch, to which what comes next is no surprise
    return len(blocks)

if __name__ == "__main__":
    folder, watched = sys.argv[1:]
    with open(f"{folder}/cgroup.procs", "w") as procs:
        procs.write(str(os.getpid()))
    with distpool.DistExecutor(2) as executor:
        with distpool.options(max_retries=1):
            future = executor.submit(fill, folder if watched else "", 400 << 20)
        error = future.exception(40)
        print(type(error).__name__, " ".join(str(error).split()))
        print(executor.submit(fill, "", 1 << 20).result(40))
"""


@pytest.mark.parametrize("watched", [True, False])
def test_a_program_in_a_control_group(
    control_group: Path, run_script: Callable[..., str], monkeypatch: pytest.MonkeyPatch, watched: bool
) -> None:
    """The node sees what its group may use, and acts before the kernel does; unless it was told not to."""
    monkeypatch.delenv("DISTPOOL_MEMORY_LIMIT_BYTES")
    if not watched:
        monkeypatch.setenv("DISTPOOL_MEMORY_RESERVE", "0")
    first, second = run_script(INSIDE, str(control_group), "watched" if watched else "").splitlines()
    assert first.startswith("OutOfMemoryError"), first
    says = (
        f"of the 200 MiB of the control group {control_group.name}" if watched else "the kernel's out-of-memory killer"
    )
    assert says in first
    assert second == "1"
