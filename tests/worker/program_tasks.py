"""What the tests of a worker's looks run in it."""

from __future__ import annotations

import atexit
import contextlib
import logging
import multiprocessing
import os
import random
import signal
import sys
import threading
import warnings
from typing import Any

from distpool.worker import context

held: list[Any] = []


def look() -> dict[str, Any]:
    process = multiprocessing.current_process()
    parent = multiprocessing.parent_process()
    assert parent is not None
    return {
        "name": process.name,
        "identity": process._identity,  # type: ignore[attr-defined]
        "daemon": process.daemon,
        "authkey": bytes(process.authkey),
        "pid": process.pid,
        "alive": process.is_alive(),
        "parent": parent.pid,
        "parent_name": parent.name,
        "parent_alive": parent.is_alive(),
        "cwd": os.getcwd(),
        "argv": sys.argv,
        "path": sys.path,
        "environ": dict(os.environ),
        "recursion_limit": sys.getrecursionlimit(),
        "filters": [(entry[0], entry[2].__name__) for entry in warnings.filters],
        "random": random.random(),
    }


def start_a_process_and_a_queue() -> int:
    fork = multiprocessing.get_context("fork")
    queue = fork.SimpleQueue()
    process = fork.Process(target=queue.put, args=(os.getpid(),))
    process.start()
    process.join()
    assert process._parent_pid == os.getpid()  # type: ignore[attr-defined]
    return int(queue.get())


def write_around() -> tuple[bool, str, int]:
    sys.stdout.buffer.write("bytes: \N{SNOWMAN}\n".encode())
    sys.stdout.write("no end")
    return sys.stdout.isatty(), sys.stdout.encoding, sys.stdout.fileno()


def print_surrogate() -> None:
    print("\udcff")


def mix_streams() -> None:
    print("one")
    print("two", file=sys.stderr)
    print("three")


def print_then_wait(path: str) -> None:
    print("early")
    while not os.path.exists(path):
        pass


def print_in_a_thread() -> None:
    thread = threading.Thread(target=print, args=("from a thread",))
    thread.start()
    thread.join()


def lose_stdout() -> None:
    del sys.stdout
    del sys.stderr


def close_standard_descriptors() -> None:
    os.closerange(0, 3)


def log(level: int, message: str, name: str = "", *arguments: Any) -> None:
    logging.getLogger(name or None).log(level, message, *arguments, extra={"odd": threading.Lock()})


def log_exception() -> None:
    try:
        raise ValueError("logged")
    except ValueError:
        logging.getLogger("some.where").exception("it failed")


def handle_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def low_recursion_limit() -> None:
    for limit in range(5, 200):
        with contextlib.suppress(RecursionError):
            sys.setrecursionlimit(limit)
            return


def at_exit() -> None:
    atexit.register(print, "goodbye")


def leave_thread_running() -> None:
    threading.Thread(target=threading.Event().wait, daemon=True).start()


def who() -> Any:
    return context.current()


def block() -> None:
    with context.blocked(), context.blocked():
        pass


def keep(array: Any) -> int:
    held.append(array)
    return len(array)


def let_go() -> None:
    held.clear()


def read_closed_main() -> Any:
    import __main__

    return __main__.not_there


def ask_late(path: str, in_thread: bool) -> list[str]:
    """Ask the driver for a name when the watch thread has long taken over receiving."""
    print("running", flush=True)
    while not os.path.exists(path):
        pass
    found: list[str] = []

    def ask() -> None:
        try:
            read_closed_main()
        except AttributeError as error:
            found.append(str(error))

    if in_thread:
        thread = threading.Thread(target=ask)
        thread.start()
        thread.join()
    else:
        ask()
    return found
