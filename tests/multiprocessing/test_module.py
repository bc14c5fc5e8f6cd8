"""``distpool.multiprocessing`` as a module: names, submodules, contexts."""

from __future__ import annotations

import importlib
import inspect
import multiprocessing
import multiprocessing.context
import pkgutil
import subprocess
import sys
from typing import Any

import pytest

import distpool.multiprocessing as ours
from tests.multiprocessing.tasks import square

OURS = {"pool", "context"}
SUBMODULES = sorted(
    info.name for info in pkgutil.iter_modules(multiprocessing.__path__) if not info.name.endswith("win32")
)


@pytest.fixture(autouse=True)
def _start_method() -> Any:
    before = multiprocessing.get_start_method(allow_none=True)
    yield
    multiprocessing.set_start_method(before, force=True)


def test_every_public_name() -> None:
    assert set(ours.__all__) >= set(multiprocessing.__all__)
    for name in multiprocessing.__all__:
        assert hasattr(ours, name), name
    namespace: dict[str, Any] = {}
    exec("from distpool.multiprocessing import *", namespace)
    assert set(multiprocessing.__all__) <= namespace.keys()


@pytest.mark.parametrize(
    "use",
    [
        "names = vars(ours)['__getattr__'] and dir(ours)",
        "names = {}; exec('from distpool.multiprocessing import *', names)",
        "ours.cpu_count(); names = vars(ours)",
        "import multiprocessing; names = vars(ours)",
        "import multiprocessing.queues; names = vars(ours)",
        "import distpool.multiprocessing.context; names = dir(ours)",
    ],
)
def test_the_standard_module_is_taken_over_when_either_is_first_used(use: str) -> None:
    # In a process of its own, where the standard module is not loaded yet.
    program = f"""
import sys
import distpool.multiprocessing as ours
assert "multiprocessing" not in sys.modules
{use}
import multiprocessing
missing = set(multiprocessing.__all__) - set(names)
assert not missing, missing
assert ours.Queue.__self__ is ours.context.default_context and ours.Process is multiprocessing.Process
assert multiprocessing.get_context("distpool") is ours.get_context("distpool")
assert multiprocessing.get_all_start_methods()[-1] == "distpool"
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr


def test_a_name_can_be_replaced_before_it_has_been_used() -> None:
    program = """
from unittest import mock
import distpool.multiprocessing as ours
with mock.patch.object(ours, "cpu_count", lambda: 77), mock.patch("distpool.multiprocessing.Pool", dict):
    assert ours.cpu_count() == 77 and ours.Pool is dict
assert ours.cpu_count() != 77 and ours.Pool is not dict
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr


def test_the_signature_of_a_pool() -> None:
    signatures = [inspect.signature(each.Pool) for each in (ours, ours.get_context("spawn"), multiprocessing)]
    parameters = [[(each.name, each.default) for each in found.parameters.values()] for found in signatures]
    assert parameters[0] == parameters[1] == parameters[2]
    with pytest.raises(ValueError, match="at least 1"):
        ours.Pool(0)


def test_what_is_not_ours_is_the_standard_librarys() -> None:
    for name in ("Process", "TimeoutError", "ProcessError", "BufferTooShort", "AuthenticationError"):
        assert getattr(ours, name) is getattr(multiprocessing, name)
    assert ours.current_process() is multiprocessing.current_process()
    assert ours.get_logger() is multiprocessing.get_logger()
    assert ours.reducer is multiprocessing.reducer


@pytest.mark.parametrize("name", SUBMODULES)
def test_submodules(name: str) -> None:
    module = importlib.import_module(f"distpool.multiprocessing.{name}")
    standard = importlib.import_module(f"multiprocessing.{name}")
    assert getattr(ours, name) is module
    if name in OURS:
        for public in getattr(standard, "__all__", ()):
            assert hasattr(module, public)
        assert [n for n in vars(standard) if not n.startswith("__") and not hasattr(module, n)] == []
    else:
        assert module is standard
        assert standard.__spec__.name == f"multiprocessing.{name}"


