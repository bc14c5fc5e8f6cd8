"""The worker's hook into imports: state of user modules after their import, and modules that only the driver has."""

from __future__ import annotations

import contextlib
import copy  # noqa: F401 - it tries to import a module of Jython's, for which the driver should not be asked
import importlib.machinery
import importlib.util
import os
import socket
import sys
import threading
import types
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, cast

from distpool.code import rebuild
from distpool.code.origins import is_user_file, is_user_module
from distpool.code.placeholder import Unavailable
from distpool.code.state import known_state, transplant

if TYPE_CHECKING:
    from distpool.code.loader import Loader


class DriverFinder:
    """First on ``sys.meta_path``, so that it sees what the others find; asks the driver when they find nothing.

    :param user_modules: names of modules that count as the user's wherever they lie.
    :param elsewhere: whether the driver's files are not here: the user's modules come from the driver, whatever is
        called the same here.
    """

    def __init__(self, loader: Loader, user_modules: Iterable[str], elsewhere: bool = False) -> None:
        self._loader = loader
        self._user_modules = frozenset(user_modules)
        self._elsewhere = elsewhere
        self._users_packages = {name.partition(".")[0] for name in self._user_modules} if elsewhere else set()
        self._refused: set[str] = set()
        self._thread = threading.local()
        #: Values that referred to modules which were still being imported; tried again when those are complete.
        self._postponed: list[tuple[types.ModuleType, str, Any]] = []

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Part of the import protocol."""
        if fullname.partition(".")[0] in self._users_packages:
            spec = self._ask(fullname)
            if spec is not None:
                return spec
        for finder in list(sys.meta_path):
            find_spec = getattr(finder, "find_spec", None)
            if finder is self or find_spec is None:
                continue
            spec = find_spec(fullname, path, target)
            if spec is not None:
                self._hook(spec)
                if fullname in rebuild.unresolved:
                    _announce(spec)
                return cast("importlib.machinery.ModuleSpec", spec)
        return self._ask(fullname)

    def invalidate_caches(self) -> None:
        """Part of the import protocol: the driver may have the module by now."""
        self._refused.clear()

    # -- state --------------------------------------------------------------------------------------------------------

    def _hook(self, spec: importlib.machinery.ModuleSpec) -> None:
        loader = spec.loader
        origin = spec.origin
        if loader is None or not isinstance(origin, str) or isinstance(loader, importlib.machinery.ExtensionFileLoader):
            return
        top = spec.name.partition(".")[0]
        if top in sys.stdlib_module_names or top == __name__.partition(".")[0]:
            return
        if not (spec.name in self._user_modules or is_user_file(origin)):
            return
        if not hasattr(loader, "exec_module") or hasattr(loader, "_distpool_hooked"):
            return
        execute = loader.exec_module

        def exec_module(module: types.ModuleType) -> None:
            depth = getattr(self._thread, "depth", 0)
            self._thread.depth = depth + 1
            try:
                execute(module)
                self._carry(module)
            finally:
                self._thread.depth = depth
            if not depth:
                self._retry()

        try:
            loader.exec_module = exec_module  # type: ignore[method-assign]
            loader._distpool_hooked = True  # type: ignore[attr-defined]
        except AttributeError:
            pass  # a loader without attributes of its own: its modules come as importing them gives them

    def _carry(self, module: types.ModuleType) -> None:
        if sys.modules.get(module.__name__) is not module:
            return
        if not (module.__name__ in self._user_modules or is_user_module(module)):
            return
        try:
            answer = self._loader.requester.fetch_definitions(module.__name__, [], known_state(module))
        except Exception as error:
            raise ImportError(f"the driver did not answer about the state of {module.__name__}") from error
        for name, reason in answer.unavailable:
            setattr(module, name, Unavailable(f"{name!r} of {module.__name__}", reason))
        for name, value in answer.entries:
            if not self._bind(module, name, value, last=False):
                self._postponed.append((module, name, value))

    def _bind(self, module: types.ModuleType, name: str, value: Any, *, last: bool) -> bool:
        try:
            made = self._loader.load(value)
        except Exception as error:
            if not last:
                return False
            reason = f"loading it here failed ({type(error).__name__}: {error})"
            made = Unavailable(f"{name!r} of {module.__name__}", reason)
        if name in module.__dict__:
            made = transplant(module.__dict__[name], made)
        module.__dict__[name] = made
        return True

    def _retry(self) -> None:
        postponed, self._postponed = self._postponed, []
        for module, name, value in postponed:
            self._bind(module, name, value, last=True)

    # -- modules of the driver only -----------------------------------------------------------------------------------

    def _ask(self, name: str) -> importlib.machinery.ModuleSpec | None:
        parent, _, _ = name.rpartition(".")
        if name in self._refused or name.partition(".")[0] in sys.stdlib_module_names:
            return None
        if parent:
            package = sys.modules.get(parent)
            # A missing part of an installed package is none of the driver's business.
            if not (isinstance(package, types.ModuleType) and (_is_from_driver(package) or is_user_module(package))):
                return None
        try:
            answer = self._loader.requester.fetch_module(name)
        except Exception:
            return None
        if not answer.found:
            self._refused.add(name)
            if answer.installed and self._elsewhere:
                raise ModuleNotFoundError(
                    f"No module named {name!r} on {socket.gethostname()}: the program has {answer.installed} installed "
                    f"where it runs, and the Python of this node, {sys.prefix}, does not",
                    name=name,
                )
            return None
        filename = os.fsdecode(answer.filename)
        source = None if not answer.source and not filename else answer.source
        loader = _DriverLoader(self, name, source, filename, answer.is_package)
        return importlib.machinery.ModuleSpec(
            name,
            loader,  # type: ignore[arg-type]
            origin=filename or None,
            is_package=answer.is_package,
        )


def _announce(spec: importlib.machinery.ModuleSpec) -> None:
    """Have the module that globals stand in for put in its place as soon as it is imported."""
    loader: Any = spec.loader
    execute = getattr(loader, "exec_module", None)
    if execute is None:
        return

    def exec_module(module: types.ModuleType) -> None:
        execute(module)
        rebuild.imported(module.__name__)

    with contextlib.suppress(AttributeError):  # else they are replaced when they are used
        loader.exec_module = exec_module


def _is_from_driver(module: types.ModuleType) -> bool:
    return isinstance(getattr(module, "__loader__", None), _DriverLoader)


class _DriverLoader:
    """Makes a module from the source that the driver sent, or one that asks for its names."""

    def __init__(self, finder: DriverFinder, name: str, source: bytes | None, filename: str, package: bool) -> None:
        self._finder = finder
        self._name = name
        self._source = source
        self._filename = filename
        self._package = package

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType | None:
        """Part of the import protocol."""
        if self._source is not None:
            return None
        from distpool.code.loader import DriverModule

        return DriverModule(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        """Part of the import protocol."""
        if self._source is None:
            # In this process, too, it is a module that was made in memory.
            module.__spec__ = None
            self._finder._loader.add_module(module)  # type: ignore[arg-type]
            return
        if not self._filename.startswith("<"):
            module.__file__ = self._filename
        exec(compile(self._source, self._filename, "exec", dont_inherit=True), module.__dict__)
        self._finder._carry(module)

    def get_source(self, fullname: str) -> str | None:
        """For tracebacks and ``inspect``."""
        return None if self._source is None else importlib.util.decode_source(self._source)

    def get_code(self, fullname: str) -> types.CodeType | None:
        """For ``runpy``."""
        return None if self._source is None else compile(self._source, self._filename, "exec", dont_inherit=True)

    def is_package(self, fullname: str) -> bool:
        """Part of the import protocol."""
        return self._package
