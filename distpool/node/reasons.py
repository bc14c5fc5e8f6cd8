"""The end of a worker in words."""

from __future__ import annotations

#: By number, since the core that reports does not ask the system it runs on; these are the same on all Linux machines.
_SIGNALS = {
    1: ("SIGHUP", ""),
    2: ("SIGINT", "interrupted"),
    3: ("SIGQUIT", ""),
    4: ("SIGILL", "illegal instruction; a library may have been built for another processor"),
    6: ("SIGABRT", "it called abort(), usually a failed check in native code"),
    7: ("SIGBUS", "bus error; a mapped file may have shrunk, or shared memory is full"),
    8: ("SIGFPE", "arithmetic error in native code"),
    9: ("SIGKILL", "killed from outside; when memory is short that is the kernel's doing"),
    11: ("SIGSEGV", "segmentation fault in native code, or the stack overflowed"),
    13: ("SIGPIPE", ""),
    14: ("SIGALRM", ""),
    15: ("SIGTERM", "asked to end from outside"),
    24: ("SIGXCPU", "its limit of processor time was reached"),
    25: ("SIGXFSZ", "its limit of file size was reached"),
    31: ("SIGSYS", "a system call that is forbidden here"),
}


def describe_exit(exit_code: int, *, started: bool) -> str:
    """Why a worker that nobody had asked to end has ended."""
    when = "" if started else " before it was ready"
    if exit_code >= 0:
        return f"the worker ended with exit code {exit_code}{when}"
    name, meaning = _SIGNALS.get(-exit_code, (f"signal {-exit_code}", ""))
    text = f"the worker was ended by {name}{when}"
    if meaning:
        text += f" ({meaning})"
    return text
