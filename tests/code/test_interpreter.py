"""What is left with the interpreter, to be called when the process forks or ends."""

from __future__ import annotations

import subprocess
import sys

_PROGRAM = """
import gc, os, weakref
from distpool import interpreter

class Callback:
    def __init__(self, word):
        self.word = word
    def __call__(self):
        print(self.word, flush=True)

callbacks = [Callback("one"), Callback("two")]
for callback in callbacks:
    interpreter.call_after_fork(callback)
last = Callback("before joining")
interpreter.call_before_joining(last)
held = [*map(weakref.ref, callbacks), weakref.ref(last)]
del callbacks, callback, last

def fork():
    pid = os.fork()
    if not pid:
        os._exit(0)
    os.waitpid(pid, 0)

fork()
print("parent", flush=True)
{end}
gc.collect()
print([each() is None for each in held], flush=True)
fork()
"""


def run(end: str) -> list[str]:
    program = _PROGRAM.format(end=end)
    done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, timeout=60, check=True)
    return done.stdout.splitlines()


def test_callbacks_are_called_in_the_order_in_which_they_came() -> None:
    expected = ["one", "two", "parent", "[False, False, False]", "one", "two", "before joining"]
    assert run("") == expected


def test_what_is_let_go_is_neither_held_nor_called() -> None:
    assert run("interpreter.let_go()") == ["one", "two", "parent", "[True, True, True]"]
