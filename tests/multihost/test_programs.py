"""Whole programs, unchanged, on three hosts; the program itself runs on a fourth, which is no node, alone has the
project's files, and which nobody can call."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator

import pytest

from tests.multihost.hosts import Host, Lan, Laptop, cluster, missing

if missing():
    pytest.skip(f"no hosts of their own: {missing()}", allow_module_level=True)

# The nodes replace their spare workers between tests; at the end of the module all must be gone.
pytestmark = [pytest.mark.watchdog(240), pytest.mark.leaks("processes", "descriptors")]

_HELPER = """
import socket
seen = []
def where(x):
    return socket.gethostname(), x, len(seen)
"""


@pytest.fixture(scope="module")
def both() -> Iterator[tuple[Lan, Laptop]]:
    with cluster("alpha", "beta", "gamma") as (lan, laptop):
        laptop.host.write("/tmp/project/helper.py", _HELPER)
        yield lan, laptop


@pytest.fixture
def lan(both: tuple[Lan, Laptop]) -> Lan:
    return both[0]


@pytest.fixture
def laptop(both: tuple[Lan, Laptop]) -> Host:
    return both[1].host


def run(host: Host, source: str, *, status: int = 0, **environment: str) -> str:
    host.write("/tmp/project/program.py", source)
    environment = {"DISTPOOL_ADDRESS": "/tmp/cluster.token", **environment}
    return host.run(sys.executable, "/tmp/project/program.py", env=environment, status=status)


def results(output: str) -> list[object]:
    """What a program printed by itself, line by line."""
    return [ast.literal_eval(line) for line in output.splitlines() if not re.match(r"\[\w+ \d+\] ", line)]


def test_an_executor_uses_all_hosts_and_the_module_state_travels(laptop: Host) -> None:
    program = """
import distpool, helper
from distpool import DistExecutor
helper.seen.append("set by the program")

def there(x):
    import time
    time.sleep(0.05)
    return helper.where(x)

if __name__ == "__main__":
    print(distpool.cpu_count())
    with DistExecutor() as executor:
        found = list(executor.map(there, range(60)))
    print(sorted({host for host, _, _ in found}))
    print([[x for _, x, _ in found] == list(range(60)), *map(len, {(count,) for _, _, count in found}), found[0][2]])
"""
    assert results(run(laptop, program)) == [6, ["alpha", "beta", "gamma"], [True, 1, 1]]


def test_a_pool_and_joblib_use_all_of_it(laptop: Host) -> None:
    program = """
import helper
from distpool.multiprocessing import Pool, cpu_count
import distpool.joblib
from joblib import Parallel, delayed
import numpy as np

if __name__ == "__main__":
    print(cpu_count())
    with Pool() as pool:
        print(len(pool._pool))
        print(pool.map(abs, range(-5, 0)))
        print(sorted({host for host, _, _ in pool.map(helper.where, range(200), chunksize=1)}))
        large = np.arange(400_000.0)
        print([float(x) for x in pool.map(np.sum, [large] * 3)] == [float(large.sum())] * 3)
    print(len(Parallel(n_jobs=-1, backend="distpool")(delayed(helper.where)(i) for i in range(30))))
"""
    out = results(run(laptop, program))
    assert out[:3] == [6, 6, [5, 4, 3, 2, 1]]
    assert out[4:] == [True, 30]
    assert set(out[3]) <= {"alpha", "beta", "gamma"}  # type: ignore[call-overload]


def test_the_laptop_cannot_be_called(lan: Lan, laptop: Host) -> None:
    """Or the other tests would show less than they say."""
    code = f"import socket; socket.create_connection(({laptop.address!r}, 47000), 5)"
    assert "Connection refused" not in lan.hosts[0].run(sys.executable, "-c", code, status=1)


def test_nothing_listens_where_the_program_runs(laptop: Host) -> None:
    program = """
from distpool import DistExecutor

def listening():
    with open("/proc/net/tcp") as four, open("/proc/net/tcp6") as six:
        return [line.split()[1] for line in [*four, *six] if line.split()[3] == "0A"]

if __name__ == "__main__":
    with DistExecutor(2) as executor:
        executor.submit(abs, 1).result()
        print(listening())
