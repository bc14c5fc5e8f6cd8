"""Each part of the package imports only what is below it."""

from __future__ import annotations

import pytest

from tests.support.imports import Import, imports_of, internal, modules

#: From the bottom up.  Parts of one storey may use each other.
STOREYS = [
    {"version", "errors", "crashpoints", "interpreter", "on_import"},
    {"wire"},
    {"task_options"},
    {"sharing"},
    {"store"},
    {"code"},
    {"scheduler", "node", "worker"},
    {"driver", "provision"},
    {"", "cli", "executor", "futures", "joblib", "memory", "mpi", "multiprocessing", "ordered_map", "references"},
]
#: (importing part, imported part): why it must look upwards.  Only inside functions, so that no process loads what
#: it never uses.
UPWARDS: dict[tuple[str, str], str] = {
    ("worker", "driver"): "a task that submits tasks is a driver itself",
    ("store", "code"): "what plain pickle refuses is pickled by value, by the rules for code",
    ("node", ""): "the file that is run as a program puts the package on the path and imports it there",
    ("provision", ""): "the same",
    ("code", "driver"): "a future that is pickled outside of a submit belongs to the driver",
}


def part(module: str) -> str:
    pieces = module.split(".")
    if module in ("distpool", "distpool.__main__"):
        return ""
    # A front door of several files: ``joblib`` and ``joblib_discovery``.
    first = pieces[1].split("_")[0]
    return first if any(first in parts for parts in STOREYS) else pieces[1]


def storey(name: str) -> int:
    for number, parts in enumerate(STOREYS):
        if name in parts:
            return number
    raise AssertionError(f"distpool.{name} has no place in STOREYS")


def upward(found: Import, target: str) -> bool:
    below, above = storey(part(found.importer)), storey(part(target))
    return above > below


@pytest.mark.parametrize("module", modules())
def test_a_module_imports_only_what_is_below(module: str) -> None:
    wrong = []
    for found in imports_of(module):
        target = internal(found.target)
        if target is None or found.typing_only or not upward(found, target):
            continue
        if (part(module), part(target)) in UPWARDS and not found.at_import:
            continue
        wrong.append(f"line {found.line}: {target}")
    assert not wrong, f"{module} imports from above: " + "; ".join(wrong)


def test_there_is_no_circle() -> None:
    """Modules that import each other while they are being imported work by luck of the order."""
    edges: dict[str, set[str]] = {}
    for module in modules():
        targets = {internal(found.target) for found in imports_of(module) if found.at_import}
        edges[module] = {target for target in targets if target is not None and target != module}
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join([*path[path.index(module) :], module])
        if module in done:
            return
        for target in sorted(edges[module]):
            # A package that imports its own modules is not a circle as long as they do not import from it.
            visit(target, (*path, module))
        done.add(module)

    for module in edges:
        visit(module, ())
