"""The leak check must see each kind of thing that it is there for."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import uuid
from pathlib import Path

import pytest

from tests.support import resources


def test_a_process_is_seen_even_as_an_orphan() -> None:
    before = resources.look()
    # The inner process starts another and ends, so that nobody here is the other's parent.
    code = "import subprocess, sys; p = subprocess.Popen(['sleep', '600'], stdout=-3, stderr=-3); print(p.pid)"
    started = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    pid = int(started.stdout)
    try:
        growth = resources.look().growth(before)
    finally:
        os.kill(pid, 9)
    assert [line for line in growth if line.startswith(f"process {pid}: sleep 600")]
    assert resources.settle(lambda: resources.look().growth(before), 5.0) == []


def test_a_thread_and_a_descriptor_are_seen() -> None:
    before = resources.look()
    release = threading.Event()
    thread = threading.Thread(target=release.wait, name="left-behind")
    thread.start()
    read, write = os.pipe()
    try:
        growth = resources.look().growth(before)
    finally:
        release.set()
        thread.join()
        os.close(read)
        os.close(write)
    assert growth[0] == "thread left-behind"
    assert growth[1].startswith("2 more open descriptors")
    assert resources.look().growth(before) == []


@pytest.mark.skipif(not os.path.exists("/proc/self/pagemap"), reason="this system has no such file")
@pytest.mark.fresh_session
def test_descriptors_that_a_store_opens_some_time_and_keeps_are_no_leak_and_more_of_them_are() -> None:
    before = resources.look()
    opened = [os.open("/proc/self/pagemap", os.O_RDONLY) for _ in range(2)]
    try:
        assert resources.look().growth(before) == []
        opened.append(os.open("/proc/self/pagemap", os.O_RDONLY))
        assert resources.look().growth(before)[0].startswith("1 more open descriptors")
    finally:
        for descriptor in opened:
            os.close(descriptor)


def test_what_a_node_leaves_in_shared_memory_is_seen_also_when_its_folder_is_gone() -> None:
    before = resources.look()
    name = f"distpool-test-{uuid.uuid4().hex}"
    folder, memory = Path(tempfile.gettempdir()) / name, resources.SHARED_MEMORY / name
    folder.mkdir()
    memory.touch()
    try:
        assert f"temporary {folder}" in resources.look().growth(before)
        folder.rmdir()
        assert resources.look().growth(before) == [f"shared memory {memory}"]
    finally:
        memory.unlink()


def test_what_other_runs_leave_is_not_ours() -> None:
    before = resources.look()
    memory = resources.SHARED_MEMORY / f"distpool-test-{uuid.uuid4().hex}"
    memory.touch()
    try:
        assert resources.look().growth(before) == []
    finally:
        memory.unlink()