"""
    assert results(run(laptop, program)) == [[]]


def test_nested_work_crosses_hosts(laptop: Host) -> None:
    program = """
from distpool import DistExecutor

def inner(x):
    return x + 1

def outer(x):
    with DistExecutor(2) as executor:
        return sum(executor.map(inner, range(x)))

if __name__ == "__main__":
    with DistExecutor(3) as executor:
        print(list(executor.map(outer, [1, 2, 3])))
"""
    assert results(run(laptop, program)) == [[1, 3, 6]]


def test_pools_that_follow_each_other_find_their_workers_at_the_same_ports(laptop: Host) -> None:
    program = """
from distpool import DistExecutor

if __name__ == "__main__":
    for _ in range(6):
        with DistExecutor(4) as executor:
            print(sum(executor.map(abs, range(20))))
"""
    assert results(run(laptop, program)) == [190] * 6


def test_large_values_cross_hosts(laptop: Host) -> None:
    program = """
import numpy as np
import distpool
from distpool import DistExecutor

def make(n):
    return np.ones(n)

if __name__ == "__main__":
    with DistExecutor(3) as executor:
        made = executor.submit(make, 1_000_000)
        print(float(executor.submit(np.sum, made).result()))
        ref = distpool.put(np.arange(500_000))
        print(int(executor.submit(np.max, ref).result()))
        print(float(made.result()[0]))
"""
    assert results(run(laptop, program)) == [1000000.0, 499999, 1.0]


def test_output_is_labelled_and_whole(laptop: Host) -> None:
    program = """
from distpool import DistExecutor
import sys

def talk(x):
    print("begin", x, end=" ")
    print("end", x)
    print("no end", file=sys.stderr, end="")

if __name__ == "__main__":
    with DistExecutor(6) as executor:
        list(executor.map(talk, range(12)))
"""
    lines = run(laptop, program).splitlines()
    texts = sorted(line.partition("] ")[2] for line in lines)
    assert texts == sorted([f"begin {x} end {x}" for x in range(12)] + ["no end"] * 12)
    assert {line[1:].split()[0] for line in lines} <= {"alpha", "beta", "gamma"}


def test_a_flood_is_limited_and_counted(laptop: Host) -> None:
    program = """
from distpool import DistExecutor
LINES = 200_000

def flood():
    for number in range(LINES):
        print("x" * 100)

if __name__ == "__main__":
    with DistExecutor(1) as executor:
        executor.submit(flood).result()
"""
    lines = run(laptop, program).splitlines()
    shown = sum("xxx" in line for line in lines)
    dropped = sum(int(line.split("distpool: ")[1].split()[0]) for line in lines if "lines dropped" in line)
    assert shown + dropped == 200_000


def test_a_package_that_the_node_lacks_is_named_with_both_sides(laptop: Host) -> None:
    laptop.write("/tmp/site-packages/onlyhere.py", "__version__ = '1.2'\ndef f():\n    return 1\n")
    program = """
import sys
sys.path.append("/tmp/site-packages")
import onlyhere
from distpool import DistExecutor

if __name__ == "__main__":
    with DistExecutor(1) as executor:
        try:
            executor.submit(onlyhere.f).result()
        except Exception as error:
            print(repr(str(error)))
"""
    (message,) = results(run(laptop, program))
    assert isinstance(message, str)
    assert "No module named 'onlyhere' on " in message
    assert "the program has onlyhere 1.2 installed" in message


def test_the_environment_is_the_nodes_but_for_what_the_program_set_or_asks_for(laptop: Host) -> None:
    program = """
import os
os.environ["SET_BY_PROGRAM"] = "1"
from distpool import DistExecutor

def look():
    names = ("SET_BY_PROGRAM", "SET_BY_SHELL", "ASKED_FOR", "DISTPOOL_TOKEN")
    return [os.environ.get(name) for name in names], os.getcwd()

if __name__ == "__main__":
    with DistExecutor(1) as executor:
        print(executor.submit(look).result())
