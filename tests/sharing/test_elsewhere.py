"""What is found by name on one machine only says so on another."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from multiprocessing import managers, resource_tracker, shared_memory
from typing import Any

import pytest

from distpool.sharing import elsewhere, reach

pytestmark = pytest.mark.leaks("descriptors", "processes")  # the resource tracker stays


@pytest.fixture(scope="module", autouse=True)
def _no_tracker_afterwards() -> Iterator[None]:
    yield
    resource_tracker._resource_tracker._stop()  # type: ignore[attr-defined]


@pytest.fixture
def on_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(address: str) -> socket.socket:
        raise ConnectionRefusedError(address)

    monkeypatch.setattr(reach, "_ask", ask)
    monkeypatch.setattr(shared_memory.SharedMemory, "__init__", shared_memory.SharedMemory.__init__)
    elsewhere.explain_shared_memory()
    elsewhere.explain_shared_memory()  # of the next program that the worker serves


def test_shared_memory_that_is_not_here(on_a_cluster: None) -> None:
    for opened in (
        lambda: shared_memory.SharedMemory("psm_nobody"),
        lambda: shared_memory.SharedMemory(name="psm_nobody", create=False, size=5),
        lambda: shared_memory.ShareableList(name="psm_nobody"),
    ):
        with pytest.raises(FileNotFoundError, match=r"on another machine.*'psm_nobody'") as caught:
            opened()
        assert str(caught.value).count("on another machine") == 1


def test_shared_memory_that_is_here(on_a_cluster: None) -> None:
    block = shared_memory.SharedMemory(create=True, size=10)
    try:
        again = shared_memory.SharedMemory(block.name)
        again.buf[0] = 7
        assert block.buf[0] == 7
        again.close()
    finally:
        block.close()
        block.unlink()


def _error(action: Any) -> BaseException:
    try:
        action()
    except OSError as error:
        return error
    raise AssertionError("it must fail")


def test_what_a_program_is_told_of_a_result_that_names_what_is_elsewhere() -> None:
    manager = _error(lambda: managers.BaseManager("/tmp/pymp-nobody/listener", b"key").connect())
    assert "Start the manager in the program" in elsewhere.hint(manager)
    memory = _error(lambda: shared_memory.SharedMemory("psm_nobody"))
    assert "Pass the array or bytes" in elsewhere.hint(memory)
    assert elsewhere.hint(_error(lambda: open("/nobody/here"))) == ""
    assert elsewhere.hint(ValueError("anything")) == ""
