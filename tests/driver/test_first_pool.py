"""What happens before the first pool's node is started, and what its processes load: the whole of a cold start."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from distpool.worker.main import LOADED_LATER

_BEFORE_THE_NODE = """
import os, sys
def posix_spawn(*arguments, **options):
    print(*sorted(sys.modules))
    sys.stdout.flush()
    os._exit(0)
os.posix_spawn = posix_spawn
{opening}
"""
_OPENINGS = {
    "executor": "from distpool import DistExecutor\nDistExecutor(1).submit(abs, -1)",
    "pool": "from distpool.multiprocessing import Pool\nPool(1)",
}


def run(program: str) -> list[str]:
    # What the interpreter is told has to be told the node's, and takes a library to find out.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=120, check=True, env=environment)
    return done.stdout.split()


@pytest.mark.parametrize("door", _OPENINGS)
def test_the_node_is_started_before_anything_large_is_loaded(door: str) -> None:
    loaded = run(_BEFORE_THE_NODE.format(opening=_OPENINGS[door]))
    assert "distpool.node.spawn" in loaded
    assert not {"msgspec", "zmq", "cloudpickle", "concurrent.futures.process", "distpool.driver.session"} & set(loaded)
    if door == "pool":
        assert not {"typing", "logging", "concurrent.futures", "multiprocessing", "threading"} & set(loaded)


#: Each takes milliseconds to import, or brings others that do; nobody needs them for a first result.
_NOT_NEEDED = {
    *("asyncio", "cloudpickle", "dataclasses", "inspect", "ipaddress", "pathlib", "shutil", "ssl", "tempfile"),
    *("urllib.parse", "distpool.code.by_value", "distpool.wire.security", "distpool.driver.site", "distpool.provision"),
}
_WITH_MSGSPEC = """
import sys
from distpool.on_import import import_msgspec
import_msgspec()
import {modules}
print(*sys.modules)
"""
_FIRST_RESULT = """
import sys
import distpool, distpool.multiprocessing
def work(number: int) -> int:
    return number + 1
if __name__ == "__main__":
    with distpool.{door}(1) as pool:
        print({call}, *sys.modules)
"""


@pytest.mark.skipif(sys.version_info[:2] not in ((3, 11), (3, 12)), reason="libraries load more with other Pythons")
@pytest.mark.parametrize(
    "program",
    [
        _FIRST_RESULT.format(door="DistExecutor", call="pool.submit(work, 1).result()"),
        _FIRST_RESULT.format(door="multiprocessing.Pool", call="pool.apply(work, (1,))"),
        _WITH_MSGSPEC.format(modules="distpool.node.process, distpool.node.agent, distpool.scheduler.server"),
        _WITH_MSGSPEC.format(modules="distpool.node.process, distpool.store.service, distpool.worker.main"),
    ],
    ids=["executor", "pool", "node", "worker"],
)
def test_no_process_loads_for_a_first_result_what_that_does_not_need(program: str) -> None:
    libraries = run(_WITH_MSGSPEC.format(modules="zmq, logging, multiprocessing.util"))
    assert sorted(_NOT_NEEDED & set(run(program)) - set(libraries)) == []


def test_what_deals_with_shared_memory_is_loaded_when_something_is_kept_there() -> None:
    program = """
import sys
from distpool.multiprocessing import Pool
def loaded():
    return [name for name in ("distpool.store.room", "distpool.store.mapping", "ctypes") if name in sys.modules]
def work(data, more=b""):
    return data + more
if __name__ == "__main__":
    with Pool(1) as pool:
        small, after_small = pool.apply(work, (b"a",), {"more": b"b"}), loaded()
        large = pool.apply(work, (bytes(200_000),))
        print(small.decode(), *after_small, len(large), *loaded())
"""
    assert run(program) == ["ab", "200000", "distpool.store.room", "distpool.store.mapping", "ctypes"]


@pytest.mark.skipif(sys.version_info < (3, 11), reason="typing of Python 3.10 lacks what msgspec needs")
def test_workers_load_neither_what_msgspec_can_do_without_nor_cloudpickle_for_a_function() -> None:
    program = """