"""
    output = run(
        laptop,
        program,
        SET_BY_SHELL="1",
        ASKED_FOR="yes",
        DISTPOOL_ENVIRONMENT="ASKED_FOR",
        DISTPOOL_WORKING_DIRECTORY="/dev/shm",
    )
    assert results(output) == [(["1", None, "yes", None], "/dev/shm")]


def test_on_the_head_the_cluster_is_found_by_any_address_of_its_own(lan: Lan) -> None:
    program = "import distpool\nprint(distpool.cpu_count())\n"
    for address in ("127.0.0.1:47000", "localhost:47000", "10.77.0.1:47000"):
        out = lan.hosts[0].run(sys.executable, "-c", program, env={"DISTPOOL_ADDRESS": address})
        assert out == "6\n", address


def test_all_is_given_back(lan: Lan, laptop: Host) -> None:
    run(laptop, "from distpool import DistExecutor\nwith DistExecutor() as e:\n    print(e.submit(abs, -1).result())\n")
    status = lan.hosts[0].distpool("status")
    assert "0 of 6 CPUs in use" in status
    assert "PROGRAM" not in status


def test_what_a_program_that_is_killed_held_is_given_back(lan: Lan, laptop: Host) -> None:
    """Nobody on the cluster can watch its process; its connection tells."""
    laptop.write(
        "/tmp/project/program.py",
        "import os, signal, time\nfrom distpool import DistExecutor\nif __name__ == '__main__':\n"
        "    executor = DistExecutor()\n    executor.submit(abs, 1).result()\n    executor.submit(time.sleep, 1000)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n",
    )
    environment = {"DISTPOOL_ADDRESS": "/tmp/cluster.token"}
    laptop.run(sys.executable, "/tmp/project/program.py", env=environment, status=None)
    while "0 of 6 CPUs in use" not in lan.hosts[0].distpool("status"):
        pass


def test_a_program_that_keeps_the_interpreter_busy_is_not_given_up(laptop: Host) -> None:
    """Longer than the scheduler would wait for a word; the interpreter's lock is held all the time."""
    program = """
import ctypes
from distpool import DistExecutor

if __name__ == "__main__":
    with DistExecutor(1) as executor:
        first = executor.submit(__import__("os").getpid).result()
        ctypes.PyDLL(None).usleep(5_600_000)
        print(executor.submit(__import__("os").getpid).result() == first)
"""
    assert results(run(laptop, program)) == [True]


def test_a_key_of_another_cluster_opens_nothing(lan: Lan, laptop: Host) -> None:
    from distpool.wire.security import Token, new_secret

    laptop.write("/tmp/other.token", Token("10.77.0.1:47000", new_secret()).line())
    output = laptop.distpool("start", "--join", "--token-file", "/tmp/other.token", status=1)
    assert "another key" in output
    while not (refused := lan.hosts[0].run("sh", "-c", "cat /tmp/state/distpool/logs/*").count("did not authenticate")):
        pass  # the head says so in its own time
    assert refused == 1


def test_a_done_callback_may_read_a_result_that_is_elsewhere(laptop: Host) -> None:
    """It runs in the thread that hears the scheduler, which must be asked where the result is."""
    program = """
import threading
from distpool import DistExecutor

def large(x):
    return bytes([x]) * 1_000_000

if __name__ == "__main__":
    read, done = [], threading.Semaphore(0)
    def on_done(future):
        read.append(future.result()[0])
        done.release()
    with DistExecutor() as executor:
        for x in range(12):
            executor.submit(large, x).add_done_callback(on_done)
        for _ in range(12):
            assert done.acquire(timeout=30)
    print(sorted(read))
"""
    assert results(run(laptop, program)) == [list(range(12))]


def test_a_manager_of_the_program_is_reached_from_all_hosts(laptop: Host) -> None:
    """Shared state as programs have always had it: the manager's process is where the program is."""
    program = """
import distpool.multiprocessing as multiprocessing, socket
from multiprocessing.managers import BaseManager

class Account:
    def __init__(self): self.total = 0
    def add(self, amount): self.total += amount; return self.total
    def twice(self, data): return data + data

class Manager(BaseManager): pass
Manager.register("Account", Account)

def work(account, seen, queue, amount):
    seen[amount] = socket.gethostname()
    queue.put(amount)
    account.add(amount)

def twice(account):
    return len(account.twice(bytes(3_000_000)))

if __name__ == "__main__":
    with Manager() as accounts, multiprocessing.Manager() as things:
        account, seen, queue = accounts.Account(), things.dict(), things.Queue()
        with multiprocessing.Pool() as pool:
            pool.starmap(work, [(account, seen, queue, amount) for amount in range(60)], chunksize=1)
            print(account.add(0))
            print(sorted(set(seen.values())))
            print(sorted(queue.get() for _ in range(60)) == list(range(60)))
            print(pool.map(twice, [account] * 2))
"""
    assert results(run(laptop, program)) == [1770, ["alpha", "beta", "gamma"], True, [6_000_000] * 2]


