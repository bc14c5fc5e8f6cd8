"""Arrays, tables, frames and plain memory, each in every way in which a value can reach a task or come from one."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import distpool
from distpool.store.client import ObjectStore

LENGTH = 100_000


def _arrow() -> Any:
    pa = importlib.import_module("pyarrow")
    return pa.table({"x": np.arange(LENGTH), "name": [f"name {i}" for i in range(LENGTH)]})


def _pandas() -> Any:
    pd = importlib.import_module("pandas")
    columns = {"x": np.arange(LENGTH), "y": np.arange(LENGTH) * 0.5, "name": [f"name {i}" for i in range(LENGTH)]}
    return pd.DataFrame(columns)


def _polars() -> Any:
    pl = importlib.import_module("polars")
    columns = {"x": np.arange(LENGTH), "y": np.arange(LENGTH) * 0.5, "name": [f"name {i}" for i in range(LENGTH)]}
    return pl.DataFrame(columns)


#: Values, by what they are; each has its first column's numbers in the order of ``range``.
MAKERS: dict[str, Callable[[], Any]] = {
    "array": lambda: np.arange(LENGTH),
    "arrow table": _arrow,
    "arrow batch": lambda: _arrow().to_batches()[0],
    "arrow chunked array": lambda: _arrow()["x"],
    "pandas frame": _pandas,
    "pandas series": lambda: _pandas()["x"],
    "polars frame": _polars,
    "polars series": lambda: _polars()["x"],
    "memoryview": lambda: memoryview(np.arange(LENGTH)),
    "bytes": lambda: np.arange(LENGTH).tobytes(),
    "bytearray": lambda: bytearray(np.arange(LENGTH).tobytes()),
}
#: Python's own types own their memory: what is mapped must be copied into them.
COPIED = {"bytes", "bytearray"}


def first_column(value: Any) -> np.ndarray[Any, Any]:
    """Without copying."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return np.frombuffer(value, np.int64)
    if isinstance(value, np.ndarray):
        return value
    if hasattr(value, "columns"):  # of a table, batch or frame
        value = value["x"]
    if hasattr(value, "chunk"):
        value = value.chunk(0)
    if type(value).__module__.startswith("pyarrow"):
        return value.to_numpy(zero_copy_only=True)  # type: ignore[no-any-return]
    return value.to_numpy()  # type: ignore[no-any-return]


def how(value: Any) -> str:
    """Whether the value lies in the store's memory, or in this process' own; or what is wrong with it."""
    column = first_column(value)
    if not (column == np.arange(LENGTH)).all():
        return "wrong"
    address = column.ctypes.data
    with open("/proc/self/maps") as maps:
        for line in maps:
            fields = line.split()
            low, high = (int(end, 16) for end in fields[0].split("-"))
            if low <= address < high:
                return "mapped" if len(fields) > 5 and "distpool" in fields[5] else "copied"
    return "nowhere"


def how_inside(container: Any) -> str:
    return how(container["key"][1])


def make(kind: str) -> Any:
    return MAKERS[kind]()


def _capture(value: Any) -> Callable[[], str]:
    def look() -> str:
        return how(value)

    return look


def test_every_kind_in_every_way() -> None:
    missing = {name for name in ("pandas", "polars", "pyarrow") if not _importable(name)}
    found: dict[tuple[str, str], str] = {}
    with distpool.DistExecutor(1) as executor:
        for kind in MAKERS:
            if any(kind.startswith(name.removeprefix("py")) for name in missing):
                continue
            value = make(kind)
            futures = {
                "argument": executor.submit(how, value),
                "container": executor.submit(how_inside, {"key": (1, value)}),
                "partial": executor.submit(functools.partial(how, value)),
                "closure": executor.submit(_capture(value)),
            }
            found |= {(kind, way): future.result() for way, future in futures.items()}
            result = executor.submit(make, kind).result()
            found[kind, "result"] = how(result) if type(result) is type(value) else f"a {type(result)}"
            del result
    assert {key: seen for key, seen in found.items() if seen != ("copied" if key[0] in COPIED else "mapped")} == {}
    if missing:
        pytest.skip(f"without {', '.join(sorted(missing))}, which are not installed; the others are right")


def _importable(name: str) -> bool:
    try:
        importlib.import_module(name)
    except ImportError:
        return False
    return True


