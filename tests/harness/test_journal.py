"""After a hang, a second run does the rest, and the sum tells of all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

INNER = """
from __future__ import annotations
import os
import pytest

def test_good():
    pass

def test_bad():
    assert False

def test_hang():
    os.abort()

@pytest.mark.parametrize("text", ["a b", "\\n'"])
def test_later(text):
    pass

@pytest.mark.skip(reason="shown")
def test_skipped():
    pass
"""


def test_a_second_run_does_what_the_first_had_not_begun(tmp_path: Path) -> None:
    for name in ("tests/conftest.py", "pyproject.toml"):
        target = tmp_path / name
        target.parent.mkdir(exist_ok=True)
        target.write_text((ROOT / name).read_text())
    (tmp_path / "tests" / "support").symlink_to(ROOT / "tests" / "support")
    (tmp_path / "tests" / "test_inner.py").write_text(INNER)
    journal = tmp_path / "journal"
    environment = {**os.environ, "DISTPOOL_TEST_JOURNAL": str(journal)}

    def run() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)

    assert run().returncode < 0
    second = run()
    assert second.returncode == 0
    assert "2 passed, 1 skipped, 3 deselected" in second.stdout
    script = ROOT / "tests" / "support" / "journal.py"
    summed = subprocess.run([sys.executable, str(script), str(journal)], capture_output=True, text=True)
    assert summed.stdout.splitlines() == [
        "failed in journal: tests/test_inner.py::test_bad",
        "failed in journal: tests/test_inner.py::test_hang",
        "3 passed, 2 failed, 1 skipped",
    ]
    assert summed.returncode == 1
