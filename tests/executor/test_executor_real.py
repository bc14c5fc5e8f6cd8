"""``DistExecutor`` on real workers."""

from __future__ import annotations

import asyncio
import concurrent.futures
import ctypes
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import distpool
from distpool import DistExecutor

STATE = "unset"


def double(x):
    return 2 * x


def set_state(value):
    global STATE
    STATE = value


def get_state():
    return STATE


def fail_to_start():
    raise ValueError("not today")


def crash():
    ctypes.string_at(0)


def wait_and_tell_of_the_end(gate: str) -> None:
    try:
        wait_at(gate)
    finally:
        Path(f"{gate}.ended").touch()


def wait_at(gate):
    """Say that the task runs, and wait until the test opens the gate."""
    Path(f"{gate}.reached").write_text(str(os.getpid()))
    with open(gate):
        return os.getpid()


def down(executor, depth):
    if depth == 0:
        return [os.getpid()]
    return [os.getpid(), *executor.submit(down, executor, depth - 1).result()]


def leaves(executor, depth, wait_for):
    if depth == 0:
        return 1
    futures = [executor.submit(leaves, executor, depth - 1, wait_for) for _ in range(2)]
    return sum(future.result() for future in wait_for(futures))


def done_of_wait(futures):
    return concurrent.futures.wait(futures).done


@pytest.fixture
def gate(tmp_path: Path) -> str:
    path = str(tmp_path / "gate")
    os.mkfifo(path)
    return path


def open_gate(gate: str) -> None:
    # Opening blocks until the task is there.
    with open(gate, "w"):
        pass


def join_all(processes: dict) -> None:
    for process in processes.values():
        process.join(30)
        assert not process.is_alive()


def test_calls(tmp_path: Path) -> None:
    with DistExecutor(2) as executor:
        assert executor.submit(pow, 2, 8).result() == 256
        assert executor.submit(lambda x, *, fn: (x, fn), 1, fn=2).result() == (1, 2)
        assert list(executor.map(pow, range(50), range(50))) == list(map(pow, range(50), range(50)))
        assert list(executor.map(double, range(50), chunksize=7)) == list(map(double, range(50)))
        assert executor.submit(os.getpid).result() != os.getpid()


def test_libraries_know_it_for_a_process_pool() -> None:
    with DistExecutor(3) as executor:
        assert isinstance(executor, concurrent.futures.ProcessPoolExecutor)
        assert executor._max_workers == 3
        assert executor._broken is False
        assert executor._processes == {}


def test_standard_helpers_take_its_futures() -> None:
    with DistExecutor(2) as executor:
        futures = [executor.submit(double, i) for i in range(5)]
        done, pending = concurrent.futures.wait(futures)
        assert len(done) == 5
        assert not pending
        assert sorted(f.result() for f in concurrent.futures.as_completed(futures)) == [0, 2, 4, 6, 8]


def test_asyncio() -> None:
    async def program(executor: DistExecutor) -> list[int]:
        loop = asyncio.get_running_loop()
        return [
            await executor.submit(double, 1),
            await asyncio.wrap_future(executor.submit(double, 2)),
            await loop.run_in_executor(executor, double, 3),
        ]

    with DistExecutor(1) as executor:
        assert asyncio.run(program(executor)) == [2, 4, 6]


def test_a_callback_may_wait_for_further_calls() -> None:
    seen: list[int] = []
    called = threading.Event()

    def on_done(future: concurrent.futures.Future[int]) -> None:
        with pytest.raises(concurrent.futures.TimeoutError):
            executor.submit(down, executor, 1).result(0)
        seen.append(executor.submit(double, future.result()).result())
        called.set()

    with DistExecutor(1) as executor:
        executor.submit(double, 2).add_done_callback(on_done)
        called.wait()
    assert seen == [8]


def test_what_is_cancelled_before_anybody_has_seen_it_is_not_sent() -> None:
    """It had been sent all the same, and its answer counted once more: the pool never ended."""
    with DistExecutor(1) as executor:
        pool, cancelled = executor._slot.open(), 0
        while cancelled < 20:
            assert executor.submit(double, 1).result() == 2
            # As while tasks gather: they wait beside an idle worker.
            pool.shell.hungry = False
            future = executor.submit(double, 2)
            if future.cancel():
                cancelled += 1
            else:  # the driver's thread was faster
                assert future.result() == 4
        assert executor.submit(double, 3).result() == 6
        assert pool.outstanding == 0


def stop_iteration():
    raise StopIteration("no more")


