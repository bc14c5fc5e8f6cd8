"""Threads in the place of leased workers: what ``distpool.multiprocessing.pool.Pool`` sees of a ``WorkerPool``.

Calls and results are pickled as on their way to a process and back, so that nothing is shared by accident.
"""

from __future__ import annotations

import itertools
import pickle
import queue
import threading
from concurrent.futures import Future
from typing import Any

import distpool.multiprocessing.pool
from distpool.errors import SerializationError, WorkerDiedError
from distpool.task_options import DEFAULT
from distpool.wire.driver_to_worker import CHUNK, MAP
from distpool.worker.failure import decode_exception, encode_exception

_NO_KEYWORDS: dict[str, Any] = {}


class FakeProcess:
    def __init__(self, number: int) -> None:
        self.pid = 1000 + number
        self.name = f"Fake-{number}"
        self.exitcode = None

    def is_alive(self) -> bool:
        return True


class FakeWorkers:
    def __init__(self, spec: Any) -> None:
        self.spec = spec
        self.closed = False
        self.terminated = False
        self.outstanding = 0
        self.submissions: list[tuple[Any, ...]] = []
        self._calls: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._processes = {1000 + n: FakeProcess(n) for n in range(1, spec.max_workers + 1)}
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(spec.max_workers)]
        for thread in self._threads:
            thread.start()

    def submit(
        self, function: Any, args: Any = (), kwargs: Any = _NO_KEYWORDS, options: Any = DEFAULT, flags: int = 0
    ) -> Any:
        if self.closed:
            raise RuntimeError("cannot submit to a pool that has been shut down")
        try:
            call = pickle.dumps((function, args, dict(kwargs)))
        except Exception as error:
            raise SerializationError("cannot be pickled") from error
        self.submissions.append((function, args, flags))
        future: Future[Any] = Future()
        with self._lock:
            self.outstanding += 1
        self._calls.put((future, call, flags))
        return future

    def submit_chunk(self, function: Any, chunk: Any, options: Any = DEFAULT, *, starred: bool) -> Any:
        return self.submit(function, (chunk,), {}, options, CHUNK if starred else CHUNK | MAP)

    def shutdown(self, wait: bool = True, cancel_futures: bool = False) -> None:
        if not self.closed:
            self.closed = True
            for _ in self._threads:
                self._calls.put(None)
        if wait:
            self.join()

    def terminate(self) -> None:
        self.terminated = True
        self.shutdown(wait=False)

    def join(self, timeout_s: float | None = None) -> bool:
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(timeout_s)
        return True

    def processes(self) -> dict[int, Any]:
        return dict(self._processes)

    def _run(self) -> None:
        while (item := self._calls.get()) is not None:
            future, call, flags = item
            if self.terminated:
                self._settle(future, WorkerDiedError("the pool was ended while the task was pending"), failed=True)
                continue
            try:
                value = _call(call, flags)
                try:
                    value = pickle.loads(pickle.dumps(value))
                except Exception as error:
                    unsent = SerializationError("the result cannot be pickled")
                    unsent.of_outcome = True
                    raise unsent from error
            except BaseException as error:
                self._settle(future, decode_exception(encode_exception(error)), failed=True)
            else:
                self._settle(future, value, failed=False)
            item = future = value = None

    def _settle(self, future: Future[Any], value: Any, failed: bool) -> None:
        with self._lock:
            self.outstanding -= 1
        if failed:
            future.set_exception(value)
        else:
            future.set_result(value)


def _call(call: bytes, flags: int) -> Any:
    function, args, kwargs = pickle.loads(call)
    if not flags:
        return function(*args, **kwargs)
    (chunk,) = args
    return list(map(function, chunk)) if flags & MAP else list(itertools.starmap(function, chunk))


class FakePool(distpool.multiprocessing.pool.Pool):
    """A pool on such workers; ``spec`` is what a session would have been asked for."""

    def _open(self, spec: Any) -> Any:
        self.spec = spec
        return FakeWorkers(spec)

    @staticmethod
    def wait_for_event(event: threading.Event, timeout: float | None) -> bool:
        return event.wait(timeout)
