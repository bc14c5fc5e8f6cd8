"""A worker looks like the program it works for, and what it writes comes back."""

from __future__ import annotations

import io
import logging
import multiprocessing
import os
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

from distpool.driver.environment import replay_log_records
from distpool.wire.driver_to_worker import Interrupt, ReleaseObjects, RunTasks, Task
from distpool.wire.worker_to_agent import WorkerBlocked, WorkerUnblocked
from distpool.wire.worker_to_driver import LogRecords, Output, TasksDone, Unpinned
from tests.worker import program_tasks, tasks
from tests.worker.harness import Driver


def test_the_process_looks_like_the_program(driver: Driver, monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SEEN_BY_TASKS", "yes")
    monkeypatch.setattr(sys, "argv", ["program", "-x"])
    monkeypatch.syspath_prepend(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        driver.set_up(daemon=True, environment={"OF_THE_POOL": "1"})
        filters = [(entry[0], entry[2].__name__) for entry in warnings.filters]
    seen = driver.call(program_tasks.look)
    assert seen["name"] == "TestWorker-3"
    assert seen["identity"] == (3,)
    assert seen["daemon"] is True
    assert seen["authkey"] == bytes(multiprocessing.current_process().authkey)
    assert (seen["pid"], seen["alive"]) == (driver.process.pid, True)
    assert (seen["parent"], seen["parent_name"], seen["parent_alive"]) == (os.getpid(), "MainProcess", True)
    assert seen["cwd"] == os.path.realpath(tmp_path)
    assert seen["argv"] == ["program", "-x"]
    assert seen["path"] == sys.path
    expected = {**os.environ, "OF_THE_POOL": "1"}
    assert {name: seen["environ"].get(name) for name in expected} == expected
    assert seen["recursion_limit"] == sys.getrecursionlimit()
    assert seen["filters"] == filters


def test_the_thread_budget_yields_to_the_user(driver: Driver, monkeypatch: Any) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("MKL_NUM_THREADS", "7")
    driver.set_up(num_threads=3)
    environment = driver.call(program_tasks.look)["environ"]
    assert (environment["OMP_NUM_THREADS"], environment["MKL_NUM_THREADS"]) == ("3", "7")


def test_a_working_directory_that_is_gone_harms_nothing(driver: Driver, monkeypatch: Any, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    captured = driver.capture()
    monkeypatch.chdir(tmp_path)
    gone.rmdir()
    driver.send_setup(captured)
    assert driver.call(tasks.add, 1) == 2


def test_standard_multiprocessing_works_inside_a_task(ready: Driver) -> None:
    assert ready.call(program_tasks.start_a_process_and_a_queue) == ready.process.pid


def test_prints_come_before_the_result(ready: Driver) -> None:
    ready.call(tasks.say, "hello")
    kinds = [type(message) for message in ready.seen]
    assert kinds.index(Output) < kinds.index(TasksDone)
    assert ready.output() == "hello\n"


def test_streams_keep_their_order_and_bytes_are_text(ready: Driver) -> None:
    ready.call(program_tasks.mix_streams)
    outputs = [(m.stream, m.text) for m in ready.seen if isinstance(m, Output)]
    assert outputs == [(1, "one\n"), (2, "two\n"), (1, "three\n")]
    assert ready.call(program_tasks.write_around) == (sys.stdout.isatty(), "utf-8", 1)
    assert ready.output().endswith("bytes: \N{SNOWMAN}\nno end")
    ready.call(program_tasks.print_surrogate)
    assert ready.output().endswith("\\udcff\n")
    ready.call(program_tasks.print_in_a_thread)
    assert ready.output().endswith("from a thread\n")


def test_a_long_task_is_heard_while_it_runs(ready: Driver, tmp_path: Path) -> None:
    attempt = ready.start(program_tasks.print_then_wait, str(tmp_path / "gate"))
    assert ready.until(Output).text == "early\n"
    (tmp_path / "gate").touch()
    ready.outcome(attempt)


@pytest.mark.parametrize("deed", [program_tasks.lose_stdout, program_tasks.close_standard_descriptors])
def test_a_task_that_loses_its_streams_harms_only_these(ready: Driver, deed: Any) -> None:
    ready.call(deed)
    assert ready.call(tasks.add, 1) == 2
    assert ready.leave() == 0


def test_log_records_reach_the_programs_handlers_once(driver: Driver) -> None:
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    handler.setFormatter(logging.Formatter("%(name)s:%(levelname)s:%(message)s"))
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        driver.set_up()
        driver.call(program_tasks.log, logging.INFO, "hello %s", "some.where", "you")
        driver.call(program_tasks.log, logging.DEBUG, "unheard")
        driver.call(program_tasks.log_exception)
        for message in driver.seen:
            if isinstance(message, LogRecords):
                replay_log_records(message.records)
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
    lines = text.getvalue().splitlines()
    assert lines[:2] == ["some.where:INFO:hello you", "some.where:ERROR:it failed"]
    assert lines[-1] == "ValueError: logged"


def test_a_user_handler_of_sigint_does_not_keep_tasks_from_being_interrupted(driver: Driver, tmp_path: Path) -> None:
    driver.set_up(program_tasks.handle_interrupts)
    running = tmp_path / "running"
    attempt = driver.start(tasks.signal_and_sleep, str(running))
    while not running.exists():
        driver.receive()
    driver.send(Interrupt(attempt))
    with pytest.raises(BaseException, match="told to end"):
        driver.outcome(attempt)


def test_sigint_is_ignored_and_sigterm_ends(ready: Driver) -> None:
    ready.process.send_signal(signal.SIGINT)
    assert ready.call(tasks.add, 1) == 2
    ready.process.send_signal(signal.SIGTERM)
    assert ready.process.wait() == -signal.SIGTERM


def test_a_low_recursion_limit_does_not_end_the_worker(ready: Driver) -> None:
    first = ready.start(program_tasks.low_recursion_limit)
    second = ready.start(tasks.add, 1)
    ready.result(first)
    assert ready.outcome(second) == 2


def test_exit_functions_run_and_are_heard(ready: Driver) -> None:
    ready.call(program_tasks.at_exit)
    ready.call(program_tasks.leave_thread_running)
    assert ready.leave() == 0
    assert ready.output() == "goodbye\n"


def test_a_task_knows_its_worker_and_lends_its_slot(ready: Driver) -> None:
    context = ready.call(program_tasks.who)
    assert (context.pool, context.scheduler_endpoint, context.process_index) == ("pool", "ipc://s", 3)
    ready.call(program_tasks.block)
    ready.until(WorkerBlocked, at_agent=True)
    ready.until(WorkerUnblocked, at_agent=True)
    assert not [m for m in ready.agent_seen if isinstance(m, (WorkerBlocked, WorkerUnblocked))]


def test_arguments_in_the_store_are_pinned_while_the_task_keeps_them(ready: Driver) -> None:
    numpy = pytest.importorskip("numpy")
    array = numpy.ones(100_000)
    packed = ready.store.pack((program_tasks.keep, (array,), {}))
    fleeting = ready.store.pack((len, (array * 2,), {}))
    first, second = ready.next_attempt(), ready.next_attempt()
    for attempt, value in ((first, packed.value), (second, fleeting.value)):
        ready.send(RunTasks([Task(attempt, 0, value.payload, value.objects)]))
        assert ready.outcome(attempt) == 100_000
    assert ready.result(first).pinned == (packed.value.objects[0].object_id,)
    assert ready.result(second).pinned == ()
    ready.call(program_tasks.let_go)
    assert tuple(ready.until(Unpinned).objects) == ready.result(first).pinned


def test_objects_of_results_are_released(ready: Driver) -> None:
    attempt = ready.start(bytes, 1_000_000)
    ids = [location.object_id for location in ready.result(attempt).objects]
    ready.send(ReleaseObjects(ids))
    assert ready.call(tasks.add, 1) == 2


def test_a_missing_name_of_main_is_an_attribute_error(ready: Driver) -> None:
    with pytest.raises(AttributeError, match="not_there"):
        ready.call(program_tasks.read_closed_main)


@pytest.mark.parametrize("in_thread", [False, True])
def test_a_long_task_can_ask_for_definitions(ready: Driver, tmp_path: Path, in_thread: bool) -> None:
    attempt = ready.start(program_tasks.ask_late, str(tmp_path / "gate"), in_thread)
    ready.until(Output)
    (tmp_path / "gate").touch()
    assert "not_there" in ready.outcome(attempt)[0]
