"""Programs with a store that is too small for what they move, and what ``distpool.memory()`` says about them."""

from __future__ import annotations

import fcntl
import os

from tests.support.resources import settle

STREAM = """
import os, sys
import numpy as np
import distpool.multiprocessing as multiprocessing
from distpool.store import current

def make(i):
    return np.full(1 << 20, i, float)

def sizes(folder):
    found = {}
    for entry in os.scandir(folder):
        try:
            found[entry.name] = entry.stat().st_blocks * 512
        except FileNotFoundError:
            pass
    return found

with multiprocessing.Pool(2) as pool:
    store = None
    most = 0
    for i, array in enumerate(pool.imap(make, range(60))):
        assert array[7] == i and array[-1] == i
        store = store or current.store_of_this_process()
        # What is made while one looks would count beside what went meanwhile: what is so twice was so at one moment.
        used = sizes(store.folder)
        if used == sizes(store.folder):
            most = max(most, sum(used.values()))
    results = pool.map(make, range(20), chunksize=1)
    assert [array[3] for array in results] == list(range(20))
print(i + 1, most <= 64e6 or most)
"""


def test_a_stream_larger_than_the_budget(run_script, monkeypatch):
    monkeypatch.setenv("DISTPOOL_STORE_BYTES", "64e6")
    assert run_script(STREAM).split() == ["60", "True"]


SETTINGS = """
import os, sys
import numpy as np
import distpool

def make(i):
    return np.full(1 << 20, i, float)

folder = sys.argv[1]
distpool.init(store_bytes=40e6, spill_uri=folder)
try:
    distpool.init(store_bytes=1e6)
except RuntimeError as error:
    assert "before the first call, or after shutdown()" in str(error)
kept = [distpool.put(make(i)) for i in range(10)]
report = distpool.memory()
assert report.budget_bytes == 40_000_000, report
assert {found.where for found in report.objects} == {"memory", "disk"}, report
[ours] = os.listdir(folder)
assert os.stat(os.path.join(folder, ours)).st_mode & 0o777 == 0o700
for name in os.listdir(os.path.join(folder, ours)):
    assert os.stat(os.path.join(folder, ours, name)).st_mode & 0o777 == 0o600, name
with distpool.DistExecutor(1) as executor:
    assert [int(executor.submit(lambda a: a[5], ref).result()) for ref in kept] == list(range(10))
if "die" in sys.argv:
    os.kill(os.getpid(), 9)
distpool.shutdown()
assert os.listdir(folder) == []
for address, name, value in ("127.0.0.1:1", "store_bytes", 1e6), (None, "spill_uri", "/nowhere"):
    try:
        distpool.init(address, **{name: value})
    except ValueError as error:
        print(type(error).__name__)
distpool.init(store_bytes=30e6)
print(distpool.memory().budget_bytes)
"""


def test_settings_given_to_init(run_script, tmp_path):
    folder = tmp_path / "big"
    folder.mkdir()
    assert run_script(SETTINGS, str(folder)).split() == ["ValueError", "ValueError", "30000000"]


def test_a_killed_program_leaves_nothing_where_it_spilled_to(run_script, tmp_path):
    folder = tmp_path / "big"
    folder.mkdir()
    run_script(SETTINGS, str(folder), "die", status=-9)
    # The node sees the end of its program, and tidies up.
    assert settle(lambda: os.listdir(folder), 20) == []


AFTER_ITS_WORKER = """
import os, time
import numpy as np
import distpool

with distpool.DistExecutor(1) as executor:
    array = executor.submit(np.ones, 1_000_000).result()
deadline = time.monotonic() + 20
while not (report := distpool.memory()).orphaned_bytes and time.monotonic() < deadline:
    time.sleep(0.01)
[found] = report.objects
print(found.size_bytes, found.where)
"""


def test_a_result_whose_worker_has_ended_has_a_size(run_script):
    assert run_script(AFTER_ITS_WORKER).split() == ["8000000", "memory"]


def test_what_a_power_cut_left_is_swept_by_the_next_program(run_script, tmp_path):
    folder = tmp_path / "big"
    (dead := folder / f"distpool-{os.getuid()}-00000001").mkdir(parents=True)
    (dead / ".owner").touch()
    (dead / "w-1.1").write_bytes(b"x" * 1000)
    (foreign := folder / "something").mkdir()
    (living := folder / f"distpool-{os.getuid()}-00000002").mkdir()
    with open(living / ".owner", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        run_script("import distpool, sys; distpool.init(spill_uri=sys.argv[1]); distpool.shutdown()", str(folder))
        assert sorted(os.listdir(folder)) == sorted([foreign.name, living.name])


REFERENCES = """
import gc
import time
import numpy as np
import distpool
from distpool.store import current

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
    # What other processes no longer need, they say when they have said what is more urgent.
    deadline = time.monotonic() + 20
    while len((report := distpool.memory()).objects) != 4 and time.monotonic() < deadline:
        time.sleep(0.01)
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
while (left := current.store_of_this_process().describe().objects) and time.monotonic() < deadline:
    time.sleep(0.01)
print(len(left))
"""


def test_references_in_a_program(run_script):
    assert run_script(REFERENCES).split() == ["raised", "0"]
