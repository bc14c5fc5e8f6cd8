# ruff: noqa: PT015, PT017, PT018 - a program as people write them
"""Names that are bound anew, deleted or newly defined while workers run."""

from __future__ import annotations

from distpool.wire.worker_to_driver import FetchDefinitions
from tests.code.rig import RemoteError, Rig


def f():
    return 1


def helper():
    return "h1"


def usehelper():
    return helper()


class A:
    pass


class B(A):
    pass


A.child = B
A.inst = None


def later():
    return not_yet


counter = 0


def bump():
    global counter
    counter += 1
    return counter


def init():
    global handle
    handle = "from init"


def use_handle():
    return handle


def shadow():
    return sum([1, 2])


class Foo:
    v = 1


x_inst = Foo()
Foo.inst = x_inst
if __name__ == "__main__":
    with Rig() as rig:
        c = rig.call
        # redefinition
        olds = []
        for i in range(3):
            exec(f"def f(): return {i}", globals())
            olds.append(f)
        assert [c(g) for g in olds] == [0, 1, 2]
        assert c(lambda: f()) == 2
        exec("def f(): return 'new'", globals())
        assert c(f) == "new" and c(lambda: f()) == "new" and c(olds[0]) == 0
        assert c(usehelper) == "h1"
        exec("def helper(): return 'h2' + extra()\ndef extra(): return 'x'", globals())
        assert c(usehelper) == "h2x"
        assert c(lambda: (B.child is B, A.child is B, issubclass(B, A))) == (True, True, True)
        w2 = rig.start()
        assert w2.call(lambda: A.child.__mro__[1] is A)
        w3 = rig.start()
        assert w3.call(lambda: B.child is B)
        try:
            c(later)
        except RemoteError as e:
            assert "NameError" in str(e)
        else:
            assert 0
        not_yet = 4
        assert c(later) == 4
        del not_yet
        try:
            c(later)
        except RemoteError as e:
            assert "NameError" in str(e)
        else:
            assert 0
        assert [c(bump) for _ in range(3)] == [1, 2, 3]
        assert counter == 0
        c(init)
        assert c(use_handle) == "from init"
        handle = "driver's"
        assert c(use_handle) == "from init"
        assert c(shadow) == 3

        def sum(x):
            return "mine"

        assert c(shadow) == "mine"
        del sum
        assert c(shadow) == 3
        assert w3.call(lambda: Foo.inst is x_inst) is True
        w4 = rig.start()
        assert w4.call(lambda: (type(x_inst) is Foo, Foo.inst is x_inst)) == (True, True)
        A = type("A", (), {"v": 3})
        assert c(lambda: A.v) == 3
        # exec'd namespace
        ns = {"__name__": "__main__"}
        exec("Q = 3\ndef g(x): return x + Q + h()\ndef h(): return 1", ns)
        assert c(ns["g"], 1) == 5
        # lazy module
        import colorsys

        assert c(lambda: type(colorsys).__name__) == "LazyModule"
        assert c(lambda: (colorsys.rgb_to_hsv(0, 0, 0), type(colorsys).__name__)[1]) == "module"
        # nested driver: worker serves own main
        from distpool.wire.worker_to_driver import FetchDefinitions

        def nested():
            from distpool.code.definitions import DefinitionServer

            s = DefinitionServer()
            a = s.answer(b"", FetchDefinitions(1, "__main__", ["usehelper", "nosuch"]))
            return sorted(n for n, _ in a.entries), a.absent

        r = c(nested)
        assert r == (["extra", "helper", "usehelper"], ["nosuch"])
    print("ok")
