"""Water filling, and the queue that is corrected lazily."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from distpool.scheduler.fairness import FairQueue, fair_shares


@given(
    st.floats(0, 1000),
    st.dictionaries(st.text(max_size=3), st.floats(0, 1000), min_size=1, max_size=8),
)
def test_shares_are_within_wants_and_capacity_and_nobody_could_get_more(
    capacity: float, wants: dict[str, float]
) -> None:
    shares = fair_shares(capacity, wants)
    assert sum(shares.values()) <= capacity + 1e-6
    most = max(shares.values())
    for name, want in wants.items():
        assert -1e-9 <= shares[name] <= want
        # Whoever does not get all of it gets as much as anybody.
        assert shares[name] >= want - 1e-6 or shares[name] >= most - 1e-6
    assert sum(shares.values()) >= min(capacity, sum(wants.values())) - 1e-6


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(-3, 3))))
def test_the_best_has_the_smallest_key(steps: list[tuple[str, int]]) -> None:
    keys = dict.fromkeys("abcd", 0)
    order = {name: number for number, name in enumerate("abcd")}
    queue: FairQueue[str] = FairQueue(lambda name: (float(keys[name]), order[name]))
    members: set[str] = set()
    for name, change in steps:
        keys[name] += change
        if change < 0:
            queue.touch(name)
        elif not change:
            queue.discard(name)
            members.discard(name)
        elif name not in members:
            queue.add(name)
            members.add(name)
        expected = min(members, key=lambda member: (keys[member], order[member]), default=None)
        assert queue.best() == expected
