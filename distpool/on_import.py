"""What concerns modules that somebody else may import, or not; importing them to find out would cost every program.

Finder and loader are without their abstract base classes, whose import would take longer than all else here.
"""

from __future__ import annotations

import sys
from _thread import get_ident

TYPE_CHECKING = False  # as in ``distpool``
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any


def loaded(name: str) -> Any:
    """The module of that name; None if nobody has imported it, or a thread is still about to: what is in it is then not
    in use yet, and not all of it is there."""
    module = sys.modules.get(name)
    return None if module is None or getattr(module.__spec__, "_initializing", False) else module


def wait_for(name: str, action: Callable[[ModuleType], None]) -> None:
    """Have ``action`` called with the module ``name`` when that is imported: after its code, before whoever imports it
    goes on.  Waiting twice for the same module with the same action is waiting once."""
    if not any(isinstance(finder, _Waiting) and finder.awaits(name, action) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Waiting(name, action))


def import_msgspec() -> None:
    """Import msgspec without ``typing_extensions``, which takes longer to import than msgspec itself.

    What msgspec uses of it is the same as in ``typing``, where that has it (since Python 3.11).  Other threads, and
    whoever imports ``typing_extensions`` later, get it as usual.
    """
    if "msgspec" in sys.modules:
        return
    absent = _Absent("typing_extensions") if sys.version_info >= (3, 11) else None
    if absent is not None:
        sys.meta_path.insert(0, absent)
    try:
        import msgspec  # noqa: F401
    finally:
        if absent is not None:
            _take_out(absent)


def wait_no_more() -> None:
    """Nothing happens any more when a module is imported."""
    for finder in tuple(sys.meta_path):
        if isinstance(finder, _Waiting):
            _take_out(finder)
            finder.forget()


def _take_out(finder: object) -> None:
    """Have imports do without it from now on.

    By another list: a thread that goes through the present one just now would leave out the finder behind it.
    """
    sys.meta_path = [other for other in sys.meta_path if other is not finder]


class _Absent:
    """Sees to it that this thread finds no such module, unless it is loaded already."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._thread = get_ident()

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> None:
        if fullname == self._name and get_ident() == self._thread:
            raise ModuleNotFoundError(f"{fullname} is left out", name=fullname)


class _Waiting:
    """Sees the import, steps aside, and adds the action to its end."""

    def __init__(self, name: str, action: Callable[[ModuleType], None]) -> None:
        self._name = name
        self._action: Callable[[ModuleType], None] | None = action

    def awaits(self, name: str, action: Callable[[ModuleType], None]) -> bool:
        return (self._name, self._action) == (name, action)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self._name:
            return None
        action = self._action
        _take_out(self)
        self.forget()
        from importlib.util import find_spec

        spec = find_spec(fullname)
        if spec is not None and spec.loader is not None and action is not None:
            spec.loader = _Acting(spec.loader, action)  # type: ignore[assignment]
        return spec

    def forget(self) -> None:
        """It is taken out; the interpreter keeps the very first list of finders as it was."""
        self._action = None


class _Acting:
    def __init__(self, loader: Any, action: Callable[[ModuleType], None]) -> None:
        self._loader = loader
        self._action = action

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        module: ModuleType | None = self._loader.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        # From here on the module must look as if this class had never been there.
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        self._action(module)
