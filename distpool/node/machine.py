"""What this machine has, as far as this process may use it.

Files and environment come in as arguments with the real ones as defaults, so that tests can describe a machine.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import re
import socket
from collections.abc import Mapping

from distpool.errors import ConnectError

#: What batch systems say that a job may use on the node it runs on, the most specific first.
_ALLOCATIONS = (
    "SLURM_CPUS_ON_NODE",
    "SLURM_CPUS_PER_TASK",
    "NSLOTS",
    "PBS_NP",
    "LSB_DJOB_NUMPROC",
)

#: Of the file systems that are read.
_ROOT = ""


def cpu_count(environment: Mapping[str, str] = os.environ, root: str = _ROOT) -> int:
    """CPUs that this process may use: affinity, control group quota and batch allocation honoured; at least 1.

    :raises ConnectError: when ``DISTPOOL_NUM_CPUS`` means nothing.
    """
    wish = wished_cpus(environment)
    if wish:
        return wish  # somebody's explicit wish is no limit among others
    limits = [affinity(), _quota(root)]
    for name in _ALLOCATIONS:
        value = environment.get(name, "")
        if value.isdigit() and int(value):
            limits.append(int(value))
            break
    return max(1, math.ceil(min(limits)))


def wished_cpus(environment: Mapping[str, str] = os.environ) -> int:
    """What ``DISTPOOL_NUM_CPUS`` says; 0: nothing.

    :raises ConnectError: when it means nothing.
    """
    return whole_number("DISTPOOL_NUM_CPUS", environment) or 0


def whole_number(name: str, environment: Mapping[str, str] = os.environ) -> int | None:
    """A setting from the environment; None where it is not there, or empty.

    :raises ConnectError: when it is anything else than a whole number, 0 or more.
    """
    text = environment.get(name, "").strip()
    if text and not (text.isascii() and text.isdigit()):
        raise ConnectError(f"{name} must be a whole number, 0 or more, not {environment[name]!r}")
    return int(text) if text else None


def memory_size_bytes(root: str = _ROOT) -> int:
    """Memory that this process and its children may use: the machine's or the control group's."""
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        total = 1 << 62
    for folder in control_groups(root, ""):
        limit = _number(f"{folder}/memory.max")
        total = total if limit is None else min(total, int(limit))
    for folder in control_groups(root, "memory"):
        limit = _number(f"{folder}/memory.limit_in_bytes")
        total = total if limit is None else min(total, int(limit))
    return total


def idle_s(root: str = _ROOT) -> float | None:
    """For how many seconds this machine's CPUs, all together, have had nothing to do since it started (proc(5)); None
    where the system does not say."""
    with contextlib.suppress(OSError, ValueError):
        name, _, _, _, idle, waiting, *_ = read_text(f"{root}/proc/stat").split(None, 6)
        if name == "cpu":
            return (int(idle) + int(waiting)) / os.sysconf("SC_CLK_TCK")
    return None


def gpus(environment: Mapping[str, str] = os.environ, root: str = _ROOT) -> tuple[str, ...]:
    """GPUs that this process may use, as ``CUDA_VISIBLE_DEVICES`` names them.  No library of CUDA's is loaded.

    ``DISTPOOL_NUM_GPUS`` is somebody's explicit wish: as many, whatever is there.

    :raises ConnectError: when that means nothing.
    """
    wish = whole_number("DISTPOOL_NUM_GPUS", environment)
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        devices = [part.strip() for part in visible.split(",")]
        # CUDA itself stops reading at the first device that does not exist.
        names = tuple(devices[: _leading(devices)])
    else:
        names = tuple(str(number) for number in range(_visible_gpus(environment, root)))
    if wish is None or wish <= len(names):
        return names[:wish]
    return tuple(str(number) for number in range(wish))


def custom_resources(environment: Mapping[str, str] = os.environ) -> tuple[tuple[str, float], ...]:
    """What ``DISTPOOL_RESOURCES`` says that this machine has (``license=2,fast_disk=1``), as in ``Shape``.

    :raises ConnectError: when it cannot be understood.
    """
    try:
        return parse_resources(environment.get("DISTPOOL_RESOURCES", ""))
    except ValueError as error:
        raise ConnectError(f"DISTPOOL_RESOURCES: {error}") from error


def parse_resources(text: str) -> tuple[tuple[str, float], ...]:
    """Custom resources from ``name=amount,name=amount``.

    :raises ValueError: when it cannot be understood.
    """
    amounts: dict[str, float] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, amount = (piece.strip() for piece in part.partition("="))
        try:
            amounts[name] = float(amount)
        except ValueError:
            amounts[name] = math.nan
        if not name or not 0 <= amounts[name] < math.inf:
            raise ValueError(f"{part!r} is no resource: write name=amount, several separated by commas")
    return tuple(sorted(amounts.items()))


def read_text(path: str) -> str:
    """All of a file of the kernel's (``pathlib`` takes milliseconds to import, and every node would)."""
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()


