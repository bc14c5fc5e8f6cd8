"""Submodules of ``multiprocessing`` under our package's name: the standard modules themselves, not copies, so that
classes, exceptions and module state are the same however a program imports them."""

from __future__ import annotations

import importlib
import sys

TYPE_CHECKING = False  # as in ``distpool``
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

# Neither class derives from those of ``importlib.abc``: that module loads ``tempfile`` and all that this needs.


class _Finder:
    """Comes last on ``sys.meta_path``, so that modules of our own win."""

    def __init__(self, package: str) -> None:
        self._prefix = f"{package}."

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec of a standard submodule under our name."""
        if not fullname.startswith(self._prefix):
            return None
        standard = f"multiprocessing.{fullname[len(self._prefix) :]}"
        from importlib.machinery import ModuleSpec
        from importlib.util import find_spec

        if find_spec(standard) is None:
            return None
        return ModuleSpec(fullname, _Loader(standard))  # type: ignore[arg-type]


class _Loader:
    def __init__(self, standard: str) -> None:
        self._standard = standard

    def create_module(self, spec: ModuleSpec) -> None:
        """Part of the import protocol: a module as usual."""

    def exec_module(self, module: ModuleType) -> None:
        """Put the standard module in the place of the new one (the import system looks there again)."""
        standard = importlib.import_module(self._standard)
        sys.modules[module.__name__] = standard
        # The import system would look for the submodules of a package (``dummy``) in its folder, and find copies.
        from pkgutil import iter_modules

        for info in iter_modules(getattr(standard, "__path__", [])):
            sys.modules[f"{module.__name__}.{info.name}"] = importlib.import_module(f"{self._standard}.{info.name}")


def install(package: str) -> None:
    """Make ``import <package>.<standard submodule>`` work."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder(package))


def find(package: str, name: str) -> ModuleType | None:
    """The submodule ``name``, or None when neither we nor the standard library have one."""
    try:
        return importlib.import_module(f"{package}.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"{package}.{name}":
            raise
        return None
