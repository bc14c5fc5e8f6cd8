"""Cores decide; their shells act.  A core does no input or output, reads no clock, draws no random number."""

from __future__ import annotations

import ast

import pytest

from tests.support.imports import imports_of, internal, modules

CORES = [name for name in modules() if any("core" in piece.split("_") for piece in name.split("."))]

#: The standard library's modules that compute and do nothing else.
PURE = {
    "__future__", "abc", "base64", "bisect", "collections", "copy", "dataclasses", "enum", "functools", "graphlib",
    "heapq", "itertools", "math", "operator", "re", "string", "types", "typing", "msgspec", "typing_extensions",
}  # fmt: skip
#: What a module that a core uses (a message, an option) must not load either.
IMPURE = {
    "asyncio", "concurrent", "mmap", "multiprocessing", "os", "pathlib", "queue", "random", "secrets", "select",
    "selectors", "shutil", "signal", "socket", "ssl", "subprocess", "tempfile", "threading", "time", "uuid", "zmq",
    "psutil", "numpy", "pyarrow", "cloudpickle", "logging",
}  # fmt: skip
#: Builtins that reach outside.
OUTSIDE = {"open", "input", "print", "exec", "eval", "id", "hash"}


def test_cores_are_found() -> None:
    parts = {name.split(".")[1] for name in CORES}
    assert {"driver", "scheduler", "node"} <= parts, f"found only {CORES}"


@pytest.mark.parametrize("core", CORES)
def test_a_core_imports_only_what_computes(core: str) -> None:
    wrong = []
    for found in imports_of(core):
        top = found.target.split(".")[0]
        if not found.typing_only and top != "distpool" and top not in PURE:
            wrong.append(f"line {found.line}: {found.target}")
    assert not wrong, f"{core}: " + "; ".join(wrong)


@pytest.mark.parametrize("core", CORES)
def test_what_a_core_uses_is_pure_too(core: str) -> None:
    todo, seen, wrong = [core], set(), []
    while todo:
        module = todo.pop()
        if module in seen:
            continue
        seen.add(module)
        for found in imports_of(module):
            if found.typing_only:
                continue
            target = internal(found.target)
            if target is not None:
                todo.append(target)
            elif found.target.split(".")[0] in IMPURE:
                wrong.append(f"{module} line {found.line}: {found.target}")
    assert not wrong, f"{core} reaches: " + "; ".join(wrong)


@pytest.mark.parametrize("core", CORES)
def test_a_core_calls_nothing_outside(core: str) -> None:
    tree = ast.parse(modules()[core].read_text())
    wrong = [
        f"line {node.lineno}: {node.func.id}()"
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in OUTSIDE
    ]
    assert not wrong, f"{core}: " + "; ".join(wrong)
