"""Filters for warnings of libraries that a worker has not loaded."""

from __future__ import annotations

import importlib
import pickle
import re
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from distpool.worker import warning_filters

_SOURCE = """
class Outer:
    class FancyWarning(UserWarning):
        pass
class FancierWarning(Outer.FancyWarning):
    pass
class PlainWarning(UserWarning):
    pass
"""


@pytest.fixture
def entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[bytes]:
    """A pickled filter whose category is in a module that is not loaded."""
    (tmp_path / "fancy_library.py").write_text(_SOURCE)
    monkeypatch.syspath_prepend(str(tmp_path))
    made = ("error", re.compile("so"), load().Outer.FancyWarning, None, 0)
    pickled = pickle.dumps(made, 5)
    del sys.modules["fancy_library"]
    with warnings.catch_warnings(record=True):
        yield pickled
    sys.modules.pop("fancy_library", None)


def load() -> ModuleType:
    importlib.invalidate_caches()
    return importlib.import_module("fancy_library")


def test_the_library_is_not_loaded_for_it(entry: bytes) -> None:
    warning_filters.adopt([entry])
    assert "fancy_library" not in sys.modules
    [(action, _, category, _, _)] = warnings.filters
    assert (action, category.__name__) == ("error", "FancyWarning")
    warnings.warn("so does not concern others", UserWarning, stacklevel=1)


def test_it_works_when_the_library_is_loaded(entry: bytes) -> None:
    warning_filters.adopt([entry])
    library = load()
    for category in (library.Outer.FancyWarning, library.FancierWarning):
        with pytest.raises(category):
            warnings.warn("so it is", category, stacklevel=1)
    warnings.warn("so it is not", library.PlainWarning, stacklevel=1)


def test_a_library_that_adds_its_filter_again_replaces_it(entry: bytes) -> None:
    plain = pickle.dumps(("ignore", None, UserWarning, None, 0), 5)
    warning_filters.adopt([plain, entry])
    warnings.simplefilter("always", load().PlainWarning)
    assert len(warnings.filters) == 3
    warnings.filters[:] = [("error", None, entry_category(entry), None, 0)]  # type: ignore[index]
    warnings.simplefilter("error", load().Outer.FancyWarning)
    assert len(warnings.filters) == 1


def entry_category(entry: bytes) -> type:
    del sys.modules["fancy_library"]
    warning_filters.adopt([entry])
    [(_, _, category, _, _)] = warnings.filters
    return category


def test_it_goes_on_to_workers_of_the_worker(entry: bytes) -> None:
    warning_filters.adopt([entry])
    again = pickle.dumps(warnings.filters[0], 5)
    assert "fancy_library" not in sys.modules
    warning_filters.adopt([again])
    assert "fancy_library" not in sys.modules
    with pytest.raises(UserWarning, match="so again"):
        warnings.warn("so again", load().Outer.FancyWarning, stacklevel=1)


def test_a_category_that_is_loaded_is_itself(entry: bytes) -> None:
    library = load()
    warning_filters.adopt([entry])
    assert warnings.filters[0][2] is library.Outer.FancyWarning


def test_what_cannot_be_found_is_left_out(entry: bytes) -> None:
    del load().Outer
    plain = pickle.dumps(("ignore", None, UserWarning, None, 0), 5)
    warning_filters.adopt([entry, plain])
    assert [category for _, _, category, _, _ in warnings.filters] == [UserWarning]
