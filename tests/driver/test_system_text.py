"""Paths, arguments and environment that are no Unicode: where the locale says ASCII, or as files are simply called."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.watchdog(60)

_NAME = "prög-é"
_ASCII = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "POSIX", "PYTHONIOENCODING": "utf-8:surrogateescape"}
_BESIDE = "def where():\n    return __file__\n\ndef fail():\n    raise ValueError(__file__)\n"
_PROGRAM = """
import os, sys
import numpy as np
import beside
import distpool
from distpool import DistExecutor

def look(_):
    return sys.argv, os.getcwd(), sys.path, __file__, dict(os.environ), beside.where()

def end():
    os._exit(7)

def nested():
    with DistExecutor(1) as executor:
        return executor.submit(look, 0).result()[:4]

if __name__ == "__main__":
    here = look(0)
    with DistExecutor(2) as executor:
        there = executor.submit(look, 0).result()
        assert there[:4] == here[:4], (there[:4], here[:4])
        assert there[5] == here[5], (there[5], here[5])
        odd = {name: value for name, value in there[4].items() if name.startswith("ODD")}
        assert odd == {name: value for name, value in here[4].items() if name.startswith("ODD")}
        assert len(odd) == 2, odd
        assert executor.submit(nested).result() == here[:4]
        assert str(executor.submit(beside.fail).exception()) == beside.where()
        assert executor.submit(np.sum, np.ones(200_000)).result() == 200_000
        executor.submit(print, __file__).result()
        with distpool.options(max_retries=0):
            assert "exit code 7" in str(executor.submit(end).exception())
    print("done")
"""


@pytest.mark.parametrize("locale", [_ASCII, {}], ids=["ascii", "of the machine"])
@pytest.mark.parametrize("cluster", [False, True], ids=["private", "cluster"])
def test_what_is_no_unicode_arrives_as_it_is(tmp_path: Path, locale: dict[str, str], cluster: bool) -> None:
    folder = os.fsencode(tmp_path) + b"/odd \xff"
    os.mkdir(folder)
    script = os.path.join(folder, _NAME.encode() + b".py")
    for path, text in ((script, _PROGRAM), (os.path.join(folder, b"beside.py"), _BESIDE)):
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
    environment = {
        **{os.fsencode(name): os.fsencode(value) for name, value in {**os.environ, **locale}.items()},
        b"XDG_STATE_HOME": os.fsencode(tmp_path / "state"),
        b"PYTHONPATH": os.pathsep.encode().join([os.fsencode(path) for path in sys.path if path] + [b"/none \xfe"]),
        b"ODD": b"\xff=\xfe",
        b"ODD\xff": _NAME.encode(),
        b"TMPDIR": folder,
    }

    def run(*words: bytes | str) -> bytes:
        command = [os.fsencode(word) for word in (sys.executable, *words)]
        done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, timeout=50)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    try:
        if cluster:
            said = run("-m", "distpool", "start", "--head", "--host", "127.0.0.1", "--port", "0", "--num-cpus", "2")
            environment[b"DISTPOOL_ADDRESS"] = said.partition(b"listens at ")[2].partition(b";")[0]
        assert run(script, b"\xff", _NAME.encode()).endswith(b"done\n")
        if cluster:
            assert b"0 of 2 CPUs" in run("-m", "distpool", "status")
    finally:
        run("-m", "distpool", "stop")
