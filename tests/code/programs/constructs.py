# ruff: noqa: B006, E741, PIE796, PT015, PT017, PT018, RUF023, UP033 - a program as people write them
from __future__ import annotations

import abc
import collections
import dataclasses
import enum
import functools
import sqlite3
import threading
import typing
import xml.etree.ElementTree

import numpy as np

from tests.code.rig import RemoteError, Rig

K = 3


def plain(x):
    return x + K


def defaults(a, b=[1], *, c={"k": 2}):
    return a, b, c


def fact(n):
    return 1 if n == 0 else n * fact(n - 1)


def even(n):
    return True if n == 0 else odd(n - 1)


def odd(n):
    return False if n == 0 else even(n - 1)


def deco(f):
    @functools.wraps(f)
    def inner(*a):
        return ("deco", f(*a))

    return inner


@deco
def decorated(x):
    return plain(x)


@functools.lru_cache(maxsize=None)
def fib(n):
    return n if n < 2 else fib(n - 1) + fib(n - 2)


@functools.singledispatch
def show(x):
    return "object"


@show.register
def _(x: int):
    return "int"


@show.register(list)
def show_list(x):
    return "list"


def gen(n):
    yield from range(n)


def use_gen(n):
    return list(gen(n))


async def co(x):
    return x


def run_co(x):
    import asyncio

    return asyncio.run(co(x))


class Base:
    registry = {}
    other = None

    def hi(self):
        return "base"

    @classmethod
    def make(cls):
        return cls()

    @staticmethod
    def st(x):
        return x * K

    @property
    def p(self):
        return 7


class Child(Base):
    def hi(self):
        return "child " + super().hi()


Base.other = Child


@dataclasses.dataclass
class D:
    x: int
    y: list = dataclasses.field(default_factory=list)


@dataclasses.dataclass(slots=True)
class DS:
    x: int
    y: int = 5


class Color(enum.Enum):
    RED = 1
    ROUGE = 1
    BLUE = 2

    def name2(self):
        return self.name.lower()


class Flag(enum.IntFlag):
    A = 1
    B = 2


class NT(typing.NamedTuple):
    a: int
    b: str = "x"


NT2 = collections.namedtuple("NT2", "a b")


class TD(typing.TypedDict, total=False):
    a: int


class Ab(abc.ABC):
    @abc.abstractmethod
    def f(self): ...


class Impl(Ab):
    def f(self):
        return 1


T = typing.TypeVar("T")
P = typing.ParamSpec("P")
UserId = typing.NewType("UserId", int)


class Gen(typing.Generic[T]):
    def __init__(self, x: T):
        self.x = x


class Outer:
    class Inner:
        v = 5

        def go(self):
            return Outer.Inner.v


class Meta(type):
    def __new__(m, name, bases, ns, **kw):
        ns.setdefault("tag", name)
        return super().__new__(m, name, bases, ns)

    def __len__(cls):
        return 42


class WithMeta(metaclass=Meta):
    pass


class Hook:
    subs = []

    def __init_subclass__(cls, *, req, **kw):
        Hook.subs.append(req)


class Hooked(Hook, req=5):
    z = 1


class Slots:
    __slots__ = ("a", "__b")

    def __init__(self):
        self.a = 1
        self.__b = 2

    def b(self):
        return self.__b


class CP:
    @functools.cached_property
    def v(self):
        return 9


lock = threading.Lock()
rl = threading.RLock()
ev = threading.Event()
ev.set()
cond = threading.Condition()
sem = threading.Semaphore(3)
tl = threading.local()
conn = sqlite3.connect(":memory:")
state = {"conn": conn, "n": 4}
CACHE = {}


def cached(x, cache=CACHE):
    cache[x] = 1
    return cache is CACHE


class App:
    def task(self, f):
        def w(*a):
            return f(*a), self is app

        return w


app = App()


@app.task
def tasked(x):
    return x


arr = np.arange(5)


