"""Facts about the machine and the software that numbers cannot be read without."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
import time
from pathlib import Path

PACKAGES = (
    "distpool", "joblib", "mpire", "ray", "distributed", "ipyparallel", "parsl",
    "numpy", "scikit-learn", "pyzmq", "cloudpickle", "msgspec", "pyarrow",
)  # fmt: skip


def facts() -> dict[str, str]:
    """What stands at the head of every report."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    shm = os.statvfs("/dev/shm")
    return {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "processor": processor(),
        "cores": f"{len(os.sched_getaffinity(0))} usable of {os.cpu_count()}",
        "memory": f"{memory / 2**30:.1f} GiB, /dev/shm {shm.f_blocks * shm.f_frsize / 2**30:.1f} GiB",
        "system": f"{platform.system()} {platform.release()}, {platform.libc_ver()[0]} {platform.libc_ver()[1]}",
        "python": f"{platform.python_implementation()} {platform.python_version()} ({platform.python_compiler()})",
        "revision": revision(),
        "packages": ", ".join(f"{name} {version(name)}" for name in PACKAGES if version(name)),
    }


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def version(package: str) -> str:
    """Installed version, or an empty string."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def revision() -> str:
    """The commit that was measured, read without needing git."""
    folder = Path(__file__).resolve().parent.parent / ".git"
    try:
        head = (folder / "HEAD").read_text().strip()
        if not head.startswith("ref: "):
            return head[:12]
        name = head.removeprefix("ref: ")
        loose = folder / name
        if loose.is_file():
            return loose.read_text().strip()[:12]
        for line in (folder / "packed-refs").read_text().splitlines():
            if line.endswith(f" {name}"):
                return line[:12]
    except OSError:
        pass
    return "unknown"


if __name__ == "__main__":
    for key, value in facts().items():
        sys.stdout.write(f"{key:10} {value}\n")
