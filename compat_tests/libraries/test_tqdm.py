"""tqdm over ``imap``, and ``process_map``: passes an ``RLock`` of the default context in ``initargs``."""

from __future__ import annotations

from unittest import mock

from compat_tests.libraries.availability import require

tqdm = require("tqdm").tqdm
concurrent = require("tqdm.contrib.concurrent")


def square(x):
    return x * x


def test_imap_with_progress_bar(multiprocessing):
    with multiprocessing.Pool(2) as pool:
        results = list(tqdm(pool.imap(square, range(50), chunksize=5), total=50, disable=False))
    assert results == [square(i) for i in range(50)]


def test_imap_unordered_with_progress_bar(multiprocessing):
    with multiprocessing.Pool(2) as pool:
        results = list(tqdm(pool.imap_unordered(square, range(50)), total=50))
    assert sorted(results) == [square(i) for i in range(50)]


def test_process_map(executor_class):
    with mock.patch("concurrent.futures.ProcessPoolExecutor", executor_class):
        results = concurrent.process_map(square, range(50), max_workers=2, chunksize=3)
    assert results == [square(i) for i in range(50)]


def test_lock_of_tqdm_as_initializer_argument(executor_class, multiprocessing):
    # As tqdm's documentation has it; its own default lock has one for threads in it, which only a fork can inherit.
    tqdm.set_lock(multiprocessing.RLock())
    with executor_class(2, initializer=tqdm.set_lock, initargs=(tqdm.get_lock(),)) as executor:
        assert list(tqdm(executor.map(square, range(20)), total=20)) == [square(i) for i in range(20)]