def test_what_awaiting_raises(gate: str) -> None:
    async def program(executor: DistExecutor) -> None:
        with pytest.raises(ZeroDivisionError):
            await executor.submit(divmod, 1, 0)
        with pytest.raises(RuntimeError, match="StopIteration"):
            await executor.submit(stop_iteration)
        running, waiting = executor.submit(wait_at, gate), executor.submit(double, 1)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(waiting, 0.01)
        assert waiting.cancelled()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        asyncio.get_running_loop().run_in_executor(None, open_gate, gate)
        assert await running != os.getpid()

    with DistExecutor(1) as executor:
        asyncio.run(program(executor))


def test_an_endless_input_is_read_as_results_are_taken() -> None:
    import itertools

    with DistExecutor(2) as executor:
        results = executor.map(double, itertools.count(), buffersize=4)
        assert list(itertools.islice(results, 50)) == list(range(0, 100, 2))
        results.close()


@pytest.mark.parametrize("max_workers", [1, 2])
def test_an_executor_travels_and_nests_without_deadlock(max_workers: int) -> None:
    with DistExecutor(max_workers) as executor:
        pids = executor.submit(down, executor, 4).result()
        assert len(pids) == 5
        assert executor.submit(lambda: executor.submit(double, 4).result()).result() == 8


@pytest.mark.parametrize("wait_for", [list, concurrent.futures.as_completed, done_of_wait])
def test_nested_work_may_be_waited_for_in_any_way(wait_for) -> None:
    with DistExecutor(2) as executor:
        assert executor.submit(leaves, executor, 3, wait_for).result() == 8


def test_what_a_call_wrote_is_there_when_its_result_is(capsys: pytest.CaptureFixture[str]) -> None:
    with DistExecutor(2) as executor:
        for i in range(50):
            executor.submit(print, "line", i).result()
            assert capsys.readouterr().out == f"line {i}\n"


def test_initializer() -> None:
    with DistExecutor(2, initializer=set_state, initargs=("set",)) as executor:
        assert {executor.submit(get_state).result() for _ in range(4)} == {"set"}
    with DistExecutor(1) as executor:
        assert executor.submit(get_state).result() == "unset"


def test_an_initializer_that_fails() -> None:
    with DistExecutor(1, initializer=fail_to_start) as executor:
        with pytest.raises(distpool.InitializerError, match="not today") as caught:
            executor.submit(double, 1).result()
        assert isinstance(caught.value, concurrent.futures.BrokenExecutor)
        with pytest.raises(concurrent.futures.BrokenExecutor):
            executor.submit(double, 1)


def test_workers_are_replaced() -> None:
    with DistExecutor(1, max_tasks_per_child=2) as executor:
        pids = [executor.submit(os.getpid).result() for _ in range(6)]
    assert len(set(pids)) == 3


def test_a_call_that_kills_its_worker_fails_alone() -> None:
    with DistExecutor(2) as executor:
        with distpool.options(max_retries=0):
            killer = executor.submit(os._exit, 3)
        others = [executor.submit(double, i) for i in range(20)]
        with pytest.raises(distpool.WorkerDiedError, match="exit code 3"):
            killer.result()
        assert [f.result() for f in others] == [2 * i for i in range(20)]


def test_a_timeout_stops_the_call(gate: str) -> None:
    with DistExecutor(1) as executor:
        with pytest.raises(distpool.TaskTimeoutError):
            executor.with_options(timeout_s=0.2).submit(wait_at, gate).result()
        assert executor.submit(double, 2).result() == 4


def test_a_running_call_can_be_killed(gate: str) -> None:
    with DistExecutor(1) as executor:
        future = executor.submit(wait_at, gate)
        executor.submit(double, 1)
        while not os.path.exists(f"{gate}.reached"):
            os.sched_yield()
        assert not future.cancel()
        assert future.kill()
        with pytest.raises(distpool.TaskKilledError):
            future.result()
        assert executor.submit(double, 2).result() == 4


def test_a_call_that_waits_for_nested_work_can_be_killed(gate: str) -> None:
    with DistExecutor(1) as executor:
        future = executor.submit(lambda: executor.submit(wait_at, gate).result())
        while not os.path.exists(f"{gate}.reached"):
            os.sched_yield()
        assert future.kill()
        with pytest.raises(distpool.TaskKilledError):
            future.result()
        assert executor.submit(double, 2).result() == 4


def test_the_nested_work_of_a_call_that_is_killed_ends_with_it(gate: str) -> None:
    with DistExecutor(1) as executor:
        future = executor.submit(lambda: executor.submit(wait_and_tell_of_the_end, gate).result())
        while not os.path.exists(f"{gate}.reached"):
            os.sched_yield()
        assert future.kill()
        while not os.path.exists(f"{gate}.ended"):
            os.sched_yield()


