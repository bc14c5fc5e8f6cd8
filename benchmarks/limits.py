"""What this machine can do at best, in the units of the workloads: the floor under every contender.

Each is measured with the least code there is, in one process or two, and is the best of several tries (a limit is what
the machine does undisturbed).
"""

from __future__ import annotations

import concurrent.futures
import mmap
import os
import pickle
import queue
import socket
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ARRAY_BYTES = 32_000_000


@dataclass(frozen=True)
class Limit:
    title: str
    unit: str
    better: str
    measure: Callable[[float], float]
    format: str = ",.0f"


def best(once: Callable[[], float], seconds: float, least: int = 3) -> float:
    """The smallest value of repeated calls, for as long as ``seconds`` says."""
    values: list[float] = []
    give_up = time.perf_counter() + seconds
    while len(values) < least or time.perf_counter() < give_up:
        values.append(once())
    return min(values)


def timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


# ---- memory ----------------------------------------------------------------------------------------------------------


def memcpy_warm(seconds: float) -> float:
    source, target = np.ones(ARRAY_BYTES // 8), np.zeros(ARRAY_BYTES // 8)
    return ARRAY_BYTES / 1e6 / best(lambda: timed(lambda: np.copyto(target, source)), seconds)


def write_fresh_shared(seconds: float) -> float:
    source = np.ones(ARRAY_BYTES // 8)

    def once() -> float:
        with _Segment() as segment:
            started = time.perf_counter()
            np.copyto(segment.array(), source)
            return time.perf_counter() - started

    return ARRAY_BYTES / 1e6 / best(once, seconds)


def write_recycled_shared(seconds: float) -> float:
    source = np.ones(ARRAY_BYTES // 8)
    with _Segment() as segment:
        target = segment.array()
        np.copyto(target, source)
        return ARRAY_BYTES / 1e6 / best(lambda: timed(lambda: np.copyto(target, source)), seconds)


def write_map_sum(seconds: float) -> float:
    """Write into a recycled segment, map it anew copy-on-write, sum: one array's way, on one core."""
    source = np.ones(ARRAY_BYTES // 8)
    with _Segment() as segment:
        target = segment.array()
        np.copyto(target, source)

        def once() -> None:
            np.copyto(target, source)
            with mmap.mmap(segment.descriptor, ARRAY_BYTES, mmap.MAP_PRIVATE) as mapped:
                assert np.frombuffer(mapped).sum() == ARRAY_BYTES // 8

        return ARRAY_BYTES / 1e6 / best(lambda: timed(once), seconds)


class _Segment:
    """A file in shared memory, mapped."""

    def __enter__(self) -> _Segment:
        self.descriptor = os.memfd_create("limit")
        os.ftruncate(self.descriptor, ARRAY_BYTES)
        self.mapped = mmap.mmap(self.descriptor, ARRAY_BYTES, mmap.MAP_SHARED)
        return self

    def array(self) -> Any:
        return np.frombuffer(self.mapped)

    def __exit__(self, *_: object) -> None:
        try:
            self.mapped.close()
        except BufferError:
            pass  # an array that goes with its frame still views it
        os.close(self.descriptor)


# ---- messages: one byte there and back between two processes ---------------------------------------------------------


def _forked(work: Callable[[], None]) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(0)
    return pid


def _round_trips(there_and_back: Callable[[], None], seconds: float) -> float:
    """Median microseconds of one round trip: the middle one, since the best one is luck."""
    for _ in range(200):
        there_and_back()
    times = []
    give_up = time.perf_counter() + seconds
    while time.perf_counter() < give_up:
        times.append(timed(there_and_back))
    return sorted(times)[len(times) // 2] * 1e6


def pipe_round_trip(seconds: float) -> float:
    there, back = os.pipe(), os.pipe()

    def echo() -> None:
        os.close(there[1])
        while byte := os.read(there[0], 1):
            os.write(back[1], byte)

    pid = _forked(echo)

    def there_and_back() -> None:
        os.write(there[1], b"x")
        os.read(back[0], 1)

    value = _round_trips(there_and_back, seconds)
    for descriptor in (*there, *back):
        os.close(descriptor)
    os.waitpid(pid, 0)
    return value


def socket_round_trip(seconds: float) -> float:
    ours, theirs = socket.socketpair()

    def echo() -> None:
        ours.close()
        while byte := theirs.recv(1):
            theirs.send(byte)

    pid = _forked(echo)
    theirs.close()

    def there_and_back() -> None:
        ours.send(b"x")
        ours.recv(1)

    value = _round_trips(there_and_back, seconds)
    ours.close()
    os.waitpid(pid, 0)
    return value


_ZMQ_ECHO = """
import sys, zmq
peer = zmq.Context().socket(zmq.DEALER)
peer.connect(sys.argv[1])
peer.send(b"")
while (message := peer.recv()) != b"end":
    peer.send(message)
"""


class _ZmqWorkers:
    """Processes that answer each message with itself, behind one ROUTER."""

    def __init__(self, count: int) -> None:
        import zmq

        self.folder = tempfile.TemporaryDirectory()
        self.context = zmq.Context()
        self.router = self.context.socket(zmq.ROUTER)
        address = f"ipc://{self.folder.name}/limit"
        self.router.bind(address)
        start = [sys.executable, "-c", _ZMQ_ECHO, address]
        self.processes = [subprocess.Popen(start) for _ in range(count)]
        self.names = [self.router.recv_multipart()[0] for _ in self.processes]

    def close(self) -> None:
        for name in self.names:
            self.router.send_multipart([name, b"end"])
        for process in self.processes:
            process.wait()
        self.context.destroy()
        self.folder.cleanup()


def zmq_round_trip(seconds: float) -> float:
    workers = _ZmqWorkers(1)
    router, name = workers.router, workers.names[0]

    def there_and_back() -> None:
        router.send_multipart([name, b"x"])
        router.recv_multipart()

    value = _round_trips(there_and_back, seconds)
    workers.close()
    return value


def bare_zmq_pool(seconds: float) -> float:
    """A pool without anything: one thread that pickles each call into a message of its own for one of two workers,
    which send it back, and that unpickles it; no futures, at most 100 calls on their way per worker."""
    workers = _ZmqWorkers(2)
    router, names = workers.router, workers.names

    def once() -> float:
        count, sent, received = 5_000, 0, 0
        started = time.perf_counter()
        while received < count:
            while sent < count and sent - received < 200:
                call = pickle.dumps((sent, pickle_call, (sent,), {}), 5)
                router.send_multipart((names[sent % 2], call))
                sent += 1
            pickle.loads(router.recv_multipart()[1])
            received += 1
        return (time.perf_counter() - started) / count

    value = 1 / best(once, seconds)
    workers.close()
    return value


# ---- processes and threads -------------------------------------------------------------------------------------------


def fork_and_wait(seconds: float) -> float:
    """From a small process: this one is fresh, but has numpy."""
    return best(lambda: timed(lambda: os.waitpid(_forked(lambda: None), 0)), seconds) * 1e3


def python_start(seconds: float) -> float:
    return best(lambda: timed(lambda: subprocess.run([sys.executable, "-c", ""], check=True)), seconds) * 1e3


def thread_wake_up(seconds: float) -> float:
    """Half of a round trip through two queues to another thread."""
    there: queue.SimpleQueue[int | None] = queue.SimpleQueue()
    back: queue.SimpleQueue[int] = queue.SimpleQueue()

    def echo() -> None:
        while (item := there.get()) is not None:
            back.put(item)

    thread = threading.Thread(target=echo)
    thread.start()

    def there_and_back() -> None:
        there.put(1)
        back.get()

    value = _round_trips(there_and_back, seconds) / 2
    there.put(None)
    thread.join()
    return value


# ---- Python itself ---------------------------------------------------------------------------------------------------


def future_made_and_resolved(seconds: float) -> float:
    def once() -> float:
        started = time.perf_counter()
        for number in range(2_000):
            future: concurrent.futures.Future[int] = concurrent.futures.Future()
            future.set_running_or_notify_cancel()
            future.set_result(number)
            future.result()
        return (time.perf_counter() - started) / 2_000

    return best(once, seconds) * 1e6


def future_bytes(_: float) -> float:
    tracemalloc.start()
    futures: list[Any] = [None] * 1_000
    before = tracemalloc.get_traced_memory()[0]
    for number in range(1_000):
        futures[number] = concurrent.futures.Future()
    size = (tracemalloc.get_traced_memory()[0] - before) / 1_000
    tracemalloc.stop()
    return size


def pickle_call(seconds: float) -> float:
    def once() -> float:
        started = time.perf_counter()
        for number in range(2_000):
            pickle.loads(pickle.dumps((number, pickle_call, (number,), {}), 5))
        return (time.perf_counter() - started) / 2_000

    return best(once, seconds) * 1e6


def call_in_python(seconds: float) -> float:
    def plus_one(number: int) -> int:
        return number + 1

    def once() -> float:
        started = time.perf_counter()
        list(map(plus_one, range(100_000)))
        return (time.perf_counter() - started) / 100_000

    return 1 / best(once, seconds)


LIMITS: dict[str, Limit] = {
    "memcpy_warm": Limit("copy 32 MB between warm arrays", "MB/s", "higher", memcpy_warm),
    "write_fresh_shared": Limit("write 32 MB into fresh shared memory", "MB/s", "higher", write_fresh_shared),
    "write_recycled_shared": Limit("write 32 MB into mapped shared memory", "MB/s", "higher", write_recycled_shared),
    "write_map_sum": Limit("write mapped, map anew, sum; one core", "MB/s", "higher", write_map_sum),
    "pipe_round_trip": Limit("round trip of a byte by pipes", "µs", "lower", pipe_round_trip),
    "socket_round_trip": Limit("round trip of a byte by a Unix socket", "µs", "lower", socket_round_trip),
    "zmq_round_trip": Limit("round trip of a byte by ZeroMQ ipc", "µs", "lower", zmq_round_trip),
    "bare_zmq_pool": Limit("bare ZeroMQ pool: one message per call", "tasks/s", "higher", bare_zmq_pool),
    "thread_wake_up": Limit("wake up another thread", "µs", "lower", thread_wake_up, ",.1f"),
    "fork_and_wait": Limit("fork, end, wait", "ms", "lower", fork_and_wait, ",.2f"),
    "python_start": Limit("start and end Python", "ms", "lower", python_start, ",.1f"),
    "future_made_and_resolved": Limit(
        "make, resolve and read a Future", "µs", "lower", future_made_and_resolved, ",.1f"
    ),
    "future_bytes": Limit("memory of an empty Future", "bytes", "lower", future_bytes),
    "pickle_call": Limit("pickle and unpickle a small call", "µs", "lower", pickle_call, ",.1f"),
    "call_in_python": Limit("map a tiny function in one process", "items/s", "higher", call_in_python),
}

_ALONE = "import sys; from benchmarks import limits; print(limits.LIMITS[sys.argv[1]].measure(float(sys.argv[2])))"


def measure(quick: bool = False) -> dict[str, float]:
    """All limits, each in a process of its own."""
    root = str(Path(__file__).resolve().parent.parent)
    values = {}
    for name in LIMITS:
        done = subprocess.run(
            [sys.executable, "-c", _ALONE, name, "0.1" if quick else "0.5"],
            env={**os.environ, "PYTHONPATH": root},
            stdout=subprocess.PIPE,
            text=True,
            timeout=60,
        )
        if done.returncode == 0:
            values[name] = float(done.stdout.split()[-1])
    return values


def best_of(one: dict[str, float], other: dict[str, float]) -> dict[str, float]:
    """Of each limit the better value: the machine can do that."""
    return {
        name: (min if limit.better == "lower" else max)(values[name] for values in (one, other) if name in values)
        for name, limit in LIMITS.items()
        if name in one or name in other
    }


def described(name: str, value: float) -> str:
    limit = LIMITS[name]
    return f"{limit.title}: {value:{limit.format}} {limit.unit}"