@pytest.fixture(scope="module", autouse=True)
def polars_runtime() -> None:
    """polars opens descriptors of its own when it is first used, and keeps them: not what a test leaves behind."""
    if _importable("polars"):
        import pickle

        frame = _polars()
        pickle.loads(pickle.dumps(frame.lazy().collect()))


@pytest.fixture
def store(tmp_path):
    store = ObjectStore(tmp_path, "d-1")
    yield store
    store.close()


def through(store: ObjectStore, value: Any) -> tuple[Any, int]:
    """What arrives, and the bytes that travelled."""
    packed = store.pack(value)
    return store.unpack(packed.value), packed.stored_bytes + len(packed.value.payload)


def test_of_a_slice_of_an_arrow_table_only_the_slice_travels(store):
    pa = pytest.importorskip("pyarrow")
    words = pa.array(["red", "green", None] * LENGTH).dictionary_encode()
    nested = pa.array([[i, i + 1] for i in range(3 * LENGTH)])
    columns = {"x": np.arange(3 * LENGTH), "name": [f"name {i}" for i in range(3 * LENGTH)], "n": nested, "w": words}
    table = pa.table(columns).replace_schema_metadata({"unit": "m"})
    batch = table.to_batches()[0]
    for whole in (table, batch, table["name"], batch["x"], table["n"], batch["w"]):
        for part in (whole.slice(1000, 20), whole.slice(5, 0), whole.slice(LENGTH, LENGTH)):
            (arrived, [same]), travelled = through(store, (part, [part]))
            assert type(arrived) is type(part)
            assert arrived.equals(part)
            assert same is arrived
            # Of no rows, Arrow's stream has what a list column's elements would take.
            assert travelled < 1.1 * part.nbytes + 8000 or not len(part), (type(whole), part.nbytes)
    arrived, _ = through(store, table.slice(1000, 20))
    assert arrived.schema.equals(table.schema, check_metadata=True)
    whole, travelled = through(store, table)
    assert whole.equals(table)


def test_of_a_part_of_a_frame_only_the_part_travels(store):
    pd = pytest.importorskip("pandas")
    frame = _pandas()
    part = frame.iloc[1000:1020]
    arrived, travelled = through(store, part)
    pd.testing.assert_frame_equal(arrived, part)
    assert travelled < 10_000
    arrived.iloc[0, 0] = -1  # a receiver may write into what it got
    assert frame.iloc[1000, 0] == 1000


def test_polars_columns_keep_their_types(store):
    pl = pytest.importorskip("polars")
    import datetime

    size = 30_000
    moment = datetime.datetime(2020, 2, 29, 12)
    frame = pl.DataFrame(
        {
            "integers": pl.Series(range(size), dtype=pl.Int16),
            "missing": [None if i % 3 else i for i in range(size)],
            "truths": [i % 2 == 0 for i in range(size)],
            "words": ["a word that is longer than twelve bytes" if i % 2 else None for i in range(size)],
            "moments": pl.Series([moment] * size).dt.cast_time_unit("ms").dt.replace_time_zone("Europe/Berlin"),
            "bytes": [b"x" * (i % 20) for i in range(size)],
            "days": [moment.date()] * size,
        }
    )
    others = frame.with_columns(
        pl.Series("choice", ["a", "b"] * (size // 2), dtype=pl.Enum(["a", "b", "c"])),
        pl.Series("category", ["a", "b"] * (size // 2), dtype=pl.Categorical),
        pl.Series("lists", [[i] for i in range(size)]),
    )
    for value in (frame, others, frame[10:20], frame.head(0), frame["words"], others["choice"]):
        arrived, _ = through(store, {"v": value})
        assert type(arrived["v"]) is type(value)
        assert arrived["v"].equals(value)
        if isinstance(value, pl.DataFrame):
            assert arrived["v"].schema == value.schema
        else:
            assert (arrived["v"].name, arrived["v"].dtype) == (value.name, value.dtype)
    changed = through(store, frame)[0].with_columns(pl.col("integers") + 1)
    assert changed["integers"][0] == 1
    assert frame["integers"][0] == 0


def test_reducers_of_the_program_go_on_working(store):
    """Those that are registered before and after the libraries are loaded."""
    pytest.importorskip("pyarrow")
    import copyreg

    class Own:
        pass

    copyreg.pickle(Own, lambda own: (int, (7,)))
    try:
        assert through(store, [Own()])[0] == [7]
    finally:
        copyreg.dispatch_table.pop(Own)
