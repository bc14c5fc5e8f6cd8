"""The watchdog must end what hangs: a guard that never fired proves nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

INNER = """
from __future__ import annotations
import subprocess, sys, threading, ctypes
import pytest

@pytest.mark.watchdog(3)  # on a busy machine it has to get there
def test_hang():
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)  # straggler"], stdout=-3, stderr=-3)
    {hang}
"""


@pytest.mark.parametrize(
    "hang",
    [
        pytest.param(
            "threading.Lock().acquire() and None; lock = threading.Lock(); lock.acquire(); lock.acquire()",
            id="in-python",
        ),
        pytest.param("ctypes.PyDLL(None).sleep(600)", id="with-the-gil-held"),
    ],
)
def test_a_hang_ends_the_run_and_shows_where(hang: str, tmp_path: Path) -> None:
    for name in ("tests/conftest.py", "pyproject.toml"):
        target = tmp_path / name
        target.parent.mkdir(exist_ok=True)
        target.write_text((ROOT / name).read_text())
    (tmp_path / "tests" / "support").symlink_to(ROOT / "tests" / "support")
    (tmp_path / "tests" / "test_hang.py").write_text(INNER.format(hang=hang))
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_hang.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=50,
    )
    output = ended.stdout + ended.stderr
    assert ended.returncode != 0
    assert "time is up for tests/test_hang.py::test_hang" in output
    assert 'test_hang.py", line 9 in test_hang' in output
    assert "straggler" in output
    assert "still there after the test process had ended" in output
