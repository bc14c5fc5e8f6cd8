"""Contexts whose pools are ours: one for each start method of the standard library, and ``"distpool"``.

The start method concerns local processes (``Process``, managers, ...) and is one state with the standard module's:
``set_start_method`` here and there do the same.  It says nothing about a pool's workers, which are always leased.

``get_context("distpool")`` is for programs and libraries that take a context, or the name of a start method.
Importing this package registers it with the standard library, when that is loaded: ``multiprocessing.get_context``
finds it there.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from multiprocessing import context as _standard
from multiprocessing.context import (
    AuthenticationError,
    BaseContext,
    BufferTooShort,
    Process,
    ProcessError,
    TimeoutError,
)
from multiprocessing.process import BaseProcess

from distpool.driver.ahead import start_pool_ahead

TYPE_CHECKING = False  # as in ``distpool``
if TYPE_CHECKING:
    from multiprocessing.synchronize import BoundedSemaphore, Lock, RLock, Semaphore
    from typing import Any

    from distpool.multiprocessing.pool import Pool

__all__ = [
    "AuthenticationError",
    "BaseContext",
    "BufferTooShort",
    "DefaultContext",
    "DistpoolContext",
    "DistpoolProcess",
    "Process",
    "ProcessError",
    "TimeoutError",
    "default_context",
]


class _PoolContext(BaseContext):
    """What our contexts have in common: the pool, and semaphores that its workers can use at full speed."""

    def get_context(self, method: str | None = None) -> Any:
        """This context, or that of another start method.

        :raises ValueError: for an unknown start method.
        """
        return self if method is None else _context_of(method)

    def cpu_count(self) -> int:
        """CPUs of this machine, as in the standard library; of the cluster, if the program works with one."""
        from distpool.driver.current import works_with_cluster

        if not works_with_cluster():
            return super().cpu_count()
        from distpool.driver.capacity import default_workers

        return default_workers()

    def Pool(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
    ) -> Pool:
        """A pool of distpool workers (see ``distpool.multiprocessing.pool.Pool``)."""
        start_pool_ahead("distpool.multiprocessing.pool", processes)  # before that is loaded, which would see to it
        from distpool.multiprocessing.pool import Pool

        return Pool(processes, initializer, initargs, maxtasksperchild, context=self.get_context())

    def Lock(self) -> Lock:
        """A lock for processes."""
        return self._make("Lock", 1)  # type: ignore[no-any-return]

    def RLock(self) -> RLock:
        """A recursive lock for processes."""
        return self._make("RLock", 1)  # type: ignore[no-any-return]

    def Semaphore(self, value: int = 1) -> Semaphore:
        """A semaphore for processes."""
        return self._make("Semaphore", value)  # type: ignore[no-any-return]

    def BoundedSemaphore(self, value: int = 1) -> BoundedSemaphore:
        """A semaphore for processes that is never released more often than acquired."""
        return self._make("BoundedSemaphore", value)  # type: ignore[no-any-return]

    def _make(self, name: str, value: int) -> Any:
        from distpool.sharing import semaphores

        if self.get_start_method() in ("fork", "distpool") and semaphores.available():
            return semaphores.make(name, value)
        # Either it gets a name, by which anybody can open it, or it is reached through this process.
        make = getattr(super(), name)
        return make() if name in ("Lock", "RLock") else make(value)


class DistpoolProcess(BaseProcess):
    """A local process of the ``"distpool"`` context, started as the platform's default start method does."""

    _start_method = "distpool"

    @staticmethod
    def _Popen(process: BaseProcess) -> Any:
        return _platform_process()._Popen(process)

    @staticmethod
    def _after_fork() -> None:
        # Python 3.10 and 3.11 have no such method on the class of forked processes.
        after_fork = getattr(_platform_process(), "_after_fork", None)
        if after_fork is not None:
            after_fork()


def _platform_process() -> Any:
    return _standard._default_context._default_context.Process  # type: ignore[attr-defined]


class DistpoolContext(_PoolContext):
    """The context of the start-method name ``"distpool"``."""

    _name = "distpool"
    Process = DistpoolProcess


class DefaultContext(_PoolContext):
    """Like the standard library's: behaves as the context of the start method that is set, which ``set_start_method``
    here or there chooses."""

    Process = Process

    def get_context(self, method: str | None = None) -> Any:
        """The context of ``method``, or of the start method that is set.

        :raises ValueError: for an unknown start method.
        """
        return _context_of(_standard._default_context.get_start_method() if method is None else method)

    def set_start_method(self, method: str | None, force: bool = False) -> None:
        """As ``multiprocessing.set_start_method`` (and errors as there)."""
        _standard._default_context.set_start_method(method, force)

    def get_start_method(self, allow_none: bool = False) -> Any:
        """As ``multiprocessing.get_start_method``."""
        return _standard._default_context.get_start_method(allow_none)

    def get_all_start_methods(self) -> list[str]:
        """As ``multiprocessing.get_all_start_methods``: those of this platform, and ``"distpool"``."""
        return _standard._default_context.get_all_start_methods()


def _contexts() -> dict[str, BaseContext]:
    """Ours for each concrete start method of this platform, as subclasses of the standard ones."""
    made: dict[str, BaseContext] = {}
    for method, standard in _standard._concrete_contexts.items():  # type: ignore[attr-defined]
        cls = type(standard)
        if not issubclass(cls, _PoolContext):
            ours = type(cls.__name__, (_PoolContext, cls), {"__module__": __name__, "__doc__": cls.__doc__})
            globals()[cls.__name__] = ours
            made[method] = ours()
    made["distpool"] = DistpoolContext()
    return made


def _context_of(method: str) -> Any:
    ours = _ours.get(method)
    if ours is None:
        # Unknown, or registered by somebody else.
        return _standard._default_context.get_context(method)
    ours._check_available()
    return ours


def _register() -> None:
    """Make the standard library's ``get_context("distpool")`` find ours, and its list of start methods name it."""
    _standard._concrete_contexts["distpool"] = _ours["distpool"]  # type: ignore[attr-defined]
    # Libraries look a name up in that list before they ask for its context (torch's DataLoader does).
    of_class = _standard.DefaultContext.get_all_start_methods
    exported = _standard._default_context.get_all_start_methods

    def get_all_start_methods(self: _standard.DefaultContext) -> list[str]:
        methods = of_class(self)
        return methods if "distpool" in methods else [*methods, "distpool"]

    _standard.DefaultContext.get_all_start_methods = get_all_start_methods  # type: ignore[method-assign]
    # The method is exported bound, and modules such as ``torch.multiprocessing`` export it once more.
    for module in tuple(sys.modules.values()):
        namespace = _namespace(module)
        if namespace.get("get_all_start_methods") == exported:
            namespace["get_all_start_methods"] = _standard._default_context.get_all_start_methods


def _namespace(module: object) -> dict[str, Any]:
    """The module's names, without loading one that waits to be used (``importlib.util.LazyLoader``)."""
    try:
        return object.__getattribute__(module, "__dict__")  # type: ignore[no-any-return]
    except AttributeError:
        return {}


_ours = _contexts()
default_context = DefaultContext()
_register()


def __getattr__(name: str) -> Any:
    """What the standard module has and this one does not."""
    if name.startswith("__"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(sys.modules["multiprocessing.context"], name)
    except AttributeError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
