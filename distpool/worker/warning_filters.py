"""Filters for warnings, as the driver's program has them, in a worker that has loaded fewer modules.

Libraries add filters for categories of their own when they are imported.  To load a library only because it has a
filter would cost many times as much as the rest of a worker's set-up; and as long as it is not loaded, nobody can warn
with its categories.  So stand-ins take their places.
"""

from __future__ import annotations

import copyreg
import io
import pickle
import sys
import warnings
from typing import Any


def adopt(filters: list[bytes]) -> None:
    """Have these filters, and no others.

    :param filters: pickled entries of ``warnings.filters``, each by itself.
    """
    loaded = []
    for entry in filters:
        try:
            loaded.append(_Unpickler(io.BytesIO(entry)).load())
        except Exception:
            continue  # a category that exists only in the driver can hardly be raised here
    warnings.filters[:] = loaded  # type: ignore[index]
    for name in ("_filters_mutated", "_filters_mutated_lock_held"):
        mutated = getattr(warnings, name, None)
        if mutated is not None:
            try:
                mutated()
            except RuntimeError:
                continue
            break


class _Category(type):
    """The type of stand-ins.  They are equal to the class whose place they take, so that a library that adds its filter
    once more replaces the one that is there."""

    def __subclasscheck__(cls, subclass: type) -> bool:
        return any(cls == base for base in subclass.__mro__)

    def __eq__(cls, other: object) -> bool:
        return isinstance(other, type) and _place_of(cls) == _place_of(other)

    def __hash__(cls) -> int:
        return hash(_place_of(cls))


def category(module: str, name: str) -> Any:
    """The class of that (qualified) name, or, if its module is not loaded, a stand-in."""
    if module in sys.modules:
        found: Any = sys.modules[module]
        for part in name.split("."):
            found = getattr(found, part)
        return found
    simple_name = name.rpartition(".")[2]
    return _Category(simple_name, (Warning,), {"__module__": module, "__qualname__": name})


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        return super().find_class(module, name) if module in sys.modules else category(module, name)


def _place_of(known: type) -> tuple[str, str]:
    return known.__module__, known.__qualname__


def _reduce(stand_in: _Category) -> tuple[Any, ...]:
    return category, _place_of(stand_in)


# A worker that submits tasks describes itself to other workers.
copyreg.pickle(_Category, _reduce)
