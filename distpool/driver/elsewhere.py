"""What workers on other machines are told of this program, beside what every worker is told.

There the shell, the folders and the installed packages are others: most of this process' environment would do harm.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from distpool.node.machine import file_space
from distpool.wire.system_text import to_bytes

if TYPE_CHECKING:
    from distpool.driver.spec import PoolSpec

GPU_VARIABLE = "CUDA_VISIBLE_DEVICES"
#: What one worker may print; what exceeds it for long is dropped and counted.
OUTPUT_BYTES_PER_S = 1 << 20


def elsewhere(environment: dict[str, str], spec: PoolSpec) -> dict[str, Any]:
    """Fields of ``Setup``.

    :param environment: of this program, with what the pool's own adds.
    """
    return {
        "file_space": file_space(),
        "carried": _carried(environment, spec),
        "versions": _versions(),
        "output_bytes_per_s": OUTPUT_BYTES_PER_S,
    }


def _carried(environment: dict[str, str], spec: PoolSpec) -> tuple[bytes, ...]:
    """Names of the variables that the program set itself, that the pool has, and that the user asked for."""
    asked_for = {name.strip() for name in environment.get("DISTPOOL_ENVIRONMENT", "").split(",")}
    names = {GPU_VARIABLE, *(spec.environment or {}), *(asked_for & environment.keys())}
    inherited = _inherited()
    if inherited is not None:
        names |= {name for name, value in environment.items() if inherited.get(name) != value}
    return tuple(map(to_bytes, sorted(names - {"DISTPOOL_TOKEN", "DISTPOOL_TOKEN_FILE"})))


def _inherited() -> dict[str, str] | None:
    """The environment with which this process began; None where the system does not tell."""
    try:
        with open("/proc/self/environ", "rb") as file:
            entries = file.read().split(b"\0")
    except OSError:
        return None
    pairs = [os.fsdecode(entry).partition("=") for entry in entries if entry]
    return {name: value for name, _, value in pairs}


def _versions() -> dict[str, str]:
    """Of the packages that are loaded."""
    found = {}
    for name, module in list(sys.modules.items()):
        if "." in name or name in sys.stdlib_module_names or name == "distpool":
            continue
        version = getattr(module, "__dict__", {}).get("__version__")
        if isinstance(version, str):
            found[name] = version
    return found
