"""What a machine has, described by files."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distpool.errors import ConnectError
from distpool.node import machine


@pytest.fixture
def many_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "affinity", lambda: 64)


def _write(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


@pytest.mark.usefixtures("many_cpus")
@pytest.mark.parametrize(
    ("environment", "count"),
    [
        ({}, 64),
        ({"SLURM_CPUS_ON_NODE": "6"}, 6),
        ({"SLURM_CPUS_ON_NODE": "6", "NSLOTS": "3"}, 6),
        ({"NSLOTS": "3"}, 3),
        ({"SLURM_CPUS_ON_NODE": "128"}, 64),
        ({"SLURM_CPUS_ON_NODE": "many"}, 64),
        ({"DISTPOOL_NUM_CPUS": "100"}, 100),
        ({"DISTPOOL_NUM_CPUS": "0"}, 64),
    ],
)
def test_cpus_of_a_batch_allocation(tmp_path: Path, environment: dict[str, str], count: int) -> None:
    assert machine.cpu_count(environment, tmp_path) == count


@pytest.mark.parametrize(
    ("name", "ask"),
    [
        ("DISTPOOL_NUM_CPUS", machine.cpu_count),
        ("DISTPOOL_NUM_GPUS", machine.gpus),
        ("DISTPOOL_SPARE_WORKERS", lambda environment: machine.whole_number("DISTPOOL_SPARE_WORKERS", environment)),
        ("DISTPOOL_RESOURCES", machine.custom_resources),
    ],
)
@pytest.mark.parametrize("value", ["two", "-1", "1.5", "²"])
def test_a_setting_that_means_nothing_is_named(name: str, ask: Callable[[Any], object], value: str) -> None:
    with pytest.raises(ConnectError, match=f"{name}.*{re.escape(repr(value))}"):
        ask({name: value})


@pytest.mark.usefixtures("many_cpus")
@pytest.mark.parametrize(
    ("files", "count"),
    [
        ({"sys/fs/cgroup/job/cpu.max": "150000 100000"}, 2),
        ({"sys/fs/cgroup/job/cpu.max": "max 100000"}, 64),
        ({"sys/fs/cgroup/job/cpu.max": "max 100000", "sys/fs/cgroup/cpu.max": "300000 100000"}, 3),
        ({"sys/fs/cgroup/job/cpu.max": "1000 100000"}, 1),
        ({"sys/fs/cgroup/cpu.max": "200000 100000"}, 2),
    ],
)
def test_cpus_of_a_control_group(tmp_path: Path, files: dict[str, str], count: int) -> None:
    root = _write(tmp_path, {"proc/self/cgroup": "0::/job\n", "sys/fs/cgroup/cgroup.controllers": "", **files})
    assert machine.cpu_count({}, root) == count


@pytest.mark.usefixtures("many_cpus")
def test_cpus_and_memory_of_version_1_groups(tmp_path: Path) -> None:
    root = _write(
        tmp_path,
        {
            "proc/self/cgroup": "4:memory:/docker/x\n3:cpu,cpuacct:/docker/x\n0::/docker/x\n",
            # In a container the path is the host's, and the mount is the group itself.
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "250000\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "1048576\n",
        },
    )
    assert machine.cpu_count({}, root) == 3
    assert machine.memory_size_bytes(root) == 1048576


def test_how_long_cpus_were_idle_or_waited_for_a_disk(tmp_path: Path) -> None:
    assert machine.idle_s(str(tmp_path)) is None
    tick = os.sysconf("SC_CLK_TCK")
    _write(tmp_path, {"proc/stat": f"cpu  1 2 3 {7 * tick} {2 * tick} 6 7 8 9 10\ncpu0 1 2 3 4 5 6 7 8 9 10\n"})
    assert machine.idle_s(str(tmp_path)) == 9.0


def test_no_quota_without_files(tmp_path: Path) -> None:
    assert machine.cpu_count({}, tmp_path) == len(os.sched_getaffinity(0))
    assert machine.memory_size_bytes(tmp_path) > 2**20


@pytest.mark.parametrize(
    ("environment", "names"),
    [
        ({}, ("0", "1")),
        ({"CUDA_VISIBLE_DEVICES": ""}, ()),
        ({"CUDA_VISIBLE_DEVICES": "1"}, ("1",)),
        ({"CUDA_VISIBLE_DEVICES": "0,-1,1"}, ("0",)),
        ({"CUDA_VISIBLE_DEVICES": "GPU-4f, MIG-77"}, ("GPU-4f", "MIG-77")),
        ({"CUDA_VISIBLE_DEVICES": "3,5", "NVIDIA_VISIBLE_DEVICES": "3"}, ("3", "5")),
        ({"NVIDIA_VISIBLE_DEVICES": "all"}, ("0", "1")),
        ({"NVIDIA_VISIBLE_DEVICES": "GPU-4f"}, ("0",)),
        ({"NVIDIA_VISIBLE_DEVICES": "void"}, ()),
        ({"NVIDIA_VISIBLE_DEVICES": "none"}, ()),
        ({"DISTPOOL_NUM_GPUS": "1"}, ("0",)),
        ({"DISTPOOL_NUM_GPUS": "1", "CUDA_VISIBLE_DEVICES": "3,5"}, ("3",)),
        ({"DISTPOOL_NUM_GPUS": "4"}, ("0", "1", "2", "3")),
    ],
)
def test_gpus(tmp_path: Path, environment: dict[str, str], names: tuple[str, ...]) -> None:
    # The driver tells of three, this container has the devices of two.
    _write(tmp_path, {f"proc/driver/nvidia/gpus/0000:0{number}:00.0/information": "" for number in range(3)})
    _write(tmp_path, {"dev/nvidia0": "", "dev/nvidia1": "", "dev/nvidiactl": ""})
    assert machine.gpus(environment, tmp_path) == names


def test_no_gpus(tmp_path: Path) -> None:
    assert machine.gpus({}, tmp_path) == ()


def test_custom_resources() -> None:
    assert machine.custom_resources({}) == ()
    assert machine.custom_resources({"DISTPOOL_RESOURCES": "license=2, fast_disk=0.5"}) == (
        ("fast_disk", 0.5),
        ("license", 2.0),
    )


@pytest.mark.parametrize("text", ["license", "license=", "=1", "a=many", "a=-1", "a=nan", "a=inf"])
def test_custom_resources_that_make_no_sense(text: str) -> None:
    with pytest.raises(ConnectError, match="name=amount"):
        machine.custom_resources({"DISTPOOL_RESOURCES": text})
