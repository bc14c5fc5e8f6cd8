"""Changes the import, keeps the code: what a user does with an editor, done to the imports of an unchanged suite.

Only ``import`` statements *of the suite's own modules* (and of scripts that it runs with ``python -c``) are
translated; the standard library, the test framework and distpool itself go on seeing the originals.
"""

from __future__ import annotations

import builtins
import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

#: Gives the module that stands in for the named one, or ``None`` to leave the import alone.
Substitute = Callable[[str], "ModuleType | None"]


def translate_imports(importers: tuple[str, ...], roots: tuple[str, ...], substitute: Substitute) -> None:
    """From now on, imports of ``roots`` (or of what is below them) by ``importers`` are answered by ``substitute``.

    :param importers: names of modules and packages whose imports are translated.
    :param roots: first components of the module names that are looked at.
    """
    original = builtins.__import__

    def is_importer(namespace: Mapping[str, Any]) -> bool:
        name = namespace.get("__name__", "")
        if name == "__main__":
            # A script or ``-c`` code of the suite; ``python -m something`` has a spec and is not the suite's.
            return namespace.get("__spec__") is None
        return any(name == importer or name.startswith(importer + ".") for importer in importers)

    def translating_import(
        name: str,
        globals: Mapping[str, Any] | None = None,
        locals: Mapping[str, Any] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        if level == 0 and globals is not None and name.partition(".")[0] in roots and is_importer(globals):
            module = substitute(name)
            if module is not None:
                if fromlist:
                    import_submodules(module, fromlist)
                    return module
                return substitute(name.partition(".")[0]) or original(name.partition(".")[0])
        return original(name, globals, locals, fromlist or (), level)

    builtins.__import__ = translating_import


def import_submodules(module: ModuleType, names: Sequence[str]) -> None:
    """What ``from package import submodule`` does."""
    if not hasattr(module, "__path__"):
        return
    for name in names:
        if name != "*" and not hasattr(module, name):
            try:
                importlib.import_module(f"{module.__name__}.{name}")
            except ModuleNotFoundError as error:
                if error.name != f"{module.__name__}.{name}":
                    raise


def package_with(name: str, **members: Any) -> ModuleType:
    """A stand-in for package ``name`` with some members replaced; the rest is the original's."""
    original = sys.modules.get(name) or importlib.import_module(name)
    stand_in = ModuleType(name, original.__doc__)
    stand_in.__dict__.update(members)

    def fall_back(attribute: str) -> Any:
        return getattr(original, attribute)

    def list_names() -> list[str]:
        return sorted({*dir(original), *members})

    stand_in.__dict__["__getattr__"] = fall_back
    stand_in.__dict__["__dir__"] = list_names
    if hasattr(original, "__all__"):
        stand_in.__dict__["__all__"] = list(original.__all__)
    return stand_in
