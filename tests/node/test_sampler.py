"""What the agent sees of memory, on machines made of files and on this one."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from distpool.errors import ConnectError
from distpool.node.config import memory_policy
from distpool.node.memory_core import Kind, Sample
from distpool.node.memory_policy import MemoryPolicy
from distpool.node.sampler import Sampler, private_bytes

GB = 1 << 30


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


MACHINE = {
    "proc/meminfo": "MemTotal:       8388608 kB\nMemFree:         100 kB\nMemAvailable:    4194304 kB\n",
    "proc/pressure/memory": "some avg10=5.00 avg60=0 avg300=0 total=1\nfull avg10=25.00 avg60=0 avg300=0 total=1\n",
    "proc/vmstat": "nr_free_pages 1\noom_kill 3\n",
}


def test_the_machine(tmp_path: Path) -> None:
    sampler = Sampler(MemoryPolicy(), write(tmp_path, MACHINE))
    sample = sampler.look({}, False)
    assert sample.kinds == (Kind("the machine", 8 * GB, 4 * GB),)
    assert sample.stalled == 0.25


@pytest.mark.parametrize(
    ("groups", "files"),
    [
        (
            "0::/a/b\n",
            {
                "sys/fs/cgroup/cgroup.controllers": "memory",
                "sys/fs/cgroup/a/memory.max": str(2 * GB),
                "sys/fs/cgroup/a/memory.current": str(GB),
                "sys/fs/cgroup/a/memory.stat": f"anon 1\ninactive_file {GB // 2}\n",
                "sys/fs/cgroup/a/memory.events": "oom 1\noom_kill 2\n",
                "sys/fs/cgroup/a/b/memory.max": "max",
            },
        ),
        (
            "4:memory:/a\n",
            {
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
                "sys/fs/cgroup/memory/a/memory.limit_in_bytes": str(2 * GB),
                "sys/fs/cgroup/memory/a/memory.usage_in_bytes": str(GB),
                "sys/fs/cgroup/memory/a/memory.stat": f"total_inactive_file {GB // 2}\n",
                "sys/fs/cgroup/memory/a/memory.oom_control": "under_oom 0\noom_kill 2\n",
            },
        ),
    ],
    ids=["version 2", "version 1"],
)
def test_a_control_group_with_a_limit(tmp_path: Path, groups: str, files: dict[str, str]) -> None:
    sampler = Sampler(MemoryPolicy(), write(tmp_path, {**MACHINE, "proc/self/cgroup": groups, **files}))
    assert sampler.look({}, False).kinds[1:] == (Kind("the control group a", 2 * GB, 2 * GB - GB // 2),)
    assert sampler.kernel_kills() == 0
    events = next(name for name in files if name.endswith(("events", "oom_control")))
    write(tmp_path, {events: "oom 9\noom_kill 3\n"})
    assert sampler.kernel_kills() == 1
    write(tmp_path, {"proc/vmstat": "nr_free_pages 1\noom_kill 4\noom_kill_x 7\n"})
    assert sampler.kernel_kills() == 1, "the machine counts the same one"
    assert sampler.look({}, False).kernel_kills == 1


def test_where_nothing_can_be_read(tmp_path: Path) -> None:
    sample = Sampler(MemoryPolicy(), tmp_path).look({"w": 1}, True)
    assert sample == Sample((), {"w": 0}, 0.0, (), 0)


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs Linux's /proc")
def test_private_memory_of_this_process() -> None:
    before = private_bytes(os.getpid())
    with mmap.mmap(-1, 64 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as private:
        private.write(bytes(64 << 20))
        assert 60 << 20 < private_bytes(os.getpid()) - before < 200 << 20
    before = private_bytes(os.getpid())
    with mmap.mmap(-1, 64 << 20, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS) as shared:
        shared.write(b"x" * (64 << 20))
        assert private_bytes(os.getpid()) - before < 40 << 20, "what is shared would not come back"
    policy = MemoryPolicy(limit_bytes=GB)
    sample = Sampler(policy).look({"w": os.getpid()}, True)
    assert sample.kinds[-1].left_bytes == GB - sample.workers["w"]
    assert len(sample.consumers) <= 5
    assert any("process " in line for line in sample.consumers)


def test_settings() -> None:
    assert memory_policy({}) == MemoryPolicy()
    told = {"DISTPOOL_MEMORY_LIMIT_BYTES": "2e9", "DISTPOOL_MEMORY_RESERVE": "0.1"}
    assert memory_policy(told) == MemoryPolicy(2_000_000_000, 0.1)
    for name, value in (
        ("DISTPOOL_MEMORY_LIMIT_BYTES", "many"),
        ("DISTPOOL_MEMORY_LIMIT_BYTES", "-1"),
        ("DISTPOOL_MEMORY_LIMIT_BYTES", "inf"),
        ("DISTPOOL_MEMORY_RESERVE", "1.5"),
        ("DISTPOOL_MEMORY_RESERVE", "nan"),
    ):
        with pytest.raises(ConnectError, match=name):
            memory_policy({name: value})


FAMILY = """
import os
from distpool.node.memory_policy import MemoryPolicy
from distpool.node.sampler import Sampler, private_bytes
inherited = b"x" * (48 << 20)
read, write = os.pipe()
held, hold = os.pipe()
child = os.fork()
if not child:
    os.close(hold)
    if not os.fork():
        own = b"y" * (64 << 20)
        os.write(write, b"!")
    os.read(held, 1)  # until the end
    os._exit(0)
os.close(held)
os.read(read, 1)
sampler = Sampler(MemoryPolicy())
for _ in range(2):
    print((sampler.look({"w": os.getpid()}, False).workers["w"] - private_bytes(os.getpid())) >> 20)
os.close(hold)
os.waitpid(child, 0)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="processes are looked at on Linux only")
def test_what_a_worker_has_started_counts_and_what_it_shares_counts_once(run_script: Callable[..., str]) -> None:
    for size_mib in run_script(FAMILY).split():
        assert 64 <= int(size_mib) < 84
