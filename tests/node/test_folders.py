"""Folders of nodes, living and dead."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from distpool.errors import ConnectError
from distpool.node import folders as module
from distpool.node.folders import Folders, sweep


def test_folders_are_private_and_go_with_all_they_hold() -> None:
    folders = Folders.create()
    for path in (Path(folders.root), Path(folders.store)):
        assert path.stat().st_mode & 0o777 == 0o700
        (path / "sub").mkdir()
        (path / "sub" / "file").write_text("x")
    folders.remove()
    assert not os.path.exists(folders.root)
    assert not os.path.exists(folders.store)
    folders.remove()


def test_the_janitor_removes_what_the_dead_left_and_nothing_else() -> None:
    living, dead = Folders.create(), Folders.create()
    name = f"distpool-{os.getuid()}-strange"
    newborn = Path(tempfile.gettempdir()) / name
    newborn.mkdir()
    dead.let_go()
    try:
        assert dead.root in sweep()
        assert not os.path.exists(dead.root)
        # In shared memory the node of another test run may be faster.
        while os.path.exists(dead.store):
            os.sched_yield()
        assert os.path.exists(living.root)
        assert os.path.exists(living.store)
        assert newborn.exists()
        os.utime(newborn, (0, 0))
        assert str(newborn) in sweep()
    finally:
        living.remove()
        module.remove_tree(str(newborn))


def test_a_lock_outlives_one_of_two_holders() -> None:
    driver = Folders.create()
    node = Folders(driver.root, driver.store, driver.spill)
    node.hold()
    driver.let_go()
    assert driver.root not in sweep()
    node.let_go()
    assert driver.root in sweep()


def test_without_shared_memory_the_store_is_beside_the_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distpool.node.folders.shared_memory", lambda: None)
    folders = Folders.create()
    assert folders.store == os.path.join(folders.root, "store")
    folders.remove()


def test_a_temporary_folder_with_a_long_path_is_passed_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 100)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setenv("TMPDIR", str(deep))
    folders = Folders.create()
    assert not folders.root.startswith(str(deep))
    folders.remove()


def test_no_place_at_all_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_temporary_folders", lambda: ["/nonexistent", "/proc"])
    with pytest.raises(ConnectError, match=r"no folder .*/nonexistent: No such file"):
        Folders.create()
