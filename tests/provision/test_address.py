"""What addresses say, and what is said about those that say nothing."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

import distpool
from distpool.errors import ConnectError
from distpool.provision import Local
from distpool.provision.address import Engine, duration, size
from distpool.provision.registry import engine_class, is_engine, parse, schemes

REFERENCE = Path(__file__).parents[2] / "docs" / "reference" / "addresses.md"


@pytest.mark.parametrize(
    ("address", "engine"),
    [
        ("local://", Local()),
        ("local://?nodes=3", Local(nodes=3)),
        ("LOCAL://?min=1&max=4&idle=5m&cpus=2&memory=8GB", Local(min=1, max=4, idle=300.0, cpus=2.0, memory=8 * 10**9)),
        ("local://?head-port=4000&timeout=1:00:00", Local(head_port=4000, timeout=3600.0)),
    ],
)
def test_addresses_and_objects_say_the_same(address: str, engine: Engine) -> None:
    assert parse(address) == engine
    assert parse(str(engine)) == engine


@pytest.mark.parametrize(
    ("engine", "bounds"),
    [
        (Local(), (1, 1)),
        (Local(nodes=3), (3, 3)),
        (Local(nodes=3, min=0), (0, 3)),
        (Local(max=4), (1, 4)),
        (Local(min=2), (2, 2)),
        (Local(min=0, max=8), (0, 8)),
    ],
)
def test_how_many_nodes_there_are(engine: Engine, bounds: tuple[int, int]) -> None:
    assert engine.bounds() == bounds


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("locl://", r"no engine locl://; did you mean local://\?"),
        ("local://?node=3", r"no option 'node'; did you mean nodes\?"),
        ("local://?nodes=three", "nodes=three: invalid literal"),
        ("local://?nodes=1&nodes=2", "nodes is given twice"),
        ("local://here", "nothing stands between local:// and the options, not 'here'"),
        ("local://?min=3&max=2", "between 3 and 2 nodes"),
        ("local://?nodes=0", "between 0 and 0 nodes"),
        ("local://?idle=soon", "a duration is a number of seconds"),
        ("local://?memory=much", "a size is a number of bytes"),
    ],
)
def test_what_is_wrong_is_said(address: str, words: str) -> None:
    with pytest.raises(ConnectError, match=words):
        parse(address)


def test_durations_and_sizes() -> None:
    assert [duration(text) for text in ("90", "1.5s", "5m", "2h", "1d", "30:00", "2:00:00")] == [
        90.0, 1.5, 300.0, 7200.0, 86400.0, 1800.0, 7200.0,
    ]  # fmt: skip
    assert [size(text) for text in ("1000", "8GB", "8GiB", "8G", "0.5k", "7b")] == [
        1000, 8 * 10**9, 8 << 30, 8 << 30, 512, 7,
    ]  # fmt: skip


def test_plain_addresses_are_no_engines() -> None:
    assert not any(map(is_engine, ("host:1", "tcp://host:1", "/a/file.token", "[::1]:5")))
    assert is_engine("local://")


def test_an_executor_takes_both() -> None:
    for wrong in (5, b"local://"):
        with pytest.raises(TypeError, match="an engine"):
            distpool.DistExecutor(1, address=wrong)  # type: ignore[arg-type]
    distpool.DistExecutor(1, address=Local(nodes=2)).shutdown()


def test_every_option_is_in_the_reference() -> None:
    text = REFERENCE.read_text()
    for scheme in schemes():
        assert f"{scheme}://" in text
        for field in dataclasses.fields(engine_class(scheme)):
            assert f"| `{field.name}` | {field.metadata['words']} |" in text, f"{scheme}: {field.name}"
