"""Driver half and worker half in two processes: programs of every kind, started in every way."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAMS = Path(__file__).parent / "programs"


def run(*arguments: str, cwd: Path, source: str | None = None) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    finished = subprocess.run(
        [sys.executable, *arguments], input=source, capture_output=True, text=True, timeout=50, env=environment, cwd=cwd
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout.strip()


@pytest.mark.parametrize("program", ["constructs", "changes", "user_modules"])
def test_program(program: str, tmp_path: Path) -> None:
    assert run(str(PROGRAMS / f"{program}.py"), str(tmp_path), cwd=tmp_path) == "ok"


#: Has no guard: a worker that ran it again would start workers without end.
UNGUARDED = """
from tests.code.rig import Rig
N = 3
class Point:
    def __init__(self, x): self.x = x
def shift(point): return Point(point.x + N)
with Rig() as rig:
    moved = rig.call(shift, Point(1))
    assert type(moved) is Point
    print(moved.x, rig.call(lambda: __name__))
"""


def test_script_without_a_guard(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(UNGUARDED)
    assert run("script.py", cwd=tmp_path) == "4 __main__"


def test_command_line_string(tmp_path: Path) -> None:
    assert run("-c", UNGUARDED, cwd=tmp_path) == "4 __main__"


def test_standard_input(tmp_path: Path) -> None:
    assert run("-", cwd=tmp_path, source=UNGUARDED) == "4 __main__"


def test_interactive_prompt(tmp_path: Path) -> None:
    lines = [
        "from tests.code.rig import Rig",
        "rig = Rig()",
        "def f(): return 1\n",
        "print('first', rig.call(f))",
        "def f(): return 2\n",
        "print('second', rig.call(f))",
        "print('third', rig.call(lambda: f() + 1))",
        "rig.__exit__()",
        "",
    ]
    out = run("-i", "-q", cwd=tmp_path, source="\n".join(lines))
    assert out.splitlines() == ["first 1", "second 2", "third 3"]


def test_package_run_as_a_program(tmp_path: Path) -> None:
    package = tmp_path / "pkg"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "part.py").write_text("Y = 2\n")
    (package / "__main__.py").write_text(
        "from tests.code.rig import Rig\n"
        "from . import part\n"
        "def f():\n"
        "    from . import part as again\n"
        "    from .part import Y\n"
        "    return again is part, Y\n"
        "with Rig(main_name=__spec__.name, main_file=__file__) as rig:\n"
        "    print(rig.call(f), rig.call(lambda: __file__) == __file__)\n"
    )
    assert run("-m", "pkg", cwd=tmp_path) == "(True, 2) True"


def test_module_in_a_zip_file(tmp_path: Path) -> None:
    import zipfile

    with zipfile.ZipFile(tmp_path / "library.zip", "w") as archive:
        archive.writestr("zipped.py", "VALUE = [1]\ndef read(): return VALUE\n")
    source = (
        "import sys; sys.path.insert(0, 'library.zip')\n"
        "import zipped; from tests.code.rig import Rig\n"
        "zipped.VALUE.append(2)\n"
        "with Rig() as rig:\n"
        "    print(rig.call(zipped.read), rig.modules_asked)\n"
    )
    assert run("-c", source, cwd=tmp_path) == "[1, 2] []"


def test_only_what_is_used_travels(tmp_path: Path) -> None:
    source = (
        "from tests.code.rig import Rig\n"
        "class Heavy:\n"
        "    def __reduce__(self): raise SystemExit('pickled')\n"
        "unused = Heavy()\n"
        "import colorsys\n"
        "def helper(): return 1\n"
        "def work(colour=False):\n"
        "    if colour: colorsys.rgb_to_hsv(0, 0, 0)\n"
        "    return helper()\n"
        "def loaded():\n"
        "    import sys\n"
        "    return 'colorsys' in sys.modules, sorted(n for n in vars(sys.modules['__main__']) if n[0] != '_')\n"
        "with Rig() as rig:\n"
        "    print(rig.call(work), rig.call(loaded), rig.asked)\n"
        "    rig.call(work, True); print(rig.call(loaded)[0])\n"
    )
    # One question for a function and all that it needs.
    first = "1 (False, ['colorsys', 'helper', 'loaded', 'work']) [['work@1'], ['loaded@2']]"
    assert run("-c", source, cwd=tmp_path).splitlines() == [first, "True"]


def test_threads_that_meet_missing_names_at_once(tmp_path: Path) -> None:
    source = (
        "from tests.code.rig import Rig\n"
        "import threading\n"
        "class A: pass\n"
        "class B(A): pass\n"
        "def f(): return B()\n"
        "def many():\n"
        "    import __main__\n"
        "    found = []\n"
        "    def look(): found.append((__main__.B, __main__.A, type(__main__.f())))\n"
        "    threads = [threading.Thread(target=look) for _ in range(8)]\n"
        "    [t.start() for t in threads]; [t.join() for t in threads]\n"
        "    return len(found), len(set(found))\n"
        "with Rig() as rig:\n"
        "    print(rig.call(many))\n"
    )
    assert run("-c", source, cwd=tmp_path) == "(8, 1)"


def test_functions_without_a_name_see_rebound_globals_of_their_module(tmp_path: Path) -> None:
    (tmp_path / "levels.py").write_text(
        "level = 1\n"
        "def reader(): return lambda: (level, added, json.dumps(level))\n"
        "def setter():\n"
        "    def set():\n"
        "        global level\n"
        "        level = 'own'\n"
        "    return set\n"
    )
    source = """
import json, levels
from tests.code.rig import Rig
levels.added, levels.json = None, json
with Rig(user_modules=("levels",)) as rig:
    print(rig.call(levels.reader()))
    levels.level, levels.added = 2, "more"
    print(rig.call(levels.reader()))
    rig.call(levels.setter())
    print(rig.call(levels.reader()))  # the driver's has not changed
    levels.level = 3
    print(rig.call(levels.reader()))
"""
    (tmp_path / "script.py").write_text(source)
    expected = ["(1, None, '1')", "(2, 'more', '2')", "('own', 'more', '\"own\"')", "(3, 'more', '3')"]
    assert run("script.py", cwd=tmp_path).splitlines() == expected
