"""The wheel: what it holds, and that it works in an environment that has nothing else.

``DISTPOOL_TEST_WHEEL`` names a wheel that is there already; otherwise one is built from the checkout.
"""

from __future__ import annotations

import email
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

PROGRAM = """
import distpool.multiprocessing as multiprocessing

def square(number):
    return number * number

with multiprocessing.Pool(2) as pool:
    print(pool.map(square, range(10)))
"""


def pip(python: str, *arguments: str) -> None:
    command = [python, "-m", "pip", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    given = os.environ.get("DISTPOOL_TEST_WHEEL")
    if given:
        return Path(given)
    if not (ROOT / "distpool" / "version.py").exists():
        pytest.fail("no checkout to build a wheel from: set DISTPOOL_TEST_WHEEL")
    folder = tmp_path_factory.mktemp("wheel")
    pip(sys.executable, "wheel", "-q", "--no-deps", "-w", str(folder), str(ROOT))
    (built,) = folder.glob("distpool-*.whl")
    return built


@pytest.mark.watchdog(300)
def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata_name,) = [name for name in names if name.endswith(".dist-info/METADATA")]
        metadata = email.message_from_bytes(archive.read(metadata_name))
        (entry_points,) = [archive.read(name).decode() for name in names if name.endswith("entry_points.txt")]
    assert "distpool/py.typed" in names
    assert "distpool/wire/channel.py" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert {name.split("/")[0].split("-")[0] for name in names} == {"distpool"}
    assert not [name for name in names if name.endswith((".pyc", ".so"))]
    assert metadata["Requires-Python"] == ">=3.10"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert "distpool = distpool.cli:main" in entry_points


@pytest.mark.watchdog(600)
def test_it_works_in_a_clean_environment(wheel: Path, tmp_path: Path) -> None:
    environment = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True, capture_output=True)
    python = str(environment / "bin" / "python")
    pip(python, "install", "-q", str(wheel))

    def run(*command: str) -> str:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=clean, timeout=120)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        return done.stdout

    assert run(str(environment / "bin" / "distpool"), "--version").startswith("distpool ")
    installed = run(python, "-c", "import distpool; print(distpool.__file__)").strip()
    assert Path(installed).is_relative_to(environment)
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    assert run(python, str(program)) == f"{[number * number for number in range(10)]}\n"


@pytest.mark.skipif("DISTPOOL_TEST_WHEEL" not in os.environ, reason="only where the installed wheel is under test")
def test_these_tests_run_against_the_installed_wheel() -> None:
    import distpool.version

    assert "site-packages" in Path(distpool.version.__file__).parts
