"""The owner's side of a semaphore when clients leave."""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import select
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from multiprocessing.synchronize import Semaphore

import pytest

from distpool.sharing import remote


class Client:
    """One connection to a semaphore, and the owner's thread at its other end."""

    def __init__(self, semaphore: Semaphore) -> None:
        self.connection, self._owners = socket.socketpair()
        self._semlock = semaphore._semlock  # type: ignore[attr-defined]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with self._owners, contextlib.suppress(OSError, EOFError):
            remote.serve(self._owners, self._semlock, mutex=False)

    def ask(self, operation: bytes) -> None:
        """Send a request without waiting for the answer."""
        self.connection.sendall(remote._REQUEST.pack(operation, True, math.nan))

    def answer(self) -> tuple[int, int]:
        """Of the owner."""
        error, value = remote._REPLY.unpack(self.connection.recv(remote._REPLY.size))
        return error, value

    def forgotten(self) -> None:
        """Wait until the owner is done with it."""
        self._thread.join()


@pytest.fixture
def semaphore() -> Semaphore:
    return multiprocessing.get_context("fork").BoundedSemaphore(1)


@pytest.fixture
def client(semaphore: Semaphore) -> Iterator[Client]:
    client = Client(semaphore)
    yield client
    client.connection.close()
    client.forgotten()


@pytest.mark.parametrize(
    "leave",
    [
        pytest.param(lambda connection: connection.close(), id="on this machine"),
        pytest.param(lambda connection: connection.shutdown(socket.SHUT_WR), id="through a relay"),
    ],
)
def test_who_hangs_up_while_it_waits_takes_nothing_along(
    semaphore: Semaphore, client: Client, leave: Callable[[socket.socket], None]
) -> None:
    semaphore.acquire()
    client.ask(remote._ACQUIRE)
    leave(client.connection)
    semaphore.release()
    client.forgotten()
    assert semaphore.acquire(block=False)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nobody learns that an answer was not read")
def test_who_hangs_up_before_it_reads_the_answer_takes_nothing_along(semaphore: Semaphore, client: Client) -> None:
    client.ask(remote._ACQUIRE)
    select.select([client.connection], [], [])
    client.connection.close()
    client.forgotten()
    assert semaphore.acquire(block=False)


def test_what_a_client_knows_that_it_has_stays_its_own(semaphore: Semaphore, client: Client) -> None:
    client.ask(remote._ACQUIRE)
    assert client.answer() == (0, 1)
    client.connection.close()
    client.forgotten()
    assert not semaphore.acquire(block=False)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nobody learns that an answer was not read")
def test_only_what_the_last_answer_gave_is_taken_back(semaphore: Semaphore, client: Client) -> None:
    client.ask(remote._ACQUIRE)
    assert client.answer() == (0, 1)
    client.ask(remote._VALUE)
    select.select([client.connection], [], [])
    client.connection.close()
    client.forgotten()
    assert not semaphore.acquire(block=False)
