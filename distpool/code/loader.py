"""The worker's half: names of the driver's program appear when they are first used.

``install`` replaces ``sys.modules["__main__"]`` by a module that asks the driver for what it lacks, and hooks itself
into imports.  A name is set once; what the worker's own code (an initializer, a task) has bound is never overwritten.

Any thread may meet a missing name.  One lock covers all; it is held while the driver's answer is awaited, so whoever
receives messages must never take it: news from the driver are put down by ``on_definitions`` and applied by ``settle``.
"""

from __future__ import annotations

import builtins
import os
import pickle
import sys
import threading
import types
from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

from distpool.code import rebuild
from distpool.code.definitions import VERSION_MARK
from distpool.code.names import MAIN, MAIN_ALIAS
from distpool.code.placeholder import Unavailable
from distpool.wire.driver_to_worker import Definitions, ModuleSource, Setup, Value

if TYPE_CHECKING:

    class Requester(Protocol):
        """How the loader asks the driver; both wait for the answer and may be called from any thread.

        :raises Exception: when the driver is gone.
        """

        def fetch_definitions(self, module: str, names: list[str], known: dict[str, bytes]) -> Definitions:
            """Send ``FetchDefinitions`` and return the answer."""

        def fetch_module(self, name: str) -> ModuleSource:
            """Send ``FetchModule`` and return the answer."""


#: Names that Python looks for in modules by itself.
_SPECIAL = (
    "__path__ __file__ __spec__ __loader__ __cached__ __package__ __annotations__ __all__ __dir__ __getattr__ "
    "__wrapped__ __builtins__ __class__ __dict__ __doc__ __name__ __warningregistry__ __test__ __signature__"
)
_NOT_ASKED = frozenset(_SPECIAL.split())


class DriverModule(types.ModuleType):
    """A module whose names are the driver's, asked for one by one: ``__main__`` above all."""

    served_by_name = True

    def __getattr__(self, name: str) -> Any:
        if name in _NOT_ASKED or _loader is None:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return _loader.resolve(self, name)


class _Names:
    """What this process knows of one such module."""

    def __init__(self, module: types.ModuleType) -> None:
        self.module = module
        self.name = module.__name__
        #: What the loader has bound, to tell it from what the worker's own code binds.
        self.applied: dict[str, Any] = {}
        #: Received and not used yet.
        self.pending: dict[str, Value] = {}
        self.absent: set[str] = set()
        #: How many times each name is being loaded right now; definitions may need one another.
        self.loading: dict[str, int] = {}
        #: Functions and classes that exist but are not complete yet.
        self.born: dict[str, Any] = {}
        #: Exact versions of functions, by token.
        self.versions: dict[str, Any] = {}


