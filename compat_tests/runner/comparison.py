"""The part of the report that sets the original beside distpool: what each does, test by test and Python by Python."""

from __future__ import annotations

import ast
import collections
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from compat_tests.runner.verdict import FAILED, HUNG, PASSED

_INTRODUCTION = """\
Where CPython's issues say that the original hangs or misbehaves, with a short program for each \
(`compat_tests/better`) that was run with both. An original that passes has been mended in that version of Python.
"""
_WORDS = {PASSED: "right", FAILED: "wrong", HUNG: "hangs"}
_ISSUE = re.compile(r"python/cpython#(\d+)")


def render(results: Sequence[Mapping[str, Any]], folder: Path) -> str:
    """A table as Markdown.

    :param results: of the suite whose tests are in ``folder``, for any targets and Pythons.
    """
    lines = [_INTRODUCTION, "| what | original | distpool | CPython |", "|---|---|---|---|"]
    for name, text in _described(folder).items():
        issues = ", ".join(
            f"[#{number}](https://github.com/python/cpython/issues/{number})" for number in _issues(text)
        )
        what = re.sub(r" \([^()]*python/cpython#[^()]*\)", "", text)
        cells = [what, *(_outcomes(results, target, name) for target in ("stdlib", "distpool")), issues]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _described(folder: Path) -> dict[str, str]:
    """The first paragraph of the docstring of each test, on one line."""
    found: dict[str, str] = {}
    for path in sorted(folder.glob("test_*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                text = (ast.get_docstring(node) or "").split("\n\n")[0]
                if not _issues(text):
                    raise ValueError(f"{path.name}: the docstring of {node.name} names no issue of CPython")
                found[f"{path.name}::{node.name}"] = " ".join(text.split())
    return found


def _issues(text: str) -> list[str]:
    return _ISSUE.findall(text)


def _outcomes(results: Sequence[Mapping[str, Any]], target: str, test: str) -> str:
    """For instance ``hangs (3.10, 3.11), right (3.13)``; without versions where all are alike."""
    versions: dict[str, list[str]] = collections.defaultdict(list)
    of_target = [result for result in results if result["target"] == target and test in result["outcomes"]]
    for result in sorted(of_target, key=lambda result: [int(part) for part in result["python"].split(".")[:2]]):
        word = _WORDS.get(result["outcomes"][test], result["outcomes"][test])
        versions[word].append(".".join(result["python"].split(".")[:2]))
    if len(versions) == 1:
        return next(iter(versions))
    return ", ".join(f"{word} ({', '.join(which)})" for word, which in versions.items()) or "not run"
