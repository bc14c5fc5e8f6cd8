"""What the drivers of a simulated cluster do, and what befalls them: most runs have some of everything, the others much
of what some of the promises are about, so that few runs are enough to break each of them."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Load:
    """Chances of what happens to a task, and weights of the faults.

    :param needed_again: of how many of a driver's first tasks all others need the results; 0: of any.
    :param slots: the most that a pool has.
    :param retries: of a pool, one of these.
    :param gone: chance that a node that is lost never comes back; otherwise it does within ``back_s`` seconds.
    :param over_s: tasks are submitted during so many seconds, and faults happen during the first ``calm_s``.
    """

    depends: float = 0.3
    needed_again: int = 0
    stored: float = 0.2
    large: float = 0.08
    cancelled: float = 0.08
    killed: float = 0.06
    many: float = 1 / 3
    gone: float = 0.3
    back_s: float = 12.0
    over_s: float = 3.0
    calm_s: float = 15.0
    slots: int = 6
    retries: tuple[int, ...] = (1, 3, 3)
    faults: int = 10
    weights: dict[str, int] = field(default_factory=dict)


#: How often each kind of fault happens, against the others.
WEIGHTS = {"worker": 6, "node": 2, "driver": 1, "scheduler": 1, "cut": 3, "reset": 2, "link": 1}
_MIXED = Load()
#: Results are lost while they are needed, again and again.
_LOSSES = Load(
    depends=0.7, needed_again=3, stored=0.7, large=0.0, many=0.0, over_s=14.0, faults=16, retries=(1, 1, 2), gone=0.05,
    back_s=2.0,
    weights={"worker": 0, "node": 12, "driver": 0, "cut": 1, "reset": 1},
)  # fmt: skip
#: Workers are given up that live on, and answer.
_LINKS = Load(stored=0.6, large=0.0, faults=16, weights={"link": 12, "reset": 4, "scheduler": 3})
#: Much of what is under way is no longer wanted.
_SECOND_THOUGHTS = Load(stored=0.5, cancelled=0.4, killed=0.4, large=0.02, over_s=8.0, calm_s=3.0, slots=2, faults=4)
LOADS = (_MIXED, _MIXED, _LOSSES, _LINKS, _SECOND_THOUGHTS)