class Loader:
    """See the module's description; one per process, made by ``install``."""

    def __init__(self, requester: Requester, store: Any) -> None:
        self.requester = requester
        self._store = store
        self._lock = threading.RLock()
        self._modules: dict[str, _Names] = {}
        self._news: deque[Definitions] = deque()

    def add_module(self, module: DriverModule) -> None:
        """From now on the module's missing names are asked for."""
        self._modules[module.__name__] = _Names(module)

    # -- asking -------------------------------------------------------------------------------------------------------

    def resolve(self, module: types.ModuleType, name: str) -> Any:
        """A name that the module's ``__dict__`` lacks.

        :raises AttributeError: when the driver's module lacks it, too.
        """
        with self._lock:
            names = self._modules.get(module.__name__)
            if names is not None and self._present(names, name):
                return names.module.__dict__[name] if name in names.module.__dict__ else names.born[name]
        raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")

    def need(self, module_name: str, names: tuple[str, ...]) -> None:
        """See ``rebuild.NameSource``."""
        with self._lock:
            known = self._names(module_name)
            if known is None:
                return
            namespace = known.module.__dict__
            missing = [
                name
                for name in names
                if name not in namespace
                and name not in known.absent
                and name not in known.pending
                and name not in known.born
                and name not in known.loading
            ]
            if missing:
                self._fetch(known, missing)
            for name in names:
                if name in known.pending and name not in known.loading:
                    self._load(known, name)

    def version(self, module_name: str, name: str, token: str) -> Any:
        """See ``rebuild.NameSource``."""
        with self._lock:
            known = self._names(module_name)
            if known is None:
                return rebuild.by_name(module_name, name)
            if token not in known.versions:
                marked = f"{name}{VERSION_MARK}{token}"
                answer = self._fetch(known, [marked])
                value = next((value for entry, value in answer if entry == marked), None)
                if value is None:
                    return rebuild.by_name(module_name, name)
                known.versions[token] = self._unpack(known, name, value)
            return known.versions[token]

    def born(self, module_name: str, name: str, value: Any) -> Any:
        """See ``rebuild.NameSource``."""
        known = self._modules.get(module_name)
        if known is None or name not in known.loading:
            return value
        return known.born.setdefault(name, value)

    def replace(self, old: Any, new: Any) -> None:
        """Bind names that mean ``old`` (a module not imported yet) to ``new``."""
        for known in list(self._modules.values()):
            namespace = known.module.__dict__
            for name, value in list(known.applied.items()):
                if value is old:
                    known.applied[name] = new
                    if namespace.get(name) is old:
                        namespace[name] = new

    def _names(self, module_name: str) -> _Names | None:
        found = self._modules.get(module_name)
        if found is None:
            rebuild.import_module(module_name)  # a module that only the driver has is made by importing it
            found = self._modules.get(module_name)
        return found

    def _present(self, known: _Names, name: str) -> bool:
        """Make a name present, incomplete if it must be; False when there is none."""
        for _ in range(2):
            if name in known.module.__dict__ or name in known.born:
                return True
            if name in known.pending:
                self._load(known, name)
                return True
            if name in known.absent:
                return False
            self._fetch(known, [name])
        return False

    def _fetch(self, known: _Names, names: list[str]) -> list[tuple[str, Value]]:
        namespace = known.module.__dict__
        have = dict.fromkeys((*(name for name in namespace if name not in _NOT_ASKED), *known.pending), b"")
        for name in known.absent:
            have[name] = b""
        answer = self.requester.fetch_definitions(known.name, names, have)
        for name, value in answer.entries:
            if VERSION_MARK not in name and name not in namespace:
                known.pending[name] = value
                known.absent.discard(name)
        for name, reason in answer.unavailable:
            name = name.partition(VERSION_MARK)[0]
            if name not in namespace:
                self._bind(known, name, self._unavailable(known, name, reason))
        known.absent.update(name for name in answer.absent if VERSION_MARK not in name)
        # A driver that forgets a name in its answer must not be asked for ever.
        told = {name for name, _ in answer.entries}
        known.absent.update(
            name for name in names if VERSION_MARK not in name and name not in told and name not in namespace
        )
        return answer.entries

    # -- loading ------------------------------------------------------------------------------------------------------

    def _load(self, known: _Names, name: str) -> None:
        """Turn a pending name into its value."""
        depth = known.loading.get(name, 0)
        if depth > 2:
            raise ImportError(f"the definition of {name!r} in {known.name} needs itself to be loaded")
        value = known.pending[name]
        known.loading[name] = depth + 1
        try:
            made = self._unpack(known, name, value)
        finally:
            if depth:
                known.loading[name] = depth
            else:
                known.loading.pop(name, None)
                born = known.born.pop(name, None)
        if depth:
            # Something in the definition of a name needed the name itself: the first complete one counts.
            known.born.setdefault(name, made)
            return
        if born is not None and not isinstance(made, Unavailable):
            made = born
        known.pending.pop(name, None)
        if name not in known.module.__dict__:
            self._bind(known, name, made)

    def _unpack(self, known: _Names, name: str, value: Value) -> Any:
        try:
            return self.load(value)
        except Exception as error:
            # What needs it will say so; what does not must not suffer.
            return self._unavailable(known, name, f"loading it here failed ({type(error).__name__}: {error})")

    def load(self, value: Value) -> Any:
        """What a definition's pickle holds; raises whatever loading it raises."""
        return self._store.unpack(value) if value.objects else pickle.loads(value.payload)

    @staticmethod
    def _unavailable(known: _Names, name: str, reason: str) -> Unavailable:
        return Unavailable(f"{name!r} of {known.name}", reason)

    @staticmethod
    def _bind(known: _Names, name: str, value: Any) -> None:
        known.module.__dict__[name] = value
        known.applied[name] = value

    # -- news ---------------------------------------------------------------------------------------------------------

    def on_definitions(self, news: Definitions) -> None:
        """Unasked definitions have arrived.  Never blocks; any thread."""
        self._news.append(news)

    def settle(self) -> None:
        """Apply the news.  To be called before each task: costs nothing when there are none."""
        if not self._news:
            return
        with self._lock:
            while self._news:
                news = self._news.popleft()
                known = self._modules.get(news.module)
                if known is not None:
                    self._apply(known, news)

    def _apply(self, known: _Names, news: Definitions) -> None:
        namespace = known.module.__dict__
        changed = [(name, value) for name, value in news.entries if self._withdraw(known, name)]
        reasons = [(name, reason) for name, reason in news.unavailable if self._withdraw(known, name)]
        for name in news.absent:
            if self._withdraw(known, name):
                known.absent.add(name)
        for name, reason in reasons:
            self._bind(known, name, self._unavailable(known, name, reason))
        known.pending.update(changed)
        # All old meanings are gone before the first new one is loaded, since new ones may refer to one another.
        for name, _ in changed:
            if name in known.pending and name not in namespace:
                self._load(known, name)

    @staticmethod
    def _withdraw(known: _Names, name: str) -> bool:
        """Forget what the driver said about a name; False when it never did, or the worker's own code had its say."""
        if name in known.pending:
            del known.pending[name]
            return True
        namespace = known.module.__dict__
        if name in namespace:
            if name not in known.applied or known.applied[name] is not namespace[name]:
                return False
            del namespace[name], known.applied[name]
            return True
        if name in known.absent:
            known.absent.discard(name)
            return True
        # A global that hides a builtin from now on; code that is here already may use it.
        return hasattr(builtins, name)


