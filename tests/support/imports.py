"""Which module of the package imports what, read from the source without running it."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True)
class Import:
    """``importer`` asks for ``target`` (dotted, as far as it is a module or may be one)."""

    importer: str
    target: str
    line: int
    at_import: bool  # as opposed to inside a function, or for type checkers only
    typing_only: bool


@cache
def package_folder() -> Path:
    spec = importlib.util.find_spec("distpool")
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0])


@cache
def modules() -> dict[str, Path]:
    """Dotted name of each module of the package, and its file."""
    root = package_folder()
    found: dict[str, Path] = {}
    for path in sorted(root.rglob("*.py")):
        parts = ["distpool", *path.relative_to(root).with_suffix("").parts]
        if parts[-1] == "__init__":
            parts.pop()
        found[".".join(parts)] = path
    return found


@cache
def imports_of(module: str) -> tuple[Import, ...]:
    path = modules()[module]
    return tuple(_walk(ast.parse(path.read_text(), str(path)), module, path.name == "__init__.py", True, False))


def internal(target: str) -> str | None:
    """The module of the package that ``target`` names: itself, or the one that it is an attribute of."""
    while target:
        if target in modules():
            return target
        target = target.rpartition(".")[0]
    return None


def _walk(node: ast.AST, module: str, is_package: bool, at_import: bool, typing_only: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(module, alias.name, child.lineno, at_import, typing_only)
        elif isinstance(child, ast.ImportFrom):
            base = child.module or ""
            if child.level:
                package = module.split(".")
                package = package[: len(package) - child.level + (1 if is_package else 0)]
                base = ".".join([*package, base] if base else package)
            for alias in child.names:
                yield Import(module, f"{base}.{alias.name}", child.lineno, at_import, typing_only)
        elif isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield from _walk(child, module, is_package, False, typing_only)
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            for statement in child.body:
                yield from _walk(ast.Module([statement], []), module, is_package, False, True)
            for statement in child.orelse:
                yield from _walk(ast.Module([statement], []), module, is_package, at_import, typing_only)
        else:
            yield from _walk(child, module, is_package, at_import, typing_only)
