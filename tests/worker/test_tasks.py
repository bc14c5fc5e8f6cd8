"""Running tasks: results, batches, failures, retracting, interrupting."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from distpool.errors import ObjectLostError, SerializationError, TaskInterrupted
from distpool.wire.driver_to_worker import CHUNK, Interrupt, Retract, RunTasks
from distpool.wire.worker_to_agent import ModulesImported, WorkerStarted
from distpool.wire.worker_to_driver import RAISED, UNTRANSPORTABLE, Retracted, SetupDone, SetupFailed, TasksDone
from distpool.worker.failure import decode_exception
from tests.worker import tasks
from tests.worker.harness import LEASE, Driver


def test_its_first_word_is_to_its_agent(driver: Driver) -> None:
    started = driver.until(WorkerStarted, at_agent=True)
    assert (started.lease, started.pid) == (LEASE, driver.process.pid)


def test_a_task_returns_its_value(ready: Driver) -> None:
    assert ready.call(tasks.add, 2, b=3) == 5


def test_what_the_driver_said_before_is_not_done_again(driver: Driver, tmp_path: Path) -> None:
    """Through real sockets: its set-up, a task that has run, and one that was taken back."""
    captured = driver.capture(tasks.note, (str(tmp_path / "set up"),))
    driver.send_setup(captured)
    driver.until(SetupDone)
    ran = driver.task(tasks.note, str(tmp_path / "ran"))
    busy, back = driver.task(tasks.wait_for, str(tmp_path / "go")), driver.task(tasks.note, str(tmp_path / "back"))
    driver.send(RunTasks([ran, busy, back]))
    driver.send(Retract([back.attempt]))
    assert driver.until(Retracted).attempts == [back.attempt]
    for _ in range(3):
        driver.send_setup(captured)
        driver.send(RunTasks([back, ran, busy]))
    (tmp_path / "go").touch()
    assert driver.outcome(busy.attempt) == "seen"
    assert driver.call(tasks.add, 1) == 2
    answers = [
        result.attempt for message in driver.seen if isinstance(message, TasksDone) for result in message.results
    ]
    assert answers == [ran.attempt, busy.attempt, busy.attempt + 2]
    assert (tmp_path / "ran").read_text() == (tmp_path / "set up").read_text() == "x"
    assert not (tmp_path / "back").exists()
    assert not any(isinstance(message, SetupDone) for message in driver.seen), "once is enough"


@pytest.mark.skipif(not Path("/proc/thread-self/schedstat").exists(), reason="this kernel does not count delays")
def test_the_time_for_which_a_task_had_no_processor_is_not_its_own(ready: Driver) -> None:
    """Its driver would deal out short tasks one by one."""
    (core, *_) = os.sched_getaffinity(ready.process.pid)
    for thread in os.listdir(f"/proc/{ready.process.pid}/task"):
        os.sched_setaffinity(int(thread), {core})
    spinner = subprocess.Popen([sys.executable, "-c", f"import os; os.sched_setaffinity(0, {{{core}}})\nwhile 1: pass"])
    try:
        attempt = ready.start(tasks.be_held_up, 0.1)
        took_s, waited_s = ready.outcome(attempt)
    finally:
        spinner.kill()
        spinner.wait()
    answered = [message for message in ready.seen if isinstance(message, TasksDone)]
    assert answered
    assert waited_s >= 0.1
    assert sum(message.busy_s for message in answered) < took_s


def test_a_batch_is_answered_in_order(ready: Driver) -> None:
    batch, functions = [], []
    for i in range(200):
        task, new = ready.numbered(tasks.add, i)
        batch.append(task)
        functions += new
    ready.send(RunTasks(batch, functions))
    ready.result(batch[-1].attempt)
    answers = [result for message in ready.seen if isinstance(message, TasksDone) for result in message.results]
    assert [result.attempt for result in answers] == [task.attempt for task in batch]
    assert [pickle.loads(result.payload) for result in answers] == [i + 1 for i in range(200)]
    assert all(message.busy_s > 0 for message in ready.seen if isinstance(message, TasksDone))


def test_a_chunk_is_one_result(ready: Driver) -> None:
    assert ready.call(tasks.add, [(1, 2), (3, 4)], flags=CHUNK) == [3, 7]


def test_a_builtin_and_a_lambda_are_functions_too(ready: Driver) -> None:
    assert ready.call(len, "four") == 4
    assert ready.call(lambda x: x * 2, 4) == 8


def test_a_large_result_goes_through_the_store(ready: Driver) -> None:
    attempt = ready.start(bytes, 1_000_000)
    assert ready.result(attempt).objects
    assert ready.outcome(attempt) == bytes(1_000_000)


def test_an_exception_is_the_same_with_the_remote_traceback_as_cause(ready: Driver) -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        ready.call(tasks.divide, 1, 0)
    shown = str(caught.value.__cause__)
    assert "in divide" in shown
    assert "runner.py" not in shown


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), StopIteration(5)])
def test_exceptions_that_end_other_things_do_not_end_the_worker(ready: Driver, error: BaseException) -> None:
    attempt = ready.start(tasks.fail_with, error)
    result = ready.result(attempt)
    assert result.status == RAISED
    assert type(decode_exception(result.payload)) is type(error)
    assert ready.call(tasks.add, 1) == 2


def test_an_exception_that_does_not_unpickle(ready: Driver) -> None:
    with pytest.raises(SerializationError, match="NeedsTwo: 1 and 2") as caught:
        ready.call(tasks.fail_two_args)
    assert "in fail_two_args" in str(caught.value.__cause__)


def test_an_exception_that_does_not_pickle(ready: Driver) -> None:
    with pytest.raises(SerializationError, match="Carries: carries"):
        ready.call(tasks.fail_carrying_lock)


def test_the_chain_of_an_exception_is_kept(ready: Driver) -> None:
    with pytest.raises(ValueError, match="outer") as caught:
        ready.call(tasks.fail_chained)
    assert isinstance(caught.value.__context__, KeyError)
    assert "KeyError: 'missing'" in str(caught.value.__cause__)


def test_notes_are_kept(ready: Driver) -> None:
    with pytest.raises(ValueError, match="noted") as caught:
        ready.call(tasks.fail_noted)
    assert caught.value.__notes__ == ["look here"]  # type: ignore[attr-defined, unused-ignore]


def test_a_result_that_does_not_pickle(ready: Driver) -> None:
    attempt = ready.start(tasks.give_lock)
    assert ready.result(attempt).status == UNTRANSPORTABLE
    with pytest.raises(SerializationError, match=r"\['inner'\].*lock"):
        ready.outcome(attempt)
    assert ready.call(tasks.add, 1) == 2


def test_arguments_that_do_not_unpickle_fail_alone(ready: Driver) -> None:
    bad = ready.task(tasks.take, tasks.Explosive())
    good = ready.task(tasks.add, 1)
    ready.send(RunTasks([bad, good]))
    assert ready.outcome(good.attempt) == 2
    assert ready.result(bad.attempt).status == UNTRANSPORTABLE
    with pytest.raises(SerializationError, match="LookupError: boom"):
        ready.outcome(bad.attempt)


def test_arguments_that_exit_when_unpickled_fail_alone(ready: Driver) -> None:
    attempt = ready.start(tasks.take, tasks.Exiting())
    assert ready.result(attempt).status == UNTRANSPORTABLE
    with pytest.raises(SerializationError, match="SystemExit: 3"):
        ready.outcome(attempt)
    assert ready.call(tasks.add, 1) == 2


def test_a_retracted_attempt_does_not_run(ready: Driver, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    first, second, third = ready.task(tasks.wait_for, str(gate)), ready.task(tasks.add, 1), ready.task(tasks.add, 2)
    ready.send(RunTasks([first, second, third]))
    ready.send(Retract([first.attempt, second.attempt]))
    given_back = ready.until(Retracted).attempts
    gate.touch()
    assert ready.outcome(third.attempt) == 3
    # The first may have been taken back before it began; the second was waiting behind it.
    assert second.attempt in given_back
    answered = [result.attempt for m in ready.seen if isinstance(m, TasksDone) for result in m.results]
    assert set(given_back).isdisjoint(answered)


def test_results_do_not_wait_behind_a_long_task(ready: Driver, tmp_path: Path) -> None:
    short, long = ready.task(tasks.add, 1), ready.task(tasks.wait_for, str(tmp_path / "gate"))
    ready.send(RunTasks([short, long]))
    assert ready.outcome(short.attempt) == 2
    (tmp_path / "gate").touch()
    assert ready.outcome(long.attempt) == "seen"


@pytest.mark.parametrize("task", [tasks.signal_and_sleep, tasks.signal_and_spin])
def test_an_interrupt_ends_the_attempt_and_not_the_next(ready: Driver, tmp_path: Path, task: object) -> None:
    running = tmp_path / "running"
    attempt = ready.start(task, str(running))  # type: ignore[arg-type]
    while not running.exists():
        ready.receive()
    ready.send(Interrupt(attempt))
    following = ready.start(tasks.add, 1)
    with pytest.raises(TaskInterrupted):
        ready.outcome(attempt)
    ready.send(Interrupt(attempt))
    assert ready.outcome(following) == 2


def test_an_interrupt_waits_for_the_end_of_an_import(ready: Driver, tmp_path: Path) -> None:
    package = tmp_path / "halves"
    package.mkdir()
    package.joinpath("part.py").write_text("VALUE = 5\n")
    package.joinpath("__init__.py").write_text(
        "import os, time\n"
        "from halves.part import VALUE\n"
        "open(__file__ + '.reached', 'w').close()\n"
        "while not os.path.exists(__file__ + '.gate'):\n"
        "    time.sleep(0.001)\n"
        "VALUE = part.VALUE\n"  # as in asyncio: true only if the import above was not there before
    )
    attempt = ready.start(tasks.import_and_spin, str(tmp_path), "halves")
    while not (package / "__init__.py.reached").exists():
        ready.receive()
    ready.send(Interrupt(attempt))
    ready.send(Retract([attempt]))
    ready.until(Retracted)  # so the interrupt has come
    (package / "__init__.py.gate").touch()
    with pytest.raises(TaskInterrupted):
        ready.outcome(attempt)
    assert ready.call(tasks.import_value, "halves") == 5


def test_late_interrupts_hit_nobody(ready: Driver) -> None:
    for i in range(100):
        attempt = ready.start(tasks.add, i)
        ready.send(Interrupt(attempt))
        ready.send(Interrupt(attempt - 1))
        try:
            assert ready.outcome(attempt) == i + 1
        except TaskInterrupted:
            pass
    assert ready.call(tasks.add, 1) == 2


def test_a_failing_initializer_is_reported_and_no_task_runs(driver: Driver) -> None:
    driver.send_setup(driver.capture(tasks.divide, (1, 0)))
    failed = driver.until(SetupFailed)
    assert isinstance(decode_exception(failed.error), ZeroDivisionError)
    assert failed.summary == "ZeroDivisionError: division by zero"
    assert any("Exception in initializer:" in str(message) for message in driver.seen)
    driver.start(tasks.add, 1)
    assert driver.leave() == 0
    assert not [message for message in driver.seen if isinstance(message, TasksDone)]


def test_the_initializer_runs_before_the_first_task(driver: Driver) -> None:
    driver.send_setup(driver.capture(tasks.kept.append, ("here",)))
    attempt = driver.start(tasks.add, 1)
    driver.outcome(attempt)
    kinds = [type(message) for message in driver.seen]
    assert kinds.index(SetupDone) < kinds.index(TasksDone)


def test_installed_modules_are_reported(ready: Driver) -> None:
    ready.call(__import__, "sortedcontainers")
    # Modules of the standard library that came before it, with what setting up needs, may have been told before.
    while "sortedcontainers" not in ready.until(ModulesImported, at_agent=True).names:
        pass


def test_parts_of_installed_packages_are_reported(ready: Driver) -> None:
    pytest.importorskip("joblib")
    ready.call(__import__, "joblib.test.data")
    names: tuple[str, ...] = ()
    while "joblib" not in names:
        names = ready.until(ModulesImported, at_agent=True).names
    assert {"joblib", "joblib.test"} <= set(names)
    assert "joblib.test.data" not in names


def test_a_forked_child_of_a_task_is_no_worker(ready: Driver) -> None:
    assert ready.call(tasks.fork_and_return) == 0
    assert ready.call(tasks.add, 1) == 2


def test_leave_runs_what_was_sent_before(ready: Driver) -> None:
    attempt = ready.start(tasks.add, 1)
    assert ready.leave() == 0
    assert ready.outcome(attempt) == 2


def test_arguments_that_are_gone_are_named(ready: Driver) -> None:
    packed = ready.store.pack((len, (bytes(1 << 20),), {}))
    (location,) = packed.value.objects
    task = ready.task(len, b"")
    task.payload, task.objects = packed.value.payload, packed.value.objects
    os.unlink(os.path.join(ready.store.folder, location.segment))
    ready.send(RunTasks([task]))
    result = ready.result(task.attempt)
    assert (result.status, result.lost) == (UNTRANSPORTABLE, (location.object_id,))
    error = decode_exception(result.payload)
    assert isinstance(error, ObjectLostError)
    assert error.object_ids == (location.object_id,)
