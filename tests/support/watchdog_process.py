"""The watchdog's own process: reads lines of JSON, and ends the process it watches when a time has run out.

Run as a script, with the process id, the mark and the temporary folder of the run.  The watched process gets SIGABRT,
on which ``faulthandler`` prints the stack of every thread, whatever the interpreter is doing; then SIGKILL.  What it
started is listed, with stacks where py-spy is installed, and ended too.  The folder is removed, however the run ended.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import resources

GRACE_S = 5.0


def main() -> None:
    watched = int(sys.argv[1])
    os.environ[resources.MARK] = sys.argv[2]
    folder = sys.argv[3]
    pending = b""
    label, deadline = "", None
    while True:
        timeout_s = None if deadline is None else max(0.0, deadline - time.monotonic())
        readable, _, _ = select.select([0], [], [], timeout_s)
        if not readable:
            end(watched, label)
            shutil.rmtree(folder, ignore_errors=True)
            return
        block = os.read(0, 65536)
        if not block:
            shutil.rmtree(folder, ignore_errors=True)
            return
        *lines, pending = (pending + block).split(b"\n")
        for line in lines:
            message = json.loads(line)
            label = message.get("label", "")
            deadline = time.monotonic() + message["seconds"] if message else None


def end(watched: int, label: str) -> None:
    say(f"\n=== watchdog: time is up for {label}")
    for pid, facts in relatives(watched).items():
        describe(pid, facts)
    say("=== watchdog: stacks of the test process")
    kill(watched, signal.SIGABRT)
    if not wait_until(lambda: not alive(watched)):
        kill(watched, signal.SIGKILL)
    wait_until(lambda: not relatives(watched))
    for pid, facts in relatives(watched).items():
        say(f"=== watchdog: still there after the test process had ended: {pid} {facts}")
        kill(pid, signal.SIGKILL)


def relatives(watched: int) -> dict[int, str]:
    """What the watched process started, by its mark, orphans too."""
    return {key[0]: facts for key, facts in resources.look(frozenset({watched})).processes.items()}


def describe(pid: int, facts: str) -> None:
    say(f"=== watchdog: process {pid} {facts}")
    spy = os.path.join(os.path.dirname(sys.executable), "py-spy")
    if os.path.exists(spy) and "python" in facts:
        try:
            dump = subprocess.run([spy, "dump", "--pid", str(pid)], capture_output=True, text=True, timeout=10)
        except subprocess.TimeoutExpired:
            return
        say(dump.stdout)


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] not in "XZ"
    except OSError:
        return False


def kill(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass  # it was faster


def wait_until(reached: Callable[[], bool]) -> bool:
    return not resources.settle(lambda: [] if reached() else ["not yet"], GRACE_S)


def say(text: str) -> None:
    os.write(2, text.encode(errors="replace") + b"\n")


if __name__ == "__main__":
    main()
