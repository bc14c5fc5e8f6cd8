"""A notebook: cells in a real IPython kernel, which has a running event loop, its own output and its own Ctrl-C."""

from __future__ import annotations

# Runs the cells that follow it on standard input and prints what each gives.
FRONT_END = """
import os, sys, threading
from jupyter_client.manager import start_new_kernel

manager, client = start_new_kernel(kernel_name="python3", env=dict(os.environ))
interrupt = "INTERRUPT"

def show(message):
    kind, content = message["msg_type"], message["content"]
    if kind == "stream":
        for line in content["text"].splitlines():
            print(f"{content['name']}: {line}", flush=True)
            if line == interrupt:
                manager.interrupt_kernel()
    elif kind == "execute_result":
        print(f"= {content['data']['text/plain']}", flush=True)
    elif kind == "error":
        print(f"! {content['ename']}", flush=True)

try:
    for cell in open("cells.txt").read().split("---"):
        client.execute_interactive(cell, output_hook=show, timeout=40)
finally:
    client.stop_channels()
    manager.shutdown_kernel(now=False)
"""

CELLS = """
import time
from distpool import DistExecutor
import distpool.multiprocessing as multiprocessing
executor = DistExecutor(2)
---
FACTOR = 3
def scale(x):
    return x * FACTOR
class Point:
    def __init__(self, x):
        self.x = x
list(executor.map(scale, range(3)))
---
FACTOR = 4
executor.submit(scale, 2).result()
---
def scale(x):
    return -x
point = executor.submit(Point, 5).result()
isinstance(point, Point), point.x, executor.submit(scale, 2).result()
---
await executor.submit(scale, 9)
---
executor.submit(print, "a line from a worker").result()
---
def block(x):
    print("INTERRUPT")
    time.sleep(600)
list(executor.map(block, range(1)))
---
with multiprocessing.Pool(2) as pool:
    values = pool.map(scale, range(3))
values, executor.submit(scale, 1).result()
---
executor.shutdown()
"""


def test_cells(run_script, tmp_path) -> None:
    (tmp_path / "cells.txt").write_text(CELLS)
    assert run_script(FRONT_END).splitlines() == [
        "= [0, 3, 6]",
        "= 8",
        "= (True, 5, -2)",
        "= -9",
        "stdout: a line from a worker",
        "stdout: INTERRUPT",
        "! KeyboardInterrupt",
        "= ([0, -1, -2], -1)",
    ]
