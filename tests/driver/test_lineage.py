"""What is remembered of results, for how long, and what must run again."""

from __future__ import annotations

from typing import Any

import pytest

from distpool.driver.functions import in_payload
from distpool.driver.lineage import Irrecoverable, Lineage, Made
from distpool.driver.task import Task
from distpool.wire.driver_to_worker import Task as Message
from distpool.wire.resources import Shape


def entry(lineage: Lineage, name: str, *inputs: Any, retries: int = 3, size_bytes: int = 100) -> Made:
    task = Task(None, Message(0, 0, b"x"), in_payload(len), Shape(), retries)
    made = Made(name, task, inputs, 3, retries, size_bytes)
    lineage.remember(made)
    lineage.check_invariants()
    return made


def names(found: list[Made]) -> list[str]:
    return [made.name for made in found]


def test_inputs_without_a_handle_run_first_and_once() -> None:
    lineage = Lineage()
    first = entry(lineage, "first")
    left, right = entry(lineage, "left", first), entry(lineage, "right", first)
    last = entry(lineage, "last", left, right)
    for made in (first, left, right):
        lineage.let_go(made)
    order = names(lineage.recompute(last, "gone"))
    assert sorted(order) == ["first", "last", "left", "right"]
    assert order[0] == "first"
    assert order[-1] == "last"


def test_inputs_with_a_handle_are_believed_to_be_there() -> None:
    lineage = Lineage()
    last = entry(lineage, "last", entry(lineage, "first"))
    assert names(lineage.recompute(last, "gone")) == ["last"]


def test_what_runs_already_is_not_run_twice() -> None:
    lineage = Lineage()
    made = entry(lineage, "made")
    assert names(lineage.recompute(made, "gone")) == ["made"]
    assert lineage.recompute(made, "gone") == []
    lineage.on_ran(made, 2)
    assert names(lineage.recompute(made, "gone")) == ["made"]


def test_an_entry_goes_with_the_last_result_that_needs_it() -> None:
    lineage = Lineage()
    first = entry(lineage, "first")
    last = entry(lineage, "last", first)
    lineage.let_go(first)
    assert len(lineage) == 2
    lineage.let_go(last)
    lineage.check_invariants()
    assert len(lineage) == lineage.size_bytes == 0


def test_an_entry_stays_while_it_runs() -> None:
    lineage = Lineage()
    made = entry(lineage, "made")
    lineage.recompute(made, "gone")
    lineage.let_go(made)
    assert len(lineage) == 1
    lineage.on_ran(made, 2)
    assert len(lineage) == 0


def test_the_oldest_entries_give_way() -> None:
    lineage = Lineage(most_entries=3, most_bytes=1000)
    found = [entry(lineage, str(number)) for number in range(5)]
    with pytest.raises(
        Irrecoverable, match="gone; how it was made is not known any more: the program has more than 3 "
    ):
        lineage.recompute(found[1], "gone")
    assert names(lineage.recompute(found[2], "gone")) == ["2"]
    entry(lineage, "large", size_bytes=1000)
    assert len(lineage) == 1
    entry(lineage, "too large", size_bytes=2000)
    assert len(lineage) == 0


def test_a_long_chain_of_steps_is_bounded() -> None:
    lineage = Lineage(most_entries=100)
    made = entry(lineage, "0")
    for number in range(1, 20_000):
        made, before = Made(str(number), made.task, (made,), 3, 3, 10), made
        lineage.remember(made)
        lineage.let_go(before)
    lineage.check_invariants()
    assert len(lineage) == 100
    with pytest.raises(Irrecoverable, match="an input of it, the result of 19899; how"):
        lineage.recompute(made, "gone")


@pytest.mark.parametrize(
    ("retries", "inputs", "reason"),
    [
        (0, (), "its 3 retries are exhausted"),
        (3, (lambda: None,), "let go of since"),
    ],
)
def test_why_it_cannot_be_computed(retries: int, inputs: tuple[Any, ...], reason: str) -> None:
    lineage = Lineage()
    made = entry(lineage, "made", *inputs, retries=retries)
    held = entry(lineage, "held", made)
    lineage.let_go(made)
    with pytest.raises(Irrecoverable, match=reason):
        lineage.recompute(held, "gone")
    assert not made.running
    assert not held.running


def test_nothing_runs_in_a_pool_that_ended() -> None:
    lineage = Lineage()
    made, other = entry(lineage, "made"), entry(lineage, "other")
    made.pool = pool = object()
    lineage.forget(pool)
    lineage.check_invariants()
    with pytest.raises(Irrecoverable, match="the pool in which the task ran has ended"):
        lineage.recompute(made, "gone")
    assert names(lineage.recompute(other, "gone")) == ["other"]