import sys
from distpool import DistExecutor
from distpool.worker.main import LOADED_LATER
def work():
    names = (LOADED_LATER[0], "typing_extensions", "cloudpickle", "msgspec")
    return [name for name in names if name in sys.modules]
def hints():
    import typing, msgspec, typing_extensions
    class Record(typing_extensions.TypedDict):
        name: typing_extensions.Required[str]
        size: typing_extensions.NotRequired[int]
    return msgspec.json.decode(b'{"name": "a"}', type=Record)["name"]
if __name__ == "__main__":
    with DistExecutor(1) as executor:
        print(*executor.submit(work).result(), executor.submit(hints).result())
"""
    # Where the machine is so busy that the zygote has begun to load what only some tasks need, that is there, too.
    words = next(words for _ in range(50) if LOADED_LATER[0] not in (words := run(program)))
    assert words == ["msgspec", "a"]


def test_a_node_that_no_pool_came_to_use_ends_with_shutdown() -> None:
    program = """
import os
from distpool.driver import ahead
import distpool
ahead.start_ahead()
pid = ahead._ahead.pid
os.kill(pid, 0)
distpool.shutdown()
try:
    os.kill(pid, 0)
except ProcessLookupError:
    print("gone")
"""
    assert run(program) == ["gone"]


def test_ctrl_c_while_the_node_starts_leaves_nothing_of_it() -> None:
    program = """
import os, threading
from distpool import DistExecutor
from distpool.node.launch import PrivateNode
DistExecutor(1).submit(abs, -1).result()
import distpool
distpool.shutdown()
descriptors, real = len(os.listdir("/proc/self/fd")), PrivateNode.wait_ready
def interrupted(node):
    global pid
    pid = node.pid
    raise KeyboardInterrupt
PrivateNode.wait_ready = interrupted
try:
    DistExecutor(1).submit(abs, -1)
except KeyboardInterrupt:
    print("interrupted")
try:
    os.kill(pid, 0)
except ProcessLookupError:
    print("gone", len(os.listdir("/proc/self/fd")) - descriptors, threading.active_count())
PrivateNode.wait_ready = real
print(DistExecutor(1).submit(abs, -2).result())
"""
    assert run(program) == ["interrupted", "gone", "0", "1", "2"]


def test_a_pool_and_its_results_are_the_standard_ones_as_soon_as_anybody_can_ask() -> None:
    program = """
import sys
import distpool.multiprocessing.pool
if __name__ == "__main__":
    with distpool.multiprocessing.Pool(1) as pool:
        one, many = pool.apply_async(abs, (-1,)), pool.map_async(abs, range(3))
        first, second = pool.imap(abs, [1]), pool.imap_unordered(abs, [1])
        one.get(), many.get(), list(first), list(second)
        print("multiprocessing.pool" in sys.modules)
        from multiprocessing import pool as standard
        print(isinstance(pool, standard.Pool), isinstance(one, standard.ApplyResult))
        print(isinstance(many, standard.MapResult))
        print(isinstance(first, standard.IMapIterator), isinstance(second, standard.IMapUnorderedIterator))
        print(distpool.multiprocessing.pool.ThreadPool is standard.ThreadPool, pool.apply(abs, (-2,)))
"""
    assert run(program) == ["False", *["True"] * 6, "2"]


def test_an_executor_is_the_standard_one_as_soon_as_anybody_can_ask() -> None:
    program = """
import sys
import distpool
class Derived(distpool.DistExecutor):
    pass
executor = Derived(1)
print("concurrent.futures.process" in sys.modules)
import concurrent.futures
standard = concurrent.futures.ProcessPoolExecutor
print(isinstance(executor, standard), issubclass(Derived, standard), executor._processes)
print(any(getattr(finder, "_name", "") == "concurrent.futures.process" for finder in sys.meta_path))
import concurrent.futures.process
print(type(concurrent.futures.process.__spec__.loader).__name__, concurrent.futures.process.__loader__ is
      concurrent.futures.process.__spec__.loader)
"""
    assert run(program) == ["False", "True", "True", "{}", "False", "SourceFileLoader", "True"]
