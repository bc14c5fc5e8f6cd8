"""A driver half and a worker half in two processes with a pipe between them: code loading without the rest.

The program under test runs as ``__main__`` and makes a ``Rig``; ``rig.call(function, *args)`` runs there.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
import traceback
from typing import Any, BinaryIO

import msgspec

from distpool.code import pickler
from distpool.wire import driver_to_worker, worker_to_driver

_encode = msgspec.msgpack.Encoder().encode
_from_worker = msgspec.msgpack.Decoder(worker_to_driver.FetchDefinitions | worker_to_driver.FetchModule).decode
_from_driver = msgspec.msgpack.Decoder(driver_to_worker.Definitions | driver_to_worker.ModuleSource).decode


class RemoteError(Exception):
    """The call raised; the text is the remote traceback."""


def dumps(value: Any) -> bytes:
    """As the store does it: plain first."""
    try:
        return pickle.dumps(value, 5)
    except Exception:
        return pickler.dumps(value)


def _write(file: BinaryIO, kind: bytes, data: bytes) -> None:
    file.write(kind + len(data).to_bytes(8, "little") + data)
    file.flush()


def _read(file: BinaryIO) -> tuple[bytes, bytes]:
    head = file.read(9)
    if len(head) < 9:
        raise EOFError
    return head[:1], file.read(int.from_bytes(head[1:], "little"))


class _Store:
    def pack(self, value: Any) -> Any:
        from distpool.code.definitions import _Packed

        return _Packed(dumps(value), value)


class Rig:
    """The driver's side."""

    def __init__(self, main_name: str = "", main_file: str = "", user_modules: tuple[str, ...] = ()) -> None:
        from distpool.code.definitions import DefinitionServer

        self.server = DefinitionServer(_Store())
        self.asked: list[list[str]] = []
        self.modules_asked: list[str] = []
        self.workers: list[RigWorker] = []
        self.setup = (main_name, main_file, user_modules)
        self.worker = self.start()

    def start(self) -> RigWorker:
        """One more worker."""
        worker = RigWorker(self)
        self.workers.append(worker)
        return worker

    def call(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        """Run in the first worker."""
        return self.worker.call(function, *args, **kwargs)

    def __enter__(self) -> Rig:
        return self

    def __exit__(self, *exc_info: object) -> None:
        for worker in self.workers:
            worker.close()


class RigWorker:
    """A worker as its driver sees it."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        self.process = subprocess.Popen(
            [sys.executable, "-c", "from tests.code.rig import work; work()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        main_name, main_file, user_modules = rig.setup
        start = (sys.path[:], main_name, main_file, list(user_modules), os.getcwd())
        _write(self._input, b"S", pickle.dumps(start))

    @property
    def _input(self) -> Any:
        return self.process.stdin

    def send(self, function: Any, *args: Any, **kwargs: Any) -> None:
        """Submit without waiting; one at a time."""
        for news in self._rig.server.changes():
            for worker in self._rig.workers:
                _write(worker._input, b"N", _encode(news))
        payload = self._rig.server.pack_function(function).value.payload
        _write(self._input, b"T", pickle.dumps((payload, dumps((args, kwargs)))))

    def receive(self) -> Any:
        """Serve the worker until it has a result."""
        while True:
            kind, data = _read(self.process.stdout)  # type: ignore[arg-type]
            if kind == b"Q":
                message = _from_worker(data)
                if isinstance(message, worker_to_driver.FetchDefinitions):
                    self._rig.asked.append(message.names)
                else:
                    self._rig.modules_asked.append(message.name)
                _write(self._input, b"A", _encode(self._rig.server.answer(b"w", message)))
            elif kind == b"R":
                return pickle.loads(data)
            else:
                raise RemoteError(data.decode())

    def call(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        """Run it there."""
        self.send(function, *args, **kwargs)
        return self.receive()

    def close(self) -> None:
        """End the worker."""
        self.process.stdin.close()  # type: ignore[union-attr]
        self.process.wait()
        self.process.stdout.close()  # type: ignore[union-attr]


# -- worker ----------------------------------------------------------------------------------------------------------


class _Pipe:
    """Asks the driver over the pipe."""

    def __init__(self, receive: BinaryIO, send: BinaryIO) -> None:
        self._receive = receive
        self.send = send
        self.loader: Any = None
        self.lock = threading.RLock()

    def next_task(self) -> bytes | None:
        while True:
            try:
                kind, data = _read(self._receive)
            except EOFError:
                return None
            if kind == b"N":
                self.loader.on_definitions(_from_driver(data))
            else:
                return data

    def _ask(self, message: Any) -> Any:
        with self.lock:
            _write(self.send, b"Q", _encode(message))
            while True:
                kind, data = _read(self._receive)
                if kind == b"A":
                    return _from_driver(data)
                assert kind == b"N"
                self.loader.on_definitions(_from_driver(data))

    def fetch_definitions(self, module: str, names: list[str], known: dict[str, bytes]) -> Any:
        return self._ask(worker_to_driver.FetchDefinitions(1, module, names, known))

    def fetch_module(self, name: str) -> Any:
        return self._ask(worker_to_driver.FetchModule(1, name))


def work() -> None:
    """The worker's side: runs what comes over stdin."""
    from distpool.code.loader import install

    receive, send = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    _, data = _read(receive)
    path, main_name, main_file, user_modules, folder = pickle.loads(data)
    sys.path[:] = path
    os.chdir(folder)
    pipe = _Pipe(receive, send)

    class Setup:
        pass

    setup: Any = Setup()
    setup.main_name, setup.main_file, setup.user_modules = main_name, main_file, user_modules
    pipe.loader = install(pipe, setup)
    while (task := pipe.next_task()) is not None:
        pipe.loader.settle()
        try:
            function_payload, payload = pickle.loads(task)
            function = pickle.loads(function_payload)
            args, kwargs = pickle.loads(payload)
            result = dumps(function(*args, **kwargs))
        except BaseException:
            _write(send, b"E", traceback.format_exc().encode())
        else:
            _write(send, b"R", result)