def test_submodules_of_dummy() -> None:
    import multiprocessing.dummy.connection

    from distpool.multiprocessing.dummy import connection

    assert connection is multiprocessing.dummy.connection


def test_missing_names() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        _ = ours.nonsense  # type: ignore[attr-defined]
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("distpool.multiprocessing.nonsense")
    for name in OURS:
        with pytest.raises(AttributeError, match="nonsense"):
            _ = importlib.import_module(f"distpool.multiprocessing.{name}").nonsense


class TestContexts:
    @pytest.mark.parametrize("method", ["fork", "spawn", "forkserver", "distpool"])
    def test_of_a_method(self, method: str) -> None:
        context = ours.get_context(method)
        assert isinstance(context, multiprocessing.context.BaseContext)
        assert context.get_start_method() == method
        assert context.get_context() is context
        assert type(context).__name__.lower().startswith(method)
        assert context.Process.__name__.lower().startswith(method)
        with pytest.raises(ValueError, match="cannot set start method of concrete context"):
            context.set_start_method("spawn")
        if method != "distpool":
            assert isinstance(context, type(multiprocessing.get_context(method)))
            assert context.Process is multiprocessing.get_context(method).Process
            assert context.get_context("distpool") is ours.get_context("distpool")

    def test_unknown(self) -> None:
        with pytest.raises(ValueError, match="cannot find context for 'nonsense'"):
            ours.get_context("nonsense")
        with pytest.raises(ValueError, match="cannot find context for 'nonsense'"):
            ours.set_start_method("nonsense", force=True)

    def test_is_registered_with_the_standard_library(self) -> None:
        assert multiprocessing.get_context("distpool") is ours.get_context("distpool")

    def test_start_method_is_one_state(self) -> None:
        for method in ("spawn", "distpool", "forkserver"):
            ours.set_start_method(method, force=True)
            assert multiprocessing.get_start_method() == ours.get_start_method() == method
            assert ours.get_context() is ours.get_context(method)
        with pytest.raises(RuntimeError, match="context has already been set"):
            ours.set_start_method("spawn")
        ours.set_start_method(None, force=True)
        assert ours.get_start_method(allow_none=True) is None
        assert ours.get_all_start_methods() == multiprocessing.get_all_start_methods()
        assert set(ours.get_all_start_methods()) == {"fork", "spawn", "forkserver", "distpool"}

    def test_start_methods_where_they_were_exported_before(self) -> None:
        # In a process of its own, where nothing of ours is imported yet.
        program = """
import sys, types
import multiprocessing
exporter = types.ModuleType("exporter")
exec("from multiprocessing import *", exporter.__dict__)
sys.modules["exporter"] = exporter
before = exporter.get_all_start_methods()
import distpool.multiprocessing as ours
expected = [*before, "distpool"]
for module in (multiprocessing, exporter, ours):
    assert module.get_all_start_methods() == expected, (module, module.get_all_start_methods())
"""
        run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
        assert run.returncode == 0, run.stderr

    def test_pool_is_ours(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import distpool.multiprocessing.pool
        from tests.multiprocessing.fake_workers import FakePool

        monkeypatch.setattr(distpool.multiprocessing.pool, "Pool", FakePool)
        for context in (ours, ours.get_context("spawn"), multiprocessing.get_context("distpool")):
            with context.Pool(1) as pool:
                assert type(pool) is FakePool
                assert pool.map(square, [1, 2]) == [1, 4]

    @pytest.mark.leaks("descriptors")  # memory for semaphores is kept for the next ones
    @pytest.mark.parametrize("method", ["fork", "distpool"])
    def test_processes_are_local(self, method: str) -> None:
        context = ours.get_context(method)
        queue = context.SimpleQueue()
        process = context.Process(target=_put_twice, args=(queue, context.RLock()))
        process.start()
        assert [queue.get(), queue.get()] == [1, method]
        process.join()
        assert process.exitcode == 0
        process.close()
        queue.close()


def _put_twice(queue: Any, lock: Any) -> None:
    with lock, lock:
        queue.put(1)
        queue.put(multiprocessing.current_process()._start_method)