def _visible_gpus(environment: Mapping[str, str], root: str) -> int:
    """Of a container the runtime decides what is visible; inside it they are numbered from 0."""
    counts = []
    try:
        counts.append(len(os.listdir(f"{root}/proc/driver/nvidia/gpus")))
    except OSError:
        pass
    try:
        counts.append(sum(1 for name in os.listdir(f"{root}/dev") if re.fullmatch(r"nvidia\d+", name)))
    except OSError:
        pass
    # The driver may tell of more than there are devices for here, and the other way round: both are needed.
    count = min(filter(None, counts), default=0)
    granted = environment.get("NVIDIA_VISIBLE_DEVICES", "").strip()
    if granted in ("void", "none"):
        return 0
    if granted and granted != "all":
        return min(count, len(granted.split(",")))
    return count


def address_towards(towards: str) -> str:
    """The address of the interface that leads to ``host:port``; nothing is sent."""
    host, _, port = towards.rpartition(":")
    try:
        family, kind, _, _, target = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.connect(target)
            return str(probe.getsockname()[0])
    except OSError:
        return "127.0.0.1"  # no network at all


def is_own_address(host: str) -> bool:
    """Whether ``host`` is a name or address of this machine, of whichever of its interfaces."""
    try:
        found = socket.getaddrinfo(host.strip("[]"), 0, type=socket.SOCK_DGRAM)
    except OSError:
        return False
    for family, kind, _, _, address in found:
        with contextlib.suppress(OSError), socket.socket(family, kind) as probe:
            probe.bind(address)  # which the kernel refuses for others
            return True
    return False


def process_space(root: str = _ROOT) -> str:
    """Processes of which this is the same can watch each other: a process id means the same to both."""
    return f"{_boot(root)}/{_namespace(root, 'pid')}"


def file_space(root: str = _ROOT) -> str:
    """Processes of which this is the same see the same files: one machine, outside of any container or inside the
    same."""
    return f"{_boot(root)}/{_namespace(root, 'mnt')}"


@functools.cache
def _boot(root: str) -> str:
    try:
        return read_text(f"{root}/proc/sys/kernel/random/boot_id").strip()
    except OSError:
        return socket.gethostname()


def _namespace(root: str, kind: str) -> str:
    try:
        return os.readlink(f"{root}/proc/self/ns/{kind}")
    except OSError:
        return ""


def _leading(devices: list[str]) -> int:
    for count, device in enumerate(devices):
        if device in ("", "-1"):
            return count
    return len(devices)


def affinity() -> int:
    """On how many CPUs the scheduler of the system may put this process."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _quota(root: str) -> float:
    """The CPU quota of the control group and all above it."""
    least = math.inf
    for folder in control_groups(root, ""):
        try:
            quota, period = read_text(f"{folder}/cpu.max").split()[:2]
        except (OSError, ValueError):
            continue
        if quota != "max":
            least = min(least, int(quota) / int(period))
    for folder in control_groups(root, "cpu"):
        quota_us = _number(f"{folder}/cpu.cfs_quota_us")
        period_us = _number(f"{folder}/cpu.cfs_period_us")
        if quota_us is not None and period_us and quota_us > 0:
            least = min(least, quota_us / period_us)
    return least


def control_groups(root: str, controller: str) -> list[str]:
    """Folders of this process's group and those above; ``controller`` ``""`` means version 2."""
    try:
        lines = read_text(f"{root}/proc/self/cgroup").splitlines()
    except OSError:
        return []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(",") if controller else not controllers:
            base = f"{root}/sys/fs/cgroup"
            if controller:
                # Usually one folder or link per controller; "cpu,cpuacct" on some systems.
                folders = (f"{base}/{name}" for name in (controller, controllers))
                base = next(filter(os.path.isdir, folders), base)
            elif not os.path.exists(f"{base}/cgroup.controllers"):
                base += "/unified"
            names = [name for name in path.split("/") if name]
            # In a container the path may be the host's; then the mount itself is our group.
            if not os.path.isdir("/".join((base, *names))):
                return [base]
            return ["/".join((base, *names[:depth])) for depth in range(len(names), -1, -1)]
    return []


def _number(path: str) -> float | None:
    try:
        return float(read_text(path).strip())
    except (OSError, ValueError):
        return None  # absent, or "max"