def test_a_manager_reaches_nested_work(laptop: Host) -> None:
    program = """
from distpool import DistExecutor
import multiprocessing

def inner(seen, x):
    seen.append(x)

def outer(seen, x):
    with DistExecutor(3) as executor:
        list(executor.map(inner, [seen] * x, range(x)))

if __name__ == "__main__":
    with multiprocessing.Manager() as manager:
        seen = manager.list()
        with DistExecutor(3) as executor:
            list(executor.map(outer, [seen] * 3, [4, 5, 6]))
        print(sorted(seen))
"""
    assert results(run(laptop, program)) == [sorted([*range(4), *range(5), *range(6)])]


def test_locks_queues_and_pipes_of_the_program_work_on_all_hosts(laptop: Host) -> None:
    program = """
import distpool.multiprocessing as multiprocessing, socket
things = None

def keep(*args):
    global things
    things = args

def produce(x):
    queue, joinable, simple, lock, semaphore, event, end = things
    with lock, semaphore:
        queue.put((x, socket.gethostname()))
    joinable.put(x)
    simple.put(x)
    return event.wait(30)

def consume(_):
    return things[0].get(timeout=30)

def send(size):
    things[-1].send_bytes(bytes(size))

def run(context):
    here, there = context.Pipe()
    queue, joinable, simple = context.Queue(), context.JoinableQueue(), context.SimpleQueue()
    event = context.Event()
    arguments = (queue, joinable, simple, context.Lock(), context.BoundedSemaphore(2), event, there)
    with multiprocessing.Pool(6, keep, arguments) as pool:
        waiting = pool.map_async(produce, range(30), chunksize=1)
        event.set()
        print(all(waiting.get(30)))
        came = [queue.get(timeout=30) for _ in range(30)]
        print([sorted(x for x, _ in came) == list(range(30)), sorted({host for _, host in came})])
        print(sorted(simple.get() for _ in range(30)) == list(range(30)))
        for _ in range(30):
            joinable.get()
            joinable.task_done()
        joinable.join()
        for x in range(12):
            queue.put(x)
        print(sorted(pool.map(consume, range(12), chunksize=1)) == list(range(12)))
        sent = pool.apply_async(send, (3_000_000,))
        print(len(here.recv_bytes()))
        sent.get(30)

if __name__ == "__main__":
    run(multiprocessing)
    run(multiprocessing.get_context("spawn"))
"""
    once = [True, [True, ["alpha", "beta", "gamma"]], True, True, 3_000_000]
    assert results(run(laptop, program)) == once * 2


def test_a_process_that_a_task_forks_is_told_what_it_cannot_reach(laptop: Host) -> None:
    program = """
from distpool import DistExecutor
import distpool.multiprocessing as multiprocessing, os
things = None

def keep(*args):
    global things
    things = args

def attempt(use):
    try:
        return repr(use())
    except Exception as error:
        return f"{type(error).__name__}: {error}"

def fork(_):
    seen, lock, queue = things
    seen.append("task")
    with lock:
        pass  # there is a connection, and a thread behind it, when the process forks
    read, write = os.pipe()
    child = os.fork()
    if not child:
        found = [attempt(lock.acquire), attempt(lambda: queue.put(1))]
        os.write(write, repr(found).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as found:
        text = found.read()
    os.waitpid(child, 0)
    with lock:
        queue.put(2)  # goes on in the task
    return text

if __name__ == "__main__":
    with multiprocessing.Manager() as manager:
        seen, lock, queue = manager.list(), multiprocessing.Lock(), multiprocessing.Queue()
        with multiprocessing.Pool(1, keep, (seen, lock, queue)) as pool:
            found = eval(pool.apply(fork, (0,)))
            print([error.startswith("RuntimeError: locks, queues and managers of the program are") for error in found])
            print([list(seen), queue.get(timeout=30)])
"""
    assert results(run(laptop, program)) == [[True, True], [["task"], 2]]