_loader: Loader | None = None
#: The module that was ``__main__`` when the process started: its functions may still run.
_former_main: Any = None


def install(requester: Requester, setup: Setup, store: Any = None, *, elsewhere: bool = False) -> Loader:
    """Make this process a worker of the driver that ``setup`` describes.

    :param store: the worker's ``ObjectStore``, for definitions with large buffers.
    :param elsewhere: whether the driver's files are not here.
    """
    global _loader, _former_main
    from distpool.code.finder import DriverFinder

    loader = Loader(requester, store)
    main = DriverModule(MAIN)
    _former_main = sys.modules.get(MAIN)
    sys.modules[MAIN] = sys.modules[MAIN_ALIAS] = main
    main.__dict__.update(main_attributes(setup.main_name, os.fsdecode(setup.main_file)))
    loader.add_module(main)
    _loader = loader
    rebuild.set_source(loader)
    sys.meta_path.insert(0, DriverFinder(loader, setup.user_modules, elsewhere))
    return loader


def main_attributes(main_name: str, main_file: str) -> dict[str, Any]:
    """The special names of the worker's ``__main__``.

    :param main_name: the driver's ``__main__.__spec__.name`` when it runs as ``python -m``, else ``""``.
    """
    attributes: dict[str, Any] = {"__builtins__": builtins, "__doc__": None, "__spec__": None, "__loader__": None}
    attributes["__package__"] = main_name.rpartition(".")[0] if main_name else None
    if main_file:
        attributes["__file__"] = main_file
    return attributes
