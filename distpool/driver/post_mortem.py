"""How a worker ended, in words: what its driver makes of the agent's report and of what the worker said last."""

from __future__ import annotations

import itertools
import signal

from distpool.driver.state import WorkerExit

#: What ``faulthandler`` writes before a report, and before the stack of the thread that met the fault.
_REPORT = "Fatal Python error: "
_CULPRIT = "Current thread "
#: Below this frame of a worker's stack there is nothing of the user's.
_OURS = "/distpool/worker/runner.py"
_FRAME = '  File "'
#: The most lines of a stack, and of standard error, that are shown.
_LINES = 40

_ADVICE = {
    -signal.SIGKILL: "if nobody killed it, the machine was out of memory: run fewer tasks at once (num_cpus=..., "
    "max_workers=...), or say what each needs (memory_bytes=...)",
    -signal.SIGSEGV: "the fault is in native code, or a recursion went too deep for the C stack; call the function by "
    "itself, in the program, to look into it",
    -signal.SIGBUS: "look at the room in /dev/shm, and at files that were mapped and then cut",
    0: "something that the task called ended the process: os._exit, or exit() in native code",
}

_ADVICE_ON_MEMORY = {
    "node": "let fewer such tasks run at once: say what each needs (distpool.options(memory_bytes=...)), or that it "
    "takes more of the pool (num_cpus=...); or give it smaller pieces of work",
    "task": "give it more with distpool.options(memory_bytes=...), or smaller pieces of work",
}


def describe(exit: WorkerExit) -> str:
    """Process, node, signal or exit code, likely cause, peak memory, the Python stack at death as far as the system let
    ``faulthandler`` write it, the last lines of standard error, and what to do."""
    where = f" on node {exit.node}" if exit.node else ""
    parts = [f"process {exit.pid}{where}: {exit.reason or _how(exit.exit_code)}"]
    if exit.peak_rss_bytes:
        parts.append(f"peak memory {exit.peak_rss_bytes / 2**20:.0f} MiB")
    text = "; ".join(parts)
    advice = _ADVICE_ON_MEMORY[exit.shortage] if exit.shortage else _ADVICE.get(min(0, exit.exit_code))
    if advice and not (exit.lost or exit.presumed):
        text += f"\nWhat to do: {advice}"
    report, words = split_report(exit.stderr_tail)
    if report:
        text += f"\nPython stack at death (most recent call first):\n{report}"
    if words:
        text += f"\nLast lines of its standard error:\n{words}"
    return text


def split_report(tail: str) -> tuple[str, str]:
    """Of what a worker wrote last: the stack of the thread that died, and everything that is no crash report.

    Frames of ours at the bottom are left out; lines that repeat are counted.
    """
    words, found, report = tail.rpartition(_REPORT)
    if not found:
        # The report of a deep stack is longer than what is kept: its beginning is lost.
        lines = tail.splitlines()
        frames = [line for line in lines if line.startswith(_FRAME)]
        if len(frames) < 10:
            return "", _last(lines)
        return _stack(frames), _last([line for line in lines[1:] if not line.startswith(_FRAME)])
    _, _, culprit = report.partition(_CULPRIT)
    frames = list(itertools.takewhile(lambda line: line.startswith("  "), culprit.splitlines()[1:]))
    return _stack(frames), _last(words.splitlines())


def _stack(frames: list[str]) -> str:
    lines: list[str] = []
    for frame, same in itertools.groupby(itertools.takewhile(lambda frame: _OURS not in frame, frames)):
        lines.append(frame)
        again = len(list(same)) - 1
        if again:
            lines.append(f"  [the same {again} more times]")
    if len(lines) > _LINES:
        lines[_LINES // 2 : -_LINES // 2] = ["  ..."]
    return "\n".join(lines)


def _last(lines: list[str]) -> str:
    return "\n".join(lines[-_LINES:]).strip("\n")


def _how(exit_code: int) -> str:
    if exit_code >= 0:
        return f"the worker ended with exit code {exit_code}"
    try:
        return f"the worker was killed by {signal.Signals(-exit_code).name}"
    except ValueError:
        return f"the worker was killed by signal {-exit_code}"
