"""What the tests' workers run."""

from __future__ import annotations

import importlib
import os
import sys
import threading
import time
from typing import Any

from distpool.worker.delays import Delays

kept: list[Any] = []


def nothing() -> None:
    pass


def add(a: int, b: int = 1) -> int:
    return a + b


def say(text: str, end: str = "\n") -> None:
    print(text, end=end)


def note(path: str) -> None:
    with open(path, "a") as file:
        file.write("x")


def complain(text: str) -> None:
    print(text, file=sys.stderr)


def divide(a: int, b: int) -> float:
    return a / b


def sleep(seconds: float) -> str:
    time.sleep(seconds)
    return "slept"


def signal_and_sleep(path: str) -> str:
    """Say that the task runs, by a file; then run for longer than any test."""
    open(path, "w").close()
    time.sleep(1000)
    return "slept"


def signal_and_spin(path: str) -> None:
    open(path, "w").close()
    while True:
        sum(range(100))


def import_and_spin(folder: str, name: str) -> None:
    sys.path.insert(0, folder)
    importlib.import_module(name)
    while True:
        time.sleep(0.001)


def import_value(name: str) -> Any:
    return importlib.import_module(name).VALUE


def wait_for(path: str) -> str:
    while not os.path.exists(path):
        time.sleep(0.001)
    return "seen"


class Stubborn:
    def __reduce__(self) -> Any:
        raise RuntimeError("I stay here")


class Explosive:
    """Pickles, and does not unpickle."""

    def __reduce__(self) -> Any:
        return explode, ()


def explode() -> None:
    raise LookupError("boom")


class Exiting:
    """Pickles, and ends the program that unpickles it."""

    def __reduce__(self) -> Any:
        return sys.exit, (3,)


def take(value: object) -> str:
    return type(value).__name__


def give_lock() -> Any:
    return {"inner": threading.Lock()}


class NeedsTwo(Exception):
    def __init__(self, first: int, second: int) -> None:
        super().__init__(f"{first} and {second}")


class Carries(Exception):
    def __init__(self, what: Any) -> None:
        super().__init__("carries")
        self.what = what


def fail_with(error: BaseException) -> None:
    raise error


def fail_two_args() -> None:
    raise NeedsTwo(1, 2)


def fail_carrying_lock() -> None:
    raise Carries(threading.Lock())


def fail_chained() -> None:
    try:
        {}["missing"]
    except KeyError as error:
        raise ValueError("outer") from error


def fail_noted() -> None:
    error = ValueError("noted")
    # What ``add_note`` of Python 3.11 does, which programs for older versions do by hand.
    error.__notes__ = ["look here"]  # type: ignore[attr-defined, unused-ignore]
    raise error


def fork_and_return() -> int:
    pid = os.fork()
    if pid:
        _, status = os.waitpid(pid, 0)
        return os.waitstatus_to_exitcode(status)
    return -1


def be_held_up(seconds: float) -> tuple[float, float]:
    """Compute until this thread has waited so long for its processor; how long it took, and how long it waited."""
    delays = Delays()
    waited, began = 0.0, time.perf_counter()
    while waited < seconds:
        waited += delays.more()
    return time.perf_counter() - began, waited
