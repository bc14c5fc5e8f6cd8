"""Values, exceptions and functions that do what they should not, for ``test_bad_inputs``; imported by workers, too."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, NoReturn


class Hostile:
    """Does ``what`` at the moment ``when``.

    :param when: a method's name, or ``load``: when it is unpickled.
    :param what: a key of ``DEEDS``.
    """

    def __init__(self, when: str, what: str) -> None:
        self.__dict__.update(when=when, what=what, alive=True)

    def _maybe(self, when: str) -> None:
        if self.__dict__.get("when") == when:
            DEEDS[self.__dict__["what"]]()

    def __reduce__(self) -> Any:
        self._maybe("__reduce__")
        when, what = self.__dict__["when"], self.__dict__["what"]
        if when == "lie":
            return LIES[what]
        return make, (when, what), None

    def __getattr__(self, name: str) -> Any:
        self._maybe("__getattr__")
        raise AttributeError(name)

    def __eq__(self, other: object) -> bool:
        self._maybe("__eq__")
        return self is other

    def __hash__(self) -> int:
        self._maybe("__hash__")
        return 1

    def __repr__(self) -> str:
        self._maybe("__repr__")
        return "hostile"

    def __bool__(self) -> bool:
        self._maybe("__bool__")
        return True

    def __len__(self) -> int:
        self._maybe("__len__")
        return 1

    def __iter__(self) -> Iterator[int]:
        self._maybe("__iter__")
        while True:
            yield 1

    def __sizeof__(self) -> int:
        self._maybe("__sizeof__")
        return 1

    def __del__(self) -> None:
        self._maybe("__del__")


METHODS = [
    "__reduce__",
    "__getattr__",
    "__eq__",
    "__hash__",
    "__repr__",
    "__bool__",
    "__len__",
    "__iter__",
    "__sizeof__",
    "__del__",
    "load",
]


def make(when: str, what: str) -> Hostile:
    if when == "load":
        DEEDS[what]()
    return Hostile(when, what)


def give(kind: type[BaseException]) -> Callable[[], NoReturn]:
    def deed() -> NoReturn:
        raise kind("hostile")

    return deed


def recurse() -> None:
    recurse()


class Odd(BaseException):
    """No ``Exception``."""


DEEDS: dict[str, Callable[[], object]] = {
    "ValueError": give(ValueError),
    "TypeError": give(TypeError),
    "AttributeError": give(AttributeError),
    "StopIteration": give(StopIteration),
    "GeneratorExit": give(GeneratorExit),
    "MemoryError": give(MemoryError),
    "EOFError": give(EOFError),
    "Odd": give(Odd),
    "RecursionError": recurse,
    "nothing": lambda: None,
}

#: What ``__reduce__`` returns.
LIES: dict[str, Any] = {
    "a number": 7,
    "an empty tuple": (),
    "no callable": (7, ()),
    "no arguments": (make, None),
    "too few arguments": (make, ()),
    "an unknown name": "there_is_no_such_name",
    "another type": (int, ("7",)),
    "a state that it does not take": (int, ("7",), {"a": 1}),
    "too long": (make, ("lie", "a number"), None, None, None, None, None, None),
    "items for a list that is none": (int, ("7",), None, iter([1])),
}


class NeedsTwo(Exception):
    """Its ``__init__`` cannot be called with its ``args``."""

    def __init__(self, first: object, second: object) -> None:
        super().__init__(f"{first} and {second}")


class HasALock(Exception):
    def __init__(self) -> None:
        super().__init__("locked")
        self.lock = threading.Lock()


class NoWords(Exception):
    def __str__(self) -> str:
        raise ValueError("no words")

    __repr__ = __str__


class LiesAboutItself(Exception):
    def __reduce__(self) -> Any:
        return dict, ()


class LeavesWhenLoaded(Exception):
    def __reduce__(self) -> Any:
        return os.getenv, (1, 2, 3)


class NoClass(Exception):
    @property
    def __class__(self) -> Any:  # type: ignore[override]
        raise ValueError("no class")


class Several(Exception):
    """Stands for an exception group where there are none."""


def group() -> BaseException:
    """An exception group that contains one, and what does not travel by itself."""
    if sys.version_info < (3, 11):
        return Several("no groups")
    inner = ExceptionGroup("inner", [ValueError(1), NeedsTwo(1, 2)])  # noqa: F821
    return ExceptionGroup("outer", [inner, KeyError("key"), HasALock()])  # noqa: F821


def base_group() -> BaseException:
    if sys.version_info < (3, 11):
        return Several("no groups")
    return BaseExceptionGroup("base", [KeyboardInterrupt(), Odd("odd")])  # noqa: F821


def long_lines() -> BaseException:
    """Its traceback is large."""
    frames = "".join(f"def f{n}(): f{n - 1}() # {'x' * 5000}\n" for n in range(1, 100))
    names: dict[str, Any] = {}
    exec(compile(f"def f0(): raise ValueError('deep')\n{frames}", "<long lines>", "exec"), names)
    try:
        names["f99"]()
    except ValueError as error:
        return error
    raise AssertionError


def cyclic() -> BaseException:
    first, second = ValueError("first"), KeyError("second")
    first.__cause__, second.__cause__ = second, first
    first.__context__ = first
    return first


def long_chain() -> BaseException:
    error = ValueError("0")
    for number in range(3000):
        error, error.__context__ = ValueError(str(number)), error
    return error


def local_class() -> BaseException:
    class Local(Exception):
        pass

    return Local("local")


def of_itself() -> BaseException:
    error = ValueError()
    error.args = (error, [error])
    return error


def with_odd_notes() -> BaseException:
    error = ValueError("noted")
    error.__notes__ = 7  # type: ignore[attr-defined]
    return error


EXCEPTIONS: dict[str, Callable[[], BaseException]] = {
    "needs two": lambda: NeedsTwo(1, 2),
    "has a lock": HasALock,
    "no words": NoWords,
    "lies": LiesAboutItself,
    "fails when loaded": LeavesWhenLoaded,
    "no class": NoClass,
    "cyclic": cyclic,
    "long chain": long_chain,
    "local class": local_class,
    "of itself": of_itself,
    "odd notes": with_odd_notes,
    "huge": lambda: ValueError("x" * (8 << 20)),
    "hostile argument": lambda: ValueError(Hostile("load", "Odd")),
    "hostile words": lambda: ValueError(Hostile("__repr__", "RecursionError")),
    "base": lambda: Odd("odd"),
    "StopIteration": lambda: StopIteration(7),
    "GeneratorExit": GeneratorExit,
    "KeyboardInterrupt": KeyboardInterrupt,
    "SystemExit": lambda: SystemExit("text"),
    "group": group,
    "base group": base_group,
    "long lines": long_lines,
    "surrogate": lambda: ValueError("\udc80"),
}


def hand_back(value: Any = None, **keywords: Any) -> Any:
    return value


def take(value: Any = None, **keywords: Any) -> str:
    return "taken"


def make_result(when: str, what: str, depth: int) -> Any:
    return wrap(Hostile(when, what), depth)


def wrap(value: Any, depth: int) -> Any:
    for number in range(depth):
        value = ([value], {"key": value}, (value, 1))[number % 3]
    return value


def fail(name: str, depth: int) -> NoReturn:
    if depth:
        fail(name, depth - 1)
    error = EXCEPTIONS[name]()
    raise error


class OnlyThere:
    """Can be unpickled in the process that made it, and nowhere else."""

    def __reduce__(self) -> Any:
        return load_only_in, (os.getpid(),)


def load_only_in(pid: int) -> OnlyThere:
    if os.getpid() != pid:
        raise LookupError("it is of no use here")
    return OnlyThere()


def only_there() -> OnlyThere:
    return OnlyThere()


def generator() -> Iterator[int]:
    return (number for number in range(3))


class Restless:
    """Changes what contains it, while that is pickled."""

    def __init__(self, container: Any) -> None:
        self.container = container

    def __reduce__(self) -> Any:
        if isinstance(self.container, dict):
            self.container[len(self.container)] = 1
        elif isinstance(self.container, set):
            self.container.add(len(self.container))
        elif len(self.container) < 50:
            self.container.append(len(self.container))
        else:
            self.container.clear()
        return int, ("7",)

    def __hash__(self) -> int:
        return 7


def restless(kind: type[Any]) -> Any:
    container = kind()
    things: list[Any] = [Restless(container), 1, Restless(container), 2]
    if isinstance(container, dict):
        container.update(enumerate(things))
    elif isinstance(container, set):
        container.update(things)
    else:
        container.extend(things)
    return container


class Endless:
    """Its pickle has no end."""

    def __reduce__(self) -> Any:
        return list, (), None, _numbers()


def _numbers() -> Iterator[int]:
    while True:
        yield 1


def endless() -> Endless:
    return Endless()


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value
