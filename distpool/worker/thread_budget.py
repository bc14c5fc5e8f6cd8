"""The worker's share of the cores, told to numeric libraries: by environment variables to those that will be loaded, by
calls to those that the zygote has loaded already.
"""

from __future__ import annotations

import os
import sys

#: Variables that libraries read when they are loaded; those that the user's environment has are left alone.
VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMBA_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)

#: Those that this process has set, and not the user.
own: set[str] = set()

#: Part of a library's file name, its variable, and the functions of which it exports one.
_SETTERS = (
    (
        "openblas",
        "OPENBLAS_NUM_THREADS",
        (
            "scipy_openblas_set_num_threads64_",
            "scipy_openblas_set_num_threads",
            "openblas_set_num_threads64_",
            "openblas_set_num_threads",
        ),
    ),
    ("libmkl_rt", "MKL_NUM_THREADS", ("MKL_Set_Num_Threads",)),
    ("libblis", "BLIS_NUM_THREADS", ("bli_thread_set_num_threads",)),
    ("libgomp", "OMP_NUM_THREADS", ("omp_set_num_threads",)),
    ("libomp", "OMP_NUM_THREADS", ("omp_set_num_threads",)),
    ("libiomp", "OMP_NUM_THREADS", ("omp_set_num_threads",)),
)

#: The libraries that the zygote has loaded; None: not looked for.
_loaded: list[str] | None = None


def note_libraries() -> None:
    """Find out once, in the zygote, which numeric libraries there are for all workers to limit."""
    global _loaded
    _loaded = _loaded_libraries()


def limit_threads(count: int) -> None:
    """Give numeric libraries ``count`` threads (0: as many as they like), unless the user's environment says otherwise.

    ``os.environ`` is the user's already.
    """
    if count <= 0:
        return
    explicit = {name: os.environ[name] for name in VARIABLES if name in os.environ}
    for name in VARIABLES:
        if name not in explicit:
            # OpenMP's variable is what most libraries fall back on: it speaks for those that are not named.
            os.environ[name] = explicit.get("OMP_NUM_THREADS", str(count))
            own.add(name)
    for path in _loaded_libraries() if _loaded is None else _loaded:
        _limit_library(path)


def _limit_library(path: str) -> None:
    import ctypes

    file_name = os.path.basename(path)
    for part, variable, functions in _SETTERS:
        if part not in file_name:
            continue
        try:
            threads = int(os.environ[variable].split(",")[0])
            # Only libraries that are there: never load one into the process.
            library = ctypes.CDLL(path, mode=getattr(os, "RTLD_NOLOAD", 0) | os.RTLD_NOW)
        except (ValueError, OSError):
            continue
        for name in functions:
            function = getattr(library, name, None)
            if function is not None:
                function(ctypes.c_int(threads))
                break


def _loaded_libraries() -> list[str]:
    if "numpy" not in sys.modules and "torch" not in sys.modules:
        return []
    try:
        with open("/proc/self/maps") as maps:
            paths = {line.split(maxsplit=5)[5].rstrip() for line in maps if ".so" in line}
    except (OSError, IndexError):
        return []
    return sorted(path for path in paths if any(part in os.path.basename(path) for part, _, _ in _SETTERS))
