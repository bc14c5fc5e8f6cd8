"""The command line."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from distpool.cli import main
from distpool.version import __version__


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"distpool {__version__} (Python 3.")


def test_an_unknown_argument_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--nonsense"])
    assert ended.value.code == 2
    assert "--nonsense" in capsys.readouterr().err


HOLDING = """
import subprocess, sys
import numpy as np
import distpool

kept = distpool.put(np.ones(5_000_000))
with distpool.DistExecutor(1) as executor:
    result = executor.submit(np.ones, 4_000_000)
    assert result.result()[0] == 1
    said = subprocess.run([sys.executable, "-m", "distpool", "memory"], capture_output=True, text=True, timeout=40)
assert said.returncode == 0, said.stderr
print(said.stdout)
"""


def test_memory_shows_what_other_programs_hold(run_script: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTPOOL_STORE_BYTES", "100e6")
    said = run_script(HOLDING)
    assert re.search(r"^Node \S+, /\S+: \d+ objects, .* budget 100.0 MB", said, re.MULTILINE), said
    own = [line.split(maxsplit=5) for line in said.splitlines() if re.search(r" (40|32)\.0 MB +memory ", line)]
    assert {(size, refs) for _, size, _, _, refs, _ in own} >= {("40.0", "1"), ("32.0", "1")}, said
    assert all("future, reference or unfinished task in d-" in why for *_, why in own), said
