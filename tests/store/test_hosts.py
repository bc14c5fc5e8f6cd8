"""The store on machines that are not what one expects: little shared memory, little of anything, or very much to store.

What takes minutes and up to 12 GB of memory runs only when asked:
``DISTPOOL_LARGE=1 python -m pytest tests/store/test_hosts.py``.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from distpool.store.client import ObjectStore

large = pytest.mark.skipif(not os.environ.get("DISTPOOL_LARGE"), reason="takes long: only with DISTPOOL_LARGE=1")

CONTAINER = """
import os, sys, warnings
import numpy as np
import distpool
from distpool.store import current

def make(i):
    return np.full(1_000_000, i, float)

with distpool.DistExecutor(2) as executor:
    big = np.arange(4_000_000)
    totals = [executor.submit(np.sum, big) for _ in range(4)]
    made = list(executor.map(make, range(20)))
    assert [future.result() for future in totals] == [big.sum()] * 4
    assert [array[3] for array in made] == list(range(20))
    folder = str(current.store_of_this_process().folder)
    print("folder", not folder.startswith("/dev/shm"))
print("left", os.listdir("/dev/shm"))
"""


@pytest.fixture
def in_container(tmp_path: Path):
    """Runs a program where shared memory has 64 MB, as Docker gives."""
    if os.geteuid() or subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode:
        pytest.skip("needs the right to make a mount namespace")
    script = tmp_path / "program.py"

    def run(source: str) -> subprocess.CompletedProcess[str]:
        script.write_text(source)
        inside = 'mount -t tmpfs -o size=64m none /dev/shm && exec "$@"'
        command = ["unshare", "--mount", "sh", "-c", inside, "sh", sys.executable, str(script)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        return subprocess.run(command, capture_output=True, text=True, timeout=50, env=environment)

    return run


def test_a_container_with_little_shared_memory(in_container):
    finished = in_container(CONTAINER)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.splitlines() == ["folder True", "left []"]
    assert finished.stderr.count("large values go through files in the temporary folder") == 1
    assert "--shm-size" in finished.stderr
    assert finished.stderr.count("Warning") == 1, finished.stderr


@large
@pytest.mark.watchdog(600)
def test_a_hundred_thousand_objects_of_100_kb():
    folder = Path(tempfile.mkdtemp(prefix="distpool-large-", dir="/dev/shm"))
    store = ObjectStore(folder, "d-large")
    try:
        base = np.arange(12_500)
        kept = [store.pack(base + i) for i in range(100_000)]
        assert len(os.listdir(folder)) < 2_000
        for i in range(0, 100_000, 997):
            assert (store.unpack(kept[i].value) == base + i).all()
        views = [store.unpack(packed.value) for packed in kept[::10]]
        assert all(view[0] == 10 * i for i, view in enumerate(views))
        del views, kept
        store.trim()
        assert store.backed_bytes == 0
    finally:
        store.close()
        folder.rmdir()


@large
@pytest.mark.watchdog(600)
def test_five_gigabytes_in_one_object(run_script):
    assert run_script(FIVE_GIGABYTES, timeout_s=500).split() == ["True", "True", "True"]


FIVE_GIGABYTES = """
import numpy as np
import distpool

SIZE = 5_000_000_000

def look(array):
    array[7] = 9
    return len(array), int(array[0]), int(array[7]), int(array[-1])

def make():
    array = np.zeros(SIZE, "u1")
    array[-1] = 4
    return array

def count(data):
    return len(data), data[-1]

distpool.init(store_bytes=6e9)
with distpool.DistExecutor(1) as executor:
    array = make()
    array[0] = 3
    print(executor.submit(look, array).result() == (SIZE, 3, 9, 4) and array[7] == 0)
    del array
    print(executor.submit(count, bytes(SIZE)).result() == (SIZE, 0))
    result = executor.submit(make).result()
    print(len(result) == SIZE and result[-1] == 4)
"""