def main():
    global K
    with Rig() as rig:
        c = rig.call
        assert c(plain, 1) == 4
        assert c(defaults, 1) == (1, [1], {"k": 2})
        assert c(fact, 5) == 120
        assert c(even, 10) is True
        assert c(decorated, 1) == ("deco", 4)
        assert c(fib, 30) == 832040
        assert c(lambda: (show(1), show([]), show(""))) == ("int", "list", "object")
        assert c(show, 1) == "int"
        assert c(use_gen, 3) == [0, 1, 2]
        assert c(run_co, 3) == 3
        assert c(lambda: Child().hi()) == "child base"
        r = c(Child.make)
        assert type(r) is Child
        assert c(lambda o: isinstance(o, Child) and isinstance(o, Base) and o.other is Child, Child())
        assert c(Base.st, 3) == 9 and c(lambda: Base().p) == 7
        d = c(D, 1)
        assert type(d) is D and d == D(1)
        assert c(lambda d: dataclasses.replace(d, x=4), D(1)) == D(4)
        assert c(lambda: D.__dataclass_fields__["x"].default is dataclasses.MISSING)
        s = c(DS, 1)
        assert type(s) is DS and s == DS(1)
        assert c(lambda: hasattr(DS(1), "__dict__")) is False
        assert c(lambda: Color.RED) is Color.RED
        assert c(lambda x: (x is Color.RED, Color.ROUGE is Color.RED, x.name2()), Color.RED) == (True, True, "red")
        assert c(lambda: Flag.A | Flag.B) == Flag.A | Flag.B
        n = c(NT, 1)
        assert type(n) is NT and n == (1, "x")
        assert type(c(NT2, 1, 2)) is NT2
        assert c(lambda: TD(a=1)) == {"a": 1}
        assert c(lambda: sorted(TD.__optional_keys__)) == ["a"]
        assert type(c(Impl)) is Impl
        assert c(lambda: isinstance(Impl(), Ab)) is True
        try:
            c(lambda: Ab())
        except RemoteError as e:
            assert "abstract" in str(e)
        else:
            assert 0
        assert c(lambda: Gen[int](3).x) == 3
        assert type(c(Gen, 3)) is Gen

        def ann(x: T) -> T:
            return x

        assert c(ann, 3) == 3

        def ann2(x: UserId, f: typing.Callable[P, int]) -> T:
            return UserId(x)

        assert c(ann2, 3, None) == 3
        i = c(Outer.Inner)
        assert type(i) is Outer.Inner and c(i.go) == 5
        assert c(Outer.Inner.go, i) == 5
        assert c(lambda: len(WithMeta)) == 42 and type(c(WithMeta)) is WithMeta
        h = c(Hooked)
        assert type(h) is Hooked
        assert c(lambda: Hook.subs) == [5]
        assert c(lambda: (Slots().b(), hasattr(Slots(), "__dict__"))) == (2, False)
        assert c(lambda: CP().v) == 9

        def locks():
            with lock, rl, cond, sem:
                pass
            tl.x = 1
            return ev.is_set()

        assert c(locks) is True
        try:
            c(lambda: conn.execute("x"))
        except RemoteError as e:
            assert "'conn' of __main__" in str(e) and "sqlite3.Connection" in str(e), e
        else:
            assert 0
        assert c(lambda: state["n"]) == 4
        try:
            c(lambda: state["conn"].execute)
        except RemoteError as e:
            assert "sqlite3.Connection" in str(e) and "'state'" in str(e), e
        else:
            assert 0
        assert c(cached, 3) is True
        assert c(lambda: tasked(3)) == (3, True)
        assert c(lambda: arr.sum() + np.float64(1)) == 11
        assert c(lambda: xml.etree.ElementTree.fromstring("<a/>").tag) == "a"

        def counter():
            n = 0

            def inc():
                nonlocal n
                n += 1
                return n

            def get():
                return n

            return inc, get

        inc, get = counter()
        assert c(lambda: (inc(), inc(), get())) == (1, 2, 2)

        def rec(n):
            return 0 if n == 0 else 1 + rec(n - 1)

        assert c(rec, 5) == 5

        class Local:
            def me(self):
                return __class__

        l = c(Local)
        assert type(l) is Local, (type(l), Local)
        assert c(lambda a: type(a) is Local, Local())
        assert type(c(lambda: Local())) is Local
        g = c(lambda: plain)
        assert g is plain
        g = c(lambda: lambda x: plain(x) + K)
        assert g(1) == 7 and g.__globals__ is globals()

        def m1():
            import sys

            import __main__

            return __main__.K, sys.modules["__main__"].CACHE is CACHE, sys.modules["__mp_main__"] is __main__, __name__

        assert c(m1) == (3, True, True, "__main__")
        assert c(eval, "1+1") == 2

        def ev2():
            return eval("K + len(UNSEEN)")

        global UNSEEN
        UNSEEN = [1, 2]
        assert c(ev2) == 5
        # rebinding

        K = 10
        assert c(plain, 1) == 11
        K = 11
        w2 = rig.start()
        assert w2.call(plain, 1) == 12 and c(plain, 1) == 12

    print("ok")


if __name__ == "__main__":
    main()
