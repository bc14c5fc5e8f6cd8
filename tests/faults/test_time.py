"""Tasks that are to end and do not want to: time limits and ``future.kill()`` against every kind of deafness."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import distpool
from distpool import DistExecutor, TaskKilledError, TaskTimeoutError


def double(x: int) -> int:
    return 2 * x


def sleep_in_python(note: str) -> None:
    Path(note).write_text(str(os.getpid()))
    time.sleep(1e6)


def loop_in_python(note: str) -> None:
    Path(note).write_text(str(os.getpid()))
    while True:
        pass


def loop_in_c_with_the_interpreter(note: str) -> None:
    """C code that neither looks for signals nor lets other threads run."""
    Path(note).write_text(str(os.getpid()))
    ctypes.pythonapi.usleep.argtypes = [ctypes.c_uint]
    while True:
        ctypes.pythonapi.usleep(1_000_000)


def one_call_of_c(note: str) -> None:
    """One call that takes for ever and never comes back to Python."""
    Path(note).write_text(str(os.getpid()))
    pow(3, 3**30, 10**400_000 + 1)


def block_signals(note: str) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    Path(note).write_text(str(os.getpid()))
    while True:
        time.sleep(1)


def ignore_signals(note: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    Path(note).write_text(str(os.getpid()))
    while True:
        time.sleep(1)


def catch_everything(note: str) -> None:
    Path(note).write_text(str(os.getpid()))
    while True:
        try:
            while True:
                time.sleep(0.01)
        except BaseException:
            pass


def wait_for_a_thread(note: str) -> None:
    thread = threading.Thread(target=threading.Event().wait, daemon=True)
    thread.start()
    Path(note).write_text(str(os.getpid()))
    thread.join()


DEAF = [
    loop_in_python,
    loop_in_c_with_the_interpreter,
    one_call_of_c,
    block_signals,
    ignore_signals,
    catch_everything,
    wait_for_a_thread,
]


def _pid(note: Path) -> int:
    while not (note.exists() and note.read_text()):
        os.sched_yield()
    return int(note.read_text())


WAYS = [("timeout_s", function) for function in [sleep_in_python, *DEAF]]
WAYS += [("kill", function) for function in (sleep_in_python, one_call_of_c, ignore_signals)]


@pytest.mark.parametrize(("how", "function"), WAYS, ids=[f"{how}-{function.__name__}" for how, function in WAYS])
def test_it_ends_whatever_it_does(tmp_path: Path, function: Callable[[str], None], how: str) -> None:
    note = tmp_path / "pid"
    with DistExecutor(2) as executor:
        options = {"timeout_s": 0.3} if how == "timeout_s" else {}
        with distpool.options(**options):
            future = executor.submit(function, str(note))
        neighbours = [executor.submit(double, number) for number in range(30)]
        if how == "kill":
            pid = _pid(note)
            assert future.kill()
            assert isinstance(_raised(future), TaskKilledError)
        else:
            error = _raised(future)
            assert isinstance(error, TaskTimeoutError)
            assert isinstance(error, TimeoutError)
            # Under load the time may have passed before it had come so far.
            pid = int(note.read_text()) if note.exists() and note.read_text() else 0
        assert [neighbour.result(60) for neighbour in neighbours] == [2 * number for number in range(30)]
        # Both workers can be had again: the one is idle, or another has taken its place.
        gate = tmp_path / "gate"
        both = [executor.submit(_meet, str(gate), str(number)) for number in range(2)]
        pids = {future.result(60) for future in both}
        assert len(pids) == 2
        if pid and function in (one_call_of_c, block_signals, ignore_signals):
            # A task that is told to end just before it goes deaf ends in good order, and its worker goes on.
            while os.path.exists(f"/proc/{pid}") and not (function is one_call_of_c and pid in pids):
                time.sleep(0.01)


def _raised(future) -> BaseException | None:
    try:
        return future.exception(60)
    except BaseException as error:  # CancelledError is no Exception everywhere
        return error


def _meet(gate: str, name: str) -> int:
    """Return when two are here at once."""
    Path(f"{gate}.{name}").touch()
    while not (os.path.exists(f"{gate}.0") and os.path.exists(f"{gate}.1")):
        time.sleep(0.001)
    return os.getpid()


def test_a_time_limit_is_not_charged_to_who_waits(tmp_path: Path) -> None:
    """The time of a task runs from when it was sent to a worker that had nothing else to do."""
    with DistExecutor(1) as executor, distpool.options(timeout_s=5.0):
        futures = [executor.submit(time.sleep, 0.05) for _ in range(20)]
        with distpool.options(timeout_s=0.2):
            slow = executor.submit(sleep_in_python, str(tmp_path / "pid"))
        assert isinstance(_raised(slow), TaskTimeoutError)
        assert all(future.result(60) is None for future in futures)


def _through_executor(note: str) -> BaseException | None:
    with DistExecutor(2) as executor:
        with distpool.options(timeout_s=0.5):
            late = executor.submit(ignore_signals, note)
        neighbours = [executor.submit(double, number) for number in range(30)]
        assert [neighbour.result(60) for neighbour in neighbours] == [2 * number for number in range(30)]
        return _raised(late)


def _through_strict_executor(note: str) -> BaseException | None:
    with distpool.futures.ProcessPoolExecutor(2) as executor:
        with distpool.options(timeout_s=0.5):
            late = executor.submit(ignore_signals, note)
        error = _raised(late)
        # A time limit is no crash: the pool is as good as before.
        assert list(executor.map(double, range(30))) == [2 * number for number in range(30)]
        return error


def _through_pool(note: str) -> BaseException | None:
    with distpool.multiprocessing.Pool(2) as pool:
        with distpool.options(timeout_s=0.5):
            late = pool.apply_async(ignore_signals, (note,))
        assert pool.map(double, range(30), chunksize=3) == [2 * number for number in range(30)]
        try:
            late.get(60)
        except BaseException as error:
            return error
    return None


def _through_joblib(note: str) -> BaseException | None:
    joblib = pytest.importorskip("joblib")
    import distpool.joblib  # registers itself

    with joblib.parallel_config(backend="distpool", n_jobs=2), distpool.options(timeout_s=0.5):
        try:
            joblib.Parallel(batch_size=1)(
                joblib.delayed(ignore_signals if number == 3 else double)(note if number == 3 else number)
                for number in range(8)
            )
        except BaseException as error:
            assert joblib.Parallel()(joblib.delayed(double)(number) for number in range(8)) == list(range(0, 16, 2))
            return error
        finally:
            distpool.shutdown()  # it keeps its pool
    return None


DOORS = [_through_executor, _through_strict_executor, _through_pool, _through_joblib]


@pytest.mark.parametrize("door", DOORS, ids=[door.__name__[1:] for door in DOORS])
def test_a_time_limit_is_the_same_through_every_door(
    tmp_path: Path, door: Callable[[str], BaseException | None]
) -> None:
    note = tmp_path / "pid"
    error = door(str(note))
    assert isinstance(error, TaskTimeoutError), error
    assert isinstance(error, TimeoutError)
    assert "was stopped after timeout_s=0.5 seconds" in str(error)
    pid = int(note.read_text()) if note.exists() and note.read_text() else 0  # under load it may not have begun
    while pid and os.path.exists(f"/proc/{pid}"):
        time.sleep(0.01)


def test_no_clock_that_jumps_is_used() -> None:
    """Deadlines come from a clock that only goes forward."""
    root = Path(distpool.__file__).parent
    # What is compared with the time of a file, and what is there to compare clocks.
    allowed = {"node/folders.py", "cli/doctor.py"}
    found = {
        str(path.relative_to(root))
        for path in sorted(root.rglob("*.py"))
        if "time.time()" in path.read_text() or "datetime.now" in path.read_text()
    }
    assert found <= allowed


if sys.platform != "linux":
    pytestmark = pytest.mark.skip("looks at processes in /proc")