def test_the_error_of_a_crash_says_all_that_is_known() -> None:
    with DistExecutor(1) as executor:
        [process] = executor.submit(double, 1).result() and executor._processes.values()
        with pytest.raises(distpool.WorkerDiedError) as died:
            executor.with_options(max_retries=0).submit(crash).result()
    told = str(died.value)
    assert "task " in told
    assert "crash in " in told
    assert "failed: its worker died: process" in told
    assert f"process {process.pid} on node " in told
    assert "SIGSEGV" in told
    assert "segmentation fault in native code" in told
    assert "peak memory" in told
    # The stack of the Python code, as faulthandler wrote it to the worker's standard error.
    assert told.endswith(" in crash")


def test_what_has_not_started_is_cancelled(gate: str) -> None:
    executor = DistExecutor(1)
    running = executor.submit(wait_at, gate)
    while not os.path.exists(f"{gate}.reached"):
        os.sched_yield()
    waiting = [executor.submit(double, i) for i in range(20)]
    executor.shutdown(wait=False, cancel_futures=True)
    opener = threading.Thread(target=open_gate, args=(gate,))
    opener.start()
    executor.shutdown()
    opener.join()
    assert running.result() != os.getpid()
    assert all(future.cancelled() for future in waiting)


def test_a_dropped_executor_finishes_and_ends_its_workers() -> None:
    executor = DistExecutor(2)
    results = executor.map(double, range(30))
    assert next(results) == 0
    processes = executor._processes
    del executor
    join_all(processes)
    assert list(results) == [2 * i for i in range(1, 30)]


@pytest.mark.parametrize("operation", ["terminate_workers", "kill_workers"])
def test_workers_end_at_once(gate: str, operation: str) -> None:
    executor = DistExecutor(1)
    future = executor.submit(wait_at, gate)
    while not os.path.exists(f"{gate}.reached"):
        os.sched_yield()
    processes = executor._processes
    getattr(executor, operation)()
    assert isinstance(future.exception(), concurrent.futures.BrokenExecutor)
    join_all(processes)


def test_what_cannot_be_pickled_is_named() -> None:
    with DistExecutor(1) as executor:
        with pytest.raises(distpool.SerializationError, match=r"args\[1\]"):
            executor.submit(double, 1, [threading.get_ident, sys._getframe()])
        assert executor.submit(double, 1).result() == 2


def test_at_exit_pending_calls_are_finished(run_script) -> None:
    printed = run_script(
        "import distpool, atexit\n"
        "executor = distpool.DistExecutor(2)\n"
        "for i in range(5):\n"
        "    executor.submit(lambda i: i, i).add_done_callback(lambda f: print('done', f.result()))\n"
        "@atexit.register\n"
        "def late():\n"
        "    try:\n"
        "        executor.submit(int)\n"
        "    except RuntimeError as error:\n"
        "        print(error)\n"
    )
    lines = printed.splitlines()
    assert sorted(lines[:-1]) == [f"done {i}" for i in range(5)]
    assert lines[-1].startswith("cannot schedule new futures after")


@pytest.mark.parametrize("in_block", [True, False])
def test_an_interrupt_brings_the_prompt_back(tmp_path: Path, gate: str, in_block: bool) -> None:
    use = "with executor: wait()" if in_block else "wait()"
    script = tmp_path / "program.py"
    script.write_text(
        "import distpool, sys\n"
        "from pathlib import Path\n"
        f"def block():\n    Path({gate!r} + '.reached').touch()\n    open({gate!r})\n"
        "executor = distpool.DistExecutor(2)\n"
        "def wait():\n"
        "    futures = [executor.submit(block) for _ in range(5)]\n"
        "    futures[0].result()\n"
        f"{use}\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    program = subprocess.Popen(
        [sys.executable, str(script)], stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )
    while not os.path.exists(f"{gate}.reached"):
        os.sched_yield()
    os.killpg(program.pid, signal.SIGINT)
    _, errors = program.communicate(timeout=30)
    assert program.returncode == -signal.SIGINT
    assert errors.count("Traceback") == errors.count("KeyboardInterrupt") == 1, errors


def test_a_thread_cannot_begin_with_an_executor_when_the_program_has_ended(run_script) -> None:
    printed = run_script(
        "import threading, distpool\n"
        "def use():\n"
        "    threading.main_thread().join()\n"
        "    try:\n"
        "        distpool.DistExecutor(1).submit(int)\n"
        "    except RuntimeError as error:\n"
        "        print(error)\n"
        "threading.Thread(target=use).start()\n"
    )
    assert printed == "cannot schedule new futures after interpreter shutdown\n"


def test_a_result_that_nobody_has_read_is_not_said_to_be_none():
    with DistExecutor(1) as executor:
        future = executor.submit(double, 4)
    assert repr(future) == f"<DistFuture at {id(future):#x} state=finished>"
    assert future.result() == 8
    assert repr(future) == f"<DistFuture at {id(future):#x} state=finished returned int>"
