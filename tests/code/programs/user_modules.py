# ruff: noqa: E402, PT017 - a program as people write them
"""State of the user's own modules, modules made in memory, modules that only the driver can import."""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path

FOLDER = Path(sys.argv[1])

(FOLDER / "config.py").write_text(
    """
import threading, sqlite3
from os import environ
DEBUG = False
TABLE = {"a": 1}
ITEMS = [1]
_MISSING = object()
lock = threading.Lock()
db = sqlite3.connect(":memory:")
late_db = None
class Settings:
    def __init__(self): self.level = 1
settings = Settings()
captured = settings
def read(default=_MISSING): return default is _MISSING, DEBUG, TABLE, ITEMS, settings.level, captured is settings
def patched(): return "original"
def call_patched(): return patched()
HOOKS = {"f": lambda: 1}
def make(k):
    def inner(x): return x + k
    return inner
class Thing: pass
"""
)
(FOLDER / "circ_a.py").write_text("VALUE = {}\nimport circ_b\nclass A: pass\nOBJ = [circ_b.B()]\n")
(FOLDER / "circ_b.py").write_text("STATE = {}\nimport circ_a\nclass B: pass\n")
(FOLDER / "hidden").mkdir()
(FOLDER / "hidden" / "secret.py").write_text("N = 1\ndef f(): return N, __name__\n")

sys.path.insert(0, str(FOLDER))
import circ_a
import circ_b
import config

from tests.code.rig import RemoteError, Rig

config.DEBUG = True
config.TABLE["b"] = 2
config.ITEMS.append(2)
config.settings.level = 5
config.late_db = config.db
config.new_name = 77


def replacement():
    return "patched"


config.patched = replacement
circ_a.VALUE["b"] = circ_b.B()
circ_b.STATE["a"] = circ_a.A()

dynamic = types.ModuleType("dynamic")
sys.modules["dynamic"] = dynamic
exec("Z = 5\ndef add(x): return x + Z\nclass C: pass", dynamic.__dict__)

spec = importlib.util.spec_from_file_location("secret", FOLDER / "hidden" / "secret.py")
secret = importlib.util.module_from_spec(spec)
sys.modules["secret"] = secret
spec.loader.exec_module(secret)
secret.N = 2


def work():
    return config.read(), config.new_name, config.call_patched()


def circular():
    import circ_a

    b = circ_a.circ_b
    return type(circ_a.VALUE["b"]) is b.B, type(b.STATE["a"]) is circ_a.A, isinstance(circ_a.OBJ[0], b.B)


def use_late_db():
    return config.late_db.execute("select 1")


def use_own_db():
    return config.db.execute("select 1").fetchone()


def main():
    with Rig() as rig:
        call = rig.call
        assert call(work) == ((True, True, {"a": 1, "b": 2}, [1, 2], 5, True), 77, "patched")
        assert call(circular) == (True, True, True)
        try:
            call(use_late_db)
        except RemoteError as error:
            assert "'late_db' of config" in str(error), error
        else:
            raise AssertionError
        # What cannot be carried, but importing the module gives anyway, is the worker's own.
        assert call(use_own_db) == (1,)
        assert call(config.make(3), 4) == 7
        assert call(lambda: config.HOOKS["f"]()) == 1
        assert type(call(config.Thing)) is config.Thing
        assert rig.modules_asked == [], rig.modules_asked
        assert call(dynamic.add, 3) == 8
        assert type(call(dynamic.C)) is dynamic.C
        assert call(lambda: dynamic.add(1)) == 6
        assert call(secret.f) == (2, "secret")
        assert rig.modules_asked == ["dynamic", "secret"], rig.modules_asked
    print("ok")


if __name__ == "__main__":
    main()
