"""Programs with a store that is too small for what they move, and what ``distpool.memory()`` says about them."""

from __future__ import annotations

STREAM = """
import os, sys
import numpy as np
import distpool.multiprocessing as multiprocessing
from distpool.store import client

def make(i):
    return np.full(1 << 20, i, float)

with multiprocessing.Pool(2) as pool:
    store = None
    most = 0
    for i, array in enumerate(pool.imap(make, range(60))):
        assert array[7] == i and array[-1] == i
        store = store or client.store_of_this_process()
        used = 0
        for entry in os.scandir(store.folder):
            try:
                used += entry.stat().st_blocks * 512
            except FileNotFoundError:
                pass
        most = max(most, used)
    results = pool.map(make, range(20), chunksize=1)
    assert [array[3] for array in results] == list(range(20))
print(i + 1, most <= 64e6)
"""


def test_a_stream_larger_than_the_budget(run_script, monkeypatch):
    monkeypatch.setenv("DISTPOOL_STORE_BYTES", "64e6")
    assert run_script(STREAM).split() == ["60", "True"]


REFERENCES = """
import gc
import time
import numpy as np
import distpool
from distpool.store import client

def total(array):
    return float(array.sum())

def make(n):
    return [distpool.put(np.full(100_000, i)) for i in range(n)]

stash = []

def keep(refs):
    stash.extend(refs)

def kept():
    return distpool.get(stash)[0][0]

def nested(n):
    with distpool.DistExecutor(1) as executor:
        return executor.submit(make, n).result()[0], executor.submit(np.full, 100_000, 5)

with distpool.DistExecutor(1) as executor:
    big = np.arange(1_000_000)
    ref = distpool.put(big)
    assert executor.submit(total, ref).result() == big.sum()
    future = executor.submit(total, [ref][0])
    ready, others = distpool.wait([ref, future], num_returns=2)
    assert ready == [ref, future] and not others
    [a, b] = executor.submit(make, 2).result()
    assert [int(array[0]) for array in distpool.get([a, b])] == [0, 1]
    outer = distpool.put([a, b, distpool.put(np.full(100_000, 8))])
    executor.submit(keep, outer).result()
    del a, b, outer
    gc.collect()
    assert executor.submit(kept).result() == 0
    report = distpool.memory()
    assert len(report.objects) == 4, report
    assert report.objects[0].size_bytes == 8_000_000 and report.objects[0].references == 1, report
    assert any("pinned by w-" in reason for found in report.objects[1:] for reason in found.reasons), report
    assert "8.0 MB" in str(report)
    x, y = executor.submit(nested, 1).result()
    assert (distpool.get(x)[0], y.result()[0]) == (0, 5)
    try:
        distpool.get(executor.submit(total, "x"), timeout_s=20)
    except AttributeError:
        print("raised")
    del ref, future, ready, x, y
gc.collect()
# The worker's pins end when word of its end has come.
deadline = time.monotonic() + 20
while (left := client.store_of_this_process().describe().objects) and time.monotonic() < deadline:
    time.sleep(0.01)
print(len(left))
"""


def test_references_in_a_program(run_script):
    assert run_script(REFERENCES).split() == ["raised", "0"]
