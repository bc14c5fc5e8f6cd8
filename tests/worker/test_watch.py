"""What the watch thread makes of interrupts that come when the main thread is anywhere."""

from __future__ import annotations

import functools
import signal
import sys
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from distpool.errors import TaskInterrupted
from distpool.store.link import Asked
from distpool.worker.watch import Watch


class _Main:
    """The main thread, which takes a signal when the test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.running = 0
        self.busy = True
        self.signals = 0
        self.watch = Watch(SimpleNamespace(), self, frozenset())  # type: ignore[arg-type]
        monkeypatch.setattr(signal, "pthread_kill", self._signal)

    def _signal(self, *_: Any) -> None:
        self.signals += 1

    def take_signals(self) -> None:
        while self.signals:
            self.signals -= 1
            self.watch._on_signal(signal.SIGINT, None)

    def flush_early(self) -> None: ...
    def on_long(self, attempt: int | None, for_s: float) -> None: ...
    def on_idle(self) -> None: ...


@pytest.fixture
def main(monkeypatch: pytest.MonkeyPatch) -> _Main:
    return _Main(monkeypatch)


def test_an_interrupt_of_one_that_waits_does_not_undo_that_of_the_one_that_runs(main: _Main) -> None:
    main.running = 5
    main.watch.interrupt(5)
    main.watch.interrupt(6)
    with pytest.raises(TaskInterrupted):
        main.take_signals()


def test_an_interrupt_that_was_declined_is_kept_when_another_comes(
    main: _Main, monkeypatch: pytest.MonkeyPatch
) -> None:
    main.running = 5
    with monkeypatch.context() as imports:
        imports.setattr(Watch, "_is_fit", lambda *_: False)
        main.watch.interrupt(5)
        main.take_signals()
    main.watch.interrupt(6)
    main.watch._press()
    with pytest.raises(TaskInterrupted):
        main.take_signals()


@pytest.mark.parametrize("before", [0, 5])
def test_an_interrupt_of_one_that_is_about_to_run_waits_for_it(main: _Main, before: int) -> None:
    main.running = before
    main.watch.interrupt(6)
    main.take_signals()
    main.running = 6
    main.watch._press()
    with pytest.raises(TaskInterrupted):
        main.take_signals()
    main.watch._press()
    assert not main.signals, "once is enough"


def test_an_interrupt_does_not_outlive_its_attempt(main: _Main) -> None:
    main.running = 5
    main.watch.interrupt(5)
    main.watch.interrupt(7)
    main.running = 0
    main.take_signals()
    for main.running in (6, 0, 8):
        main.watch._press()
    assert not main.signals
    assert not main.watch._interrupts


@pytest.mark.parametrize("attempt", [0, -1, -2])
def test_what_is_no_attempt_is_not_interrupted(main: _Main, attempt: int) -> None:
    main.running = attempt
    main.watch.interrupt(attempt)
    assert not main.signals


@pytest.mark.parametrize("importing", [False, True])
def test_a_task_that_waits_for_memory_may_be_interrupted_unless_it_imports(importing: bool) -> None:
    asked = Asked()
    import_system = compile("wait()", "<frozen importlib._bootstrap>", "exec")
    wait = functools.partial(exec, import_system, {"wait": asked.wait}) if importing else asked.wait
    waits = threading.Thread(target=wait)
    waits.start()
    try:
        watch = Watch(SimpleNamespace(), SimpleNamespace(), frozenset())  # type: ignore[arg-type]
        frame = None
        while frame is None or frame.f_code is not Asked.wait.__code__:
            frame = sys._current_frames().get(waits.ident or 0)
        assert watch._is_fit(frame) is not importing
    finally:
        asked.wake()
        waits.join()
