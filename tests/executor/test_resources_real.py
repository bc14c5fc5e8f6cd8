"""Resources of calls on a real node, which is told what it has."""

from __future__ import annotations

import subprocess
from typing import Any

GPUS = """
import os, threading, time
import distpool
from distpool import DistExecutor

def visible(gate=None):
    if gate:
        with open(gate + ".in", "w"):
            pass
        with open(gate):
            pass
    return os.environ.get("CUDA_VISIBLE_DEVICES")

gates = [os.path.join(os.environ["TMPDIR"], f"gate{number}") for number in range(2)]
for gate in gates:
    os.mkfifo(gate)
    os.mkfifo(gate + ".in")
with DistExecutor(4) as executor:
    print("none asked for:", executor.submit(visible).result())
    gpu = executor.with_options(num_gpus=1)
    futures = [gpu.submit(visible, gate) for gate in gates]
    for gate in gates:
        with open(gate + ".in"):  # both run at the same time
            pass
    waiting = gpu.submit(visible)
    for gate in gates:
        with open(gate, "w"):
            pass
    print("one each:", sorted(future.result() for future in futures))
    print("afterwards:", waiting.result() in ("0", "1"))
    with distpool.options(num_gpus=2):
        print("both:", executor.submit(visible).result())
    with distpool.options(num_gpus=0.5):
        print("halves:", set(executor.map(lambda _: visible(), range(20))) <= {"0", "1"})
    try:
        gpu.with_options(num_gpus=3).submit(visible).result()
    except distpool.InfeasibleError as error:
        print(error)
"""


def test_calls_see_the_gpus_that_they_asked_for(run_script: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("DISTPOOL_NUM_GPUS", "2")
    monkeypatch.setenv("DISTPOOL_NUM_CPUS", "4")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    lines = run_script(GPUS).splitlines()
    assert lines[:5] == [
        "none asked for: None",
        "one each: ['0', '1']",
        "afterwards: True",
        "both: 0,1",
        "halves: True",
    ]
    assert "no node has 1 CPU, 3 GPUs, even when idle; the cluster has 1 node with 4 CPUs, 2 GPUs" in lines[5]


CUSTOM = """
import threading
import distpool
from distpool import DistExecutor

lock = threading.Lock()

def work(_):
    # One license: never two at the same time, in whatever process.
    import fcntl, os
    with open(os.path.join(os.environ["TMPDIR"], "lock"), "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.getpid()

with DistExecutor(4) as executor:
    licensed = executor.with_options(resources={"license": 1}, num_cpus=0.5)
    print(len(list(licensed.map(work, range(30)))))
    for options in ({"resources": {"license": 2}}, {"resources": {"gold": 1}}, {"memory_bytes": 1 << 60}):
        try:
            executor.with_options(**options).submit(print).result()
        except distpool.InfeasibleError as error:
            print("1 license" in str(error))
"""


def test_custom_resources_limit_what_runs_at_one_time(run_script: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("DISTPOOL_RESOURCES", "license=1")
    assert run_script(CUSTOM).split() == ["30", "True", "True", "True"]


def test_resources_that_cannot_be_understood(run_script: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("DISTPOOL_RESOURCES", "license")
    script = "import distpool\ntry:\n    distpool.init()\nexcept distpool.ConnectError as error:\n    print(error)"
    try:
        assert "name=amount" in run_script(script)
    except subprocess.CalledProcessError as error:
        raise AssertionError(error.stderr) from error
