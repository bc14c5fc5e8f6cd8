"""How joblib finds the backend ``"distpool"`` by its name alone.

joblib looks names up in two dictionaries of ``joblib.parallel``.  What is entered there loads ``distpool.joblib``
when the backend is first asked for.  If joblib has not been imported yet, the entry waits for that: importing it here
would cost every program that does not use it.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

NAME = "distpool"


def announce(joblib_parallel: ModuleType | None) -> None:
    """Enter the backend into ``joblib.parallel``, or as soon as that is imported."""
    if joblib_parallel is None or not hasattr(joblib_parallel, "EXTERNAL_BACKENDS"):
        if not any(isinstance(finder, _WaitForJoblib) for finder in sys.meta_path):
            sys.meta_path.insert(0, _WaitForJoblib())
        return
    joblib_parallel.EXTERNAL_BACKENDS.setdefault(NAME, _register)
    # ``Parallel(backend=...)`` looks only here.
    joblib_parallel.BACKENDS.setdefault(NAME, _make_backend)


def _register() -> None:
    import distpool.joblib  # noqa: F401 - registers on import


def _make_backend(**arguments: Any) -> Any:
    from distpool.joblib import DistpoolBackend

    return DistpoolBackend(**arguments)


class _WaitForJoblib:
    """Sees the import of ``joblib.parallel``, steps aside, and adds the announcement to its end.

    A finder and a loader without their abstract base classes, whose import would take longer than all else here.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "joblib.parallel":
            return None
        sys.meta_path.remove(self)
        from importlib.util import find_spec

        spec = find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _Announcing(spec.loader)  # type: ignore[assignment]
        return spec


class _Announcing:
    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        module: ModuleType | None = self._loader.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        # From here on the module must look as if this class had never been there.
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        announce(module)
