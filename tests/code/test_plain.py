"""What is written down without cloudpickle means the same where it is loaded as what is written with it."""

from __future__ import annotations

import io
import json
import os.path
import pickle
import sys
import types
from collections.abc import Callable
from typing import Any

import pytest

from distpool.code import plain
from distpool.code.by_value import DefinitionPickler

LIMIT = 3


def nothing() -> None: ...


def documented(n: int, *, by: float = 0.5, name: str = "x") -> bool:
    """Says so."""
    return n * by > len(name) + LIMIT


def nested(items: list, first=1):  # type: ignore[no-untyped-def, type-arg]
    return [lambda: (items, os.path.join("a", str(first)), unknown)]  # type: ignore[name-defined]  # noqa: F821


def by_string(text: str) -> Any:
    return eval("LIMIT") + len(text)


same_as_documented = documented


def with_types(items: Any) -> None: ...


with_types.__annotations__["items"] = list[int]


def with_a_default(items: Any = []) -> None: ...  # noqa: B006


def with_an_attribute() -> None: ...


with_an_attribute.calls = 0  # type: ignore[attr-defined]


def closed_over(value: Any) -> Callable[[], Any]:
    return lambda: value


with_a_closure = closed_over(1)


@pytest.fixture(autouse=True)
def served_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """This module is taken for the program's own."""
    for module in ("distpool.code.by_value", "distpool.code.plain"):
        monkeypatch.setattr(f"{module}.is_served_by_name", lambda name: name == __name__)


@pytest.mark.parametrize("name", ["nothing", "documented", "nested", "by_string"])
def test_a_function_of_nothing_but_code_is_the_same_as_when_written_by_value(name: str) -> None:
    function = globals()[name]
    written = plain.write(__name__, name, function)
    assert written is not None
    pickler = DefinitionPickler(file := io.BytesIO(), __name__, name, function)
    pickler.dump(function)
    assert written.needed == pickler.needed[__name__]
    assert written.shadowable == pickler.shadowable
    ours, by_value = pickle.loads(written.payload), pickle.loads(file.getvalue())
    assert ours is not function
    for attribute in (
        *("__code__", "__name__", "__qualname__", "__module__", "__doc__", "__defaults__", "__kwdefaults__"),
        *("__annotations__", "__dict__", "__closure__"),
    ):
        assert getattr(ours, attribute) == getattr(by_value, attribute) == getattr(function, attribute)
    assert ours.__globals__ is globals()


@pytest.mark.parametrize(
    "name", ["same_as_documented", "with_types", "with_a_default", "with_an_attribute", "with_a_closure", "Callable"]
)
def test_everything_else_is_left_to_those_who_can(name: str) -> None:
    assert plain.write(__name__, name, globals()[name]) is None


def test_code_that_no_compiler_made_is_left_to_those_who_can() -> None:
    code = nothing.__code__.replace(co_consts=(None, object()))
    function = types.FunctionType(code, globals(), "changed")
    function.__module__ = __name__
    assert plain.write(__name__, "changed", function) is None


@pytest.mark.parametrize("value", [1, 2.5, "text", b"bytes", None, True, range(3), ...])
def test_values_that_never_change(value: Any) -> None:
    written = plain.write(__name__, "value", value)
    assert written is not None
    assert pickle.loads(written.payload) == value


def test_large_values_may_go_through_the_store() -> None:
    assert plain.write(__name__, "value", b"x" * (1 << 16)) is None


def test_modules_are_imported() -> None:
    written = plain.write(__name__, "json", json)
    assert written is not None
    assert pickle.loads(written.payload) is sys.modules["json"]
