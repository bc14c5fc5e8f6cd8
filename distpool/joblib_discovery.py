"""How joblib finds the backend ``"distpool"`` by its name alone.

joblib looks names up in two dictionaries of ``joblib.parallel``.  What is entered there loads ``distpool.joblib``
when the backend is first asked for.  If joblib has not been imported yet, the entry waits for that: importing it here
would cost every program that does not use it.
"""

from __future__ import annotations

from distpool.on_import import wait_for

TYPE_CHECKING = False  # as in ``distpool``
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any

NAME = "distpool"


def announce(joblib_parallel: ModuleType | None) -> None:
    """Enter the backend into ``joblib.parallel``, or as soon as that is imported."""
    if joblib_parallel is None or not hasattr(joblib_parallel, "EXTERNAL_BACKENDS"):
        wait_for("joblib.parallel", announce)
        return
    joblib_parallel.EXTERNAL_BACKENDS.setdefault(NAME, _register)
    # ``Parallel(backend=...)`` looks only here.
    joblib_parallel.BACKENDS.setdefault(NAME, _make_backend)


def _register() -> None:
    import distpool.joblib  # noqa: F401 - registers on import


def _make_backend(**arguments: Any) -> Any:
    from distpool.joblib import DistpoolBackend

    return DistpoolBackend(**arguments)
