"""The parts that need no second process."""

from __future__ import annotations

import collections
import copy
import functools
import pickle
import sys
import types

import pytest

from distpool.code.names import global_names, home
from distpool.code.origins import digest, is_user_file
from distpool.code.pickler import dumps, function_is_stable
from distpool.code.placeholder import Unavailable
from distpool.code.state import transplant
from distpool.errors import SerializationError

DATA = [1]


def helper() -> int:
    return 1


class Method:
    def go(self) -> None: ...


@functools.lru_cache
def cached() -> None: ...


def test_global_names_are_exact() -> None:
    def code() -> None:
        value.attribute  # noqa: B018, F821

        class Body:
            inner = from_class_body  # noqa: F821

            def method(self) -> object:
                return lambda: nested(eval("by_text + 1"))  # noqa: F821

    names = global_names(code.__code__)
    assert names.read >= {"value", "from_class_body", "nested", "eval"}
    assert "attribute" not in names.read
    assert "by_text" in names.hinted


def test_home() -> None:
    assert home(helper) == (__name__, "helper")
    assert home(Method.go) == (__name__, "Method.go")
    assert home(lambda: 1) is None
    assert home(5) is None


@pytest.mark.parametrize("function", [helper, len, str.upper, int, Method, cached, lambda x: x, dict.fromkeys])
def test_stable_functions(function: object) -> None:
    assert function_is_stable(function)


def test_unstable_functions() -> None:
    count = 1

    def closure() -> int:
        return count

    for function in (closure, Method().go, functools.partial(helper), [].append, lambda x=[]: x):
        assert not function_is_stable(function)


def test_functions_of_a_module_share_its_globals() -> None:
    def local() -> object:
        return DATA

    copied = pickle.loads(dumps(local))
    assert copied is not local
    assert copied() is DATA


def test_closures_share_their_variable() -> None:
    count = 0

    def increase() -> int:
        nonlocal count
        count += 1
        return count

    def read() -> int:
        return count

    increase_too, read_too = pickle.loads(dumps((increase, read)))
    increase_too()
    assert (read_too(), read()) == (1, 0)


def test_local_classes_come_home_as_themselves() -> None:
    class Local:
        attribute = helper

    assert pickle.loads(dumps(Local)) is Local
    assert type(pickle.loads(dumps(Local()))) is Local


def test_namespaces_without_a_module() -> None:
    namespace: dict[str, object] = {"__name__": "nowhere"}
    exec("Q = 3\ndef g(x): return x + h()\ndef h(): return Q", namespace)
    assert pickle.loads(dumps(namespace["g"]))(1) == 4


@pytest.mark.skipif(sys.version_info < (3, 12), reason="syntax of Python 3.12")
def test_type_parameters() -> None:
    namespace: dict[str, object] = {"__name__": __name__}
    exec("class Box[T]:\n    def get(self) -> T: ...\ndef first[U](x: U) -> U: return x\ntype Alias = int", namespace)
    box, first, alias = pickle.loads(dumps((namespace["Box"], namespace["first"], namespace["Alias"])))
    assert box.__type_params__[0].__name__ == "T"
    assert first.__type_params__[0].__name__ == "U"
    assert alias.__value__ is int


USES = [
    lambda x: x.attribute,
    lambda x: x(),
    lambda x: x + 1,
    lambda x: 1 - x,
    lambda x: x[0],
    lambda x: list(x),
    lambda x: len(x),
    lambda x: bool(x),
    lambda x: x == 1,
    lambda x: x.__enter__(),
    lambda x: setattr(x, "attribute", 1),
    lambda x: 1 in x,
    lambda x: float(x),
]


@pytest.mark.parametrize("use", USES)
def test_every_use_of_a_placeholder_says_what_is_missing(use: types.FunctionType) -> None:
    with pytest.raises(SerializationError, match=r"'db' of __main__ .* sqlite3"):
        use(Unavailable("'db' of __main__", "sqlite3.Connection cannot be pickled"))


def test_placeholders_can_be_looked_at_and_sent_on() -> None:
    placeholder = Unavailable("'db'", "because")
    assert "because" in repr(placeholder)
    assert repr(pickle.loads(pickle.dumps(placeholder))) == repr(placeholder)
    assert repr(copy.copy(placeholder)) == repr(placeholder)


def test_transplant_keeps_identity_where_it_can() -> None:
    class Plain:
        def __init__(self, x: int) -> None:
            self.x = x

    for old, new in (
        ([1], [2]),
        ({1: 2}, {3: 4}),
        ({1}, {2}),
        (collections.deque([1]), collections.deque([2])),
        (collections.OrderedDict(a=1), collections.OrderedDict(b=1)),
    ):
        assert transplant(old, new) is old
        assert old == new
    plain = Plain(1)
    assert transplant(plain, Plain(2)) is plain
    assert plain.x == 2
    assert transplant(1, 2) == 2
    assert transplant([1], {1}) == {1}


def test_digests() -> None:
    assert digest("m", "x", [1, {"a": 2}]) == digest("m", "x", [1, {"a": 2}])
    assert digest("m", "x", [1]) != digest("m", "x", [2])
    assert digest("m", "x", 1) != digest("m", "x", 2)
    assert digest("m", "x", lambda: 1) == b""
    assert digest("m", "x", object()) == digest("m", "x", object())
    assert digest("m", "x", bytes(65 << 20)) == b"large"


def test_user_files() -> None:
    assert is_user_file(__file__)
    assert not is_user_file(types.__file__)
    assert not is_user_file(pytest.__file__)


@pytest.mark.skipif(sys.version_info < (3, 14), reason="until Python 3.14 annotations are evaluated at once")
def test_annotations_that_only_type_checkers_can_read() -> None:
    namespace: dict[str, object] = {"__name__": "__main__"}
    exec(compile("def f(x: NotThere): return x + 1", "<program>", "exec", dont_inherit=True), namespace)
    assert pickle.loads(dumps(namespace["f"]))(1) == 2
