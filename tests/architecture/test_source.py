"""Form of the source that no linter checks."""

from __future__ import annotations

import ast

import pytest

from tests.support.imports import modules, package_folder

#: Longer than this, a file is rarely about one thing.
LINES = 400
VAGUE = {"utils", "util", "common", "helpers", "helper", "misc"}


def test_long_files_are_listed(long_files: list[str]) -> None:
    """No failure: a file may have its reasons.  But the report names it until it is split."""
    for path in sorted(package_folder().rglob("*.py")):
        lines = len(path.read_text().splitlines())
        if lines > LINES:
            long_files.append(f"{lines:5} lines  {path.relative_to(package_folder().parent)}")


def test_names_say_what_is_inside() -> None:
    assert [name for name in modules() if VAGUE & set(name.split("."))] == []


@pytest.mark.parametrize("module", [name for name, path in modules().items() if path.read_text().strip()])
def test_each_module_says_what_it_is_for(module: str) -> None:
    assert ast.get_docstring(ast.parse(modules()[module].read_text())), f"{module} has no docstring"


@pytest.mark.parametrize("module", [name for name in modules() if "_to_" in name])
def test_each_message_says_who_sends_it_and_when(module: str) -> None:
    tree = ast.parse(modules()[module].read_text())
    silent = [
        node.name
        for node in tree.body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_") and not ast.get_docstring(node)
    ]
    assert silent == []
