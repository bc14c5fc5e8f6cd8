"""The path to what cannot be pickled."""

from __future__ import annotations

import collections
import functools
import sqlite3
import threading

import pytest

from distpool.code.diagnosis import explain, find_unpicklable
from distpool.code.pickler import dumps


class Holder:
    def __init__(self, connection: object) -> None:
        self.number = 1
        self.connection = connection


class Slotted:
    __slots__ = ("inside",)


class Refusing:
    def __getstate__(self) -> object:
        raise ValueError("no way")


Pair = collections.namedtuple("Pair", "first second")


@pytest.fixture
def connection() -> object:
    with sqlite3.connect(":memory:") as opened:
        yield opened
    opened.close()


def test_paths_of_calls(connection: object) -> None:
    assert find_unpicklable(((1, {"db": Holder(connection)}), {})) == "args[1]['db'].connection: sqlite3.Connection"
    assert find_unpicklable(((), {"q": [connection]})) == "kwargs['q'][0]: sqlite3.Connection"
    partial = functools.partial(print, 1, file=connection)
    assert find_unpicklable((partial, (), {})) == "function.keywords['file']: sqlite3.Connection"


def test_paths_of_values(connection: object) -> None:
    slotted = Slotted()
    slotted.inside = connection
    assert find_unpicklable([slotted]) == "value[0].inside: sqlite3.Connection"
    assert find_unpicklable(Pair(1, connection)) == "value.second: sqlite3.Connection"
    assert find_unpicklable({"g": Refusing()}) == f"value['g']: {__name__}.Refusing"
    assert find_unpicklable(i for i in "") == "value: generator"
    assert find_unpicklable(Holder(threading.Lock()).__init__) == "value.__self__.connection: _thread.lock"

    def closure(x: object = None) -> object:
        return connection

    assert find_unpicklable(closure) == "value.connection: sqlite3.Connection"


def test_cycles_and_depth() -> None:
    cycle: dict[str, object] = {}
    cycle["itself"] = [cycle]
    cycle["lock"] = threading.Lock()
    assert find_unpicklable(cycle) == "value['lock']: _thread.lock"
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(Exception, match="recursion") as caught:
        dumps(deep)
    assert explain(deep, caught.value).startswith("cannot pickle list: it is nested too deeply; ")


def test_what_to_do_instead() -> None:
    generator = (item for item in [1])
    for culprit, advice in (
        (threading.Lock(), "; make it where it is used, in the task or in the pool's initializer"),
        (generator, "; send a list of what it yields"),
    ):
        with pytest.raises(TypeError) as refused:
            dumps([culprit])
        assert explain([culprit], refused.value).endswith(advice)


def test_a_culprit_behind_much_data(connection: object) -> None:
    data = [bytes(1 << 20) for _ in range(20)]
    assert find_unpicklable(((data, [connection]), {})) == "args[1][0]: sqlite3.Connection"


def test_files_are_refused() -> None:
    with open(__file__) as file, pytest.raises(TypeError, match="TextIOWrapper"):
        dumps(file)