def test_a_manager_that_has_ended_is_named(laptop: Host) -> None:
    program = """
from distpool import DistExecutor
import multiprocessing

if __name__ == "__main__":
    with multiprocessing.Manager() as manager, DistExecutor(1) as executor:
        seen = manager.list()
        executor.submit(seen.append, 1).result()
        manager.shutdown()
        try:
            executor.submit(seen.append, 1).result()
        except Exception as error:
            print(["the manager or listener at" in str(error), "it has ended" in str(error)])
"""
    assert results(run(laptop, program)) == [[True, True]]


def test_what_is_found_by_name_on_one_machine_only_says_so_on_another(laptop: Host) -> None:
    program = """
from distpool import DistExecutor
from multiprocessing import Manager, managers
from multiprocessing.shared_memory import ShareableList, SharedMemory

kept = []

def attach(name):
    return SharedMemory(name).size

def attach_list(name):
    return len(ShareableList(name=name))

def attached(block):
    return block.size

def proxy():
    kept.append(Manager())
    return kept[0].list([1])

def block():
    kept.append(SharedMemory(create=True, size=10))
    return kept[-1]

if __name__ == "__main__":
    mine = SharedMemory(create=True, size=10)
    errors = []
    with DistExecutor(1) as executor:
        for function, *args in (attach, mine.name), (attach_list, mine.name), (attached, mine), (proxy,), (block,):
            errors.append(executor.submit(function, *args).exception())
    mine.close()
    mine.unlink()
    print([isinstance(error, FileNotFoundError) for error in errors])
    print(["on another machine" in str(error) and "Pass the array" in str(error) for error in errors])
    print("Start the manager in the program" in str(errors[3]))
"""
    assert results(run(laptop, program)) == [
        [True, True, False, False, False],
        [True, True, True, False, True],
        True,
    ]


def test_locks_work_from_all_hosts(laptop: Host) -> None:
    """Of each kind: in shared memory, with a name, and reached through their owner."""
    program = """
import multiprocessing
from distpool.multiprocessing import Condition, Event, Lock, Manager, Pool

def begin(*given):
    globals()["given"] = given

def count(seen, all_there):
    in_memory, named, owned, started, condition = given
    started.wait()
    all_there.wait()  # with six workers: on each host
    with in_memory, named, owned, condition:
        seen["count"] = seen.get("count", 0) + 1

if __name__ == "__main__":
    started = Event()
    locks = Lock(), multiprocessing.get_context("spawn").Lock(), multiprocessing.Lock(), started, Condition()
    with Manager() as manager, Pool(6, begin, locks) as pool:
        seen, all_there = manager.dict(), manager.Barrier(6)
        calls = pool.starmap_async(count, [(seen, all_there)] * 18, chunksize=1)
        started.set()
        calls.get()
        print(seen["count"])
"""
    assert results(run(laptop, program)) == [18]


def test_what_cannot_leave_its_machine_says_what_to_take_instead(laptop: Host) -> None:
    program = """
import distpool.joblib, numpy
from distpool.multiprocessing import Pool, Value
from joblib import Parallel, delayed

def begin(value):
    value.value += 1

if __name__ == "__main__":
    array = numpy.memmap("/tmp/mapped", mode="w+", shape=10)
    for call in (
        lambda: Pool(1, begin, (Value("i"),)).apply(abs, (1,)),
        lambda: Parallel(2, backend="distpool")([delayed(numpy.sum)(array)]),
    ):
        try:
            call()
        except Exception as error:
            print(repr(str(error)))
"""
    shared, mapped = map(str, results(run(laptop, program)))
    assert "lives in the memory of the machine where the program runs" in shared
    assert "multiprocessing.Manager().Value()" in shared
    assert "'/tmp/mapped'" in mapped
    assert "keep it in a folder that the machines share" in mapped
