"""How a generation of the zygote loads modules: behind the tasks that run meanwhile."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from distpool.node import zygote

PROBE = """
import decimal, os
decimal.getcontext().prec = 7
standing = os.sched_getscheduler(0), os.getpriority(os.PRIO_PROCESS, 0)
"""
PROGRAM = """
import decimal, os
from distpool.node.zygote import _load_politely, _thread_count
before = os.sched_getscheduler(0), os.getpriority(os.PRIO_PROCESS, 0)
print(_load_politely(("probe", "no_such_module")))
import probe
print(probe.standing)
after = os.sched_getscheduler(0), os.getpriority(os.PRIO_PROCESS, 0)
print(after == before, decimal.getcontext().prec, _thread_count())
"""
#: A sandbox that does not let a process choose its scheduling.
REFUSED = """
def refuse(*_):
    raise PermissionError(1, "Operation not permitted")
os.sched_setscheduler = refuse
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere threads have no priorities of their own")
@pytest.mark.parametrize("refused", [False, True])
def test_loading_gives_way_to_tasks(refused: bool, tmp_path: Path) -> None:
    (tmp_path / "probe.py").write_text(PROBE)
    program = f"import os, sys; sys.path.insert(0, {str(tmp_path)!r})\n{REFUSED if refused else ''}{PROGRAM}"
    root = Path(__file__).parents[2]
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=50, cwd=root)
    standing = (os.SCHED_OTHER, 19) if refused else (os.SCHED_IDLE, os.getpriority(os.PRIO_PROCESS, 0))
    assert run.stdout.splitlines() == ["(('probe',), ('no_such_module',), None)", f"{standing}", "True 7 1"], run.stderr


@pytest.mark.parametrize("module", ["numpy", "pyarrow", "pandas", "sklearn.ensemble"])
def test_libraries_that_make_threads_can_be_loaded(module: str) -> None:
    pytest.importorskip(module.partition(".")[0])
    program = f"from distpool.node.zygote import _load_politely\nprint(_load_politely(({module!r},)))"
    root = Path(__file__).parents[2]
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=50, cwd=root)
    assert run.stdout.strip() == f"(({module!r},), (), None)", run.stderr


def test_a_generation_does_not_load_what_the_first_zygote_had(monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[list[str]] = []
    monkeypatch.setattr(os, "pipe", lambda: (0, 0))  # neither end is used
    monkeypatch.setattr(os, "set_blocking", lambda fd, blocking: None)
    for loaded in ((), ("later_a", "later_b")):
        with monkeypatch.context() as modules:
            for name in loaded:
                modules.setitem(sys.modules, name, SimpleNamespace())
            worker = SimpleNamespace(LOADED_LATER=("later_a", "later_b"))
            left.append(list(zygote._Zygote(None, 1, worker, frozenset())._to_load))  # type: ignore[arg-type]
    assert left == [["later_a", "later_b"], []]
