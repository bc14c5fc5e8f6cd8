"""Processes that are not children by ``multiprocessing``'s book: they get a pickle, as our workers do."""

from __future__ import annotations

import io
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from distpool.sharing import Parentage, Shared, dispatch_table, sharing

_PROGRAM = """
import pickle, sys
sys.path[:] = pickle.load(sys.stdin.buffer)
pickle.load(sys.stdin.buffer).adopt()
function, args = pickle.load(sys.stdin.buffer)
try:
    answer = True, function(*args)
except BaseException as error:
    answer = False, error
sys.stdout.buffer.write(pickle.dumps(answer))
"""


def dumps(value: Any) -> bytes:
    """Pickle as distpool does."""
    file = io.BytesIO()
    pickler = pickle.Pickler(file, 5)
    table = dispatch_table()
    if table is not None:
        pickler.dispatch_table = table
    pickler.dump(value)
    return file.getvalue()


class Stranger:
    """A process that runs ``function(*args)``, in which ``args`` are shared."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        with sharing() as shared:
            call = dumps((function, args))
        parentage = pickle.dumps(Parentage.capture(shared))
        self.shared: Shared = shared
        self.process = subprocess.Popen([sys.executable, "-c", _PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.process.stdin is not None
        for message in (pickle.dumps(sys.path), parentage, call):
            self.process.stdin.write(message)
        self.process.stdin.close()

    def result(self) -> Any:
        """What the function returned."""
        assert self.process.stdout is not None
        with self.process.stdout as stdout:
            answer = stdout.read()
        self.process.wait()
        self.shared.close()
        ok, value = pickle.loads(answer)
        if ok:
            return value
        raise value
