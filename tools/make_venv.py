"""Make a virtual environment, or leave it alone when it is as asked for.

    python3 tools/make_venv.py FOLDER [--python PYTHON] -- PIP-ARGUMENTS...

Needs nothing but Python and pip: where the ``venv`` module lacks ``ensurepip`` (as in Debian's packages), the pip of
the calling Python fills the environment.  What was installed is remembered in FOLDER, together with a digest of
pyproject.toml, so that a second call returns at once.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OLDEST = (3, 10)


def interpreter_facts(python: str) -> tuple[str, tuple[int, int]]:
    """Real path and (major, minor) of an interpreter; ends the program when it cannot be used."""
    code = "import sys; print(sys.executable); print(*sys.version_info[:2])"
    try:
        answer = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"make_venv: {python} does not run: {error}")
    path, version = answer.stdout.splitlines()
    major, minor = version.split()
    return path, (int(major), int(minor))


def fingerprint(python: str, pip_arguments: list[str]) -> str:
    project = hashlib.sha256((ROOT / "pyproject.toml").read_bytes()).hexdigest()
    files = {name: digest(Path(name)) for name in pip_arguments if name.endswith((".whl", ".txt"))}
    return json.dumps({"python": python, "install": pip_arguments, "project": project, "files": files}, indent=1)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


def create(folder: Path, python: str) -> Path:
    """An empty environment with pip in it; returns its interpreter."""
    shutil.rmtree(folder, ignore_errors=True)
    inside = folder / "bin" / "python"
    made = subprocess.run([python, "-m", "venv", str(folder)], capture_output=True, text=True)
    if made.returncode == 0:
        return inside
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([python, "-m", "venv", "--without-pip", str(folder)], check=True)
    for pip in ([python, "-m", "pip"], [sys.executable, "-m", "pip"]):
        filled = subprocess.run(
            [*pip, "--python", str(inside), "install", "-qq", "pip"], capture_output=True, text=True
        )
        if filled.returncode == 0:
            return inside
    sys.exit(f"make_venv: no pip for {python}:\n{made.stdout}{made.stderr}{filled.stderr}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("pip_arguments", nargs="+")
    wanted = parser.parse_args()
    python, version = interpreter_facts(wanted.python)
    if version < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        sys.exit(f"make_venv: {python} is Python {version[0]}.{version[1]}; distpool needs {oldest} or newer")

    stamp = wanted.folder / "made-from.json"
    target = fingerprint(python, wanted.pip_arguments)
    if stamp.is_file() and stamp.read_text() == target and (wanted.folder / "bin" / "python").exists():
        return 0
    print(f"making {wanted.folder} (Python {version[0]}.{version[1]})", flush=True)
    inside = create(wanted.folder, python)
    # Errors only: which mirrors and caches pip looks at is nobody's concern here.
    install = [str(inside), "-m", "pip", "--disable-pip-version-check", "install", "-qq", *wanted.pip_arguments]
    if subprocess.run(install, cwd=ROOT).returncode != 0:
        sys.exit(f"make_venv: failed: {' '.join(install)}")
    stamp.write_text(target)
    return 0


if __name__ == "__main__":
    sys.exit(main())
