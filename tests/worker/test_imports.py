"""What a worker tells of its imports, and what it does with modules that were loaded ahead of time."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from distpool.wire.worker_to_agent import ModulesImported
from distpool.worker.imports import Imports, forget_shadowed

ROOT = Path(__file__).parents[2]
#: Opens one pool after the other until its workers find a module loaded; then has a module of its own of that name.
LEARNED_AND_SHADOWED = """
import os, sys
from distpool import DistExecutor

def comes_loaded():
    loaded = "colorsys" in sys.modules
    import colorsys
    return loaded

def origin():
    import colorsys
    return colorsys.__file__

if __name__ == "__main__":
    loaded = False
    while not loaded:  # a busy machine loads ahead when it can
        with DistExecutor(1) as executor:
            loaded = executor.submit(comes_loaded).result()
    print("ahead")
    folder = sys.argv[1]
    sys.path.insert(0, folder)
    with DistExecutor(1) as executor:
        print(os.path.dirname(executor.submit(origin).result()) == folder)
    sys.path.remove(folder)
    with DistExecutor(1) as executor:
        print(os.path.dirname(executor.submit(origin).result()) == os.path.dirname(os.__file__))
"""


def _told(monkeypatch: pytest.MonkeyPatch, *names: str) -> set[str]:
    for name in [loaded for loaded in sys.modules if loaded.partition(".")[0] in names]:
        monkeypatch.delitem(sys.modules, name)
    told: list[ModulesImported] = []
    mailbox: Any = SimpleNamespace(tell_agent=told.append)
    imports = Imports(mailbox)
    for name in names:
        importlib.import_module(name)
    imports.report()
    imports.report()
    assert len(told) <= 1
    return {name for message in told for name in message.names}


def test_modules_of_the_standard_library_are_told_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {"wave", "xml.dom", "xml.dom.minidom"} <= _told(monkeypatch, "wave", "xml.dom.minidom")


@pytest.mark.parametrize("name", ["this", "_strptime"])
def test_what_does_something_or_is_private_is_not_told(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    assert name not in _told(monkeypatch, name)


def test_what_only_looks_like_the_standard_library_is_not_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "wave.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    assert "wave" not in _told(monkeypatch, "wave")


def test_only_what_the_programs_folders_have_is_forgotten(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "wave.py").write_text("")
    (tmp_path / "xml").mkdir()
    (tmp_path / "xml" / "__init__.py").write_text("")
    (tmp_path / "colorsys").mkdir()  # no package: the standard library's module comes first
    (tmp_path / "sndhdr.py").write_text("")
    learned = ("wave", "xml", "xml.dom", "colorsys")
    for name in (*learned, "sndhdr"):
        monkeypatch.setitem(sys.modules, name, sys)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    forget_shadowed(frozenset(learned))
    assert [name for name in (*learned, "sndhdr") if name in sys.modules] == ["colorsys", "sndhdr"]


def test_a_learned_module_is_the_programs_own_where_it_has_one(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(LEARNED_AND_SHADOWED)
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "colorsys.py").write_text("")
    run = subprocess.run(
        [sys.executable, str(program), str(folder)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env={"PATH": "", "PYTHONPATH": str(ROOT)},
    )
    assert run.stdout.split() == ["ahead", "True", "True"], run.stderr
