"""From runs to numbers: medians, spreads, comparisons, targets.  No formatting here."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from benchmarks import contenders, workload
from benchmarks.workload import Target

#: The rest of the machine had more to do than this many cores on average: the numbers are to be taken with care.
DISTURBED_CORES = 0.3


@dataclass(frozen=True)
class Figure:
    """One metric of one contender."""

    median: float
    lowest: float
    highest: float
    runs: int


@dataclass(frozen=True)
class Row:
    """One contender in one workload."""

    contender: str
    size: int
    figures: dict[str, Figure]
    #: What did not go well, in words.
    remarks: tuple[str, ...]
    #: Each metric's values by the number of the round.
    by_round: dict[str, dict[int, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """A target and what became of it."""

    target: Target
    ours: str
    #: What was reached, in the metric's unit.
    reached: float | None
    #: Who had to be matched, how many times that was reached (the median of the rounds that have both), and in how many
    #: rounds.
    opponent: str | None
    ratio: float | None
    rounds: int
    #: ``None``: cannot be said, since one of the two is missing.
    met: bool | None


def rows(name: str, runs: Iterable[dict[str, Any]]) -> list[Row]:
    """The contenders of a workload, in the order in which it lists them."""
    module = workload.load(name)
    #: contender -> its run in each round that it took part in
    grouped: dict[str, dict[int, dict[str, Any]]] = {}
    turn, taken_part = 0, set()
    for run in runs:
        if run["workload"] == name:
            contender = run["contender"]
            if contender in taken_part:  # its next round
                turn, taken_part = turn + 1, set()
            taken_part.add(contender)
            grouped.setdefault(contender, {})[turn] = run
    order = [each for each in contenders.ALL if each in grouped and each in module.CONTENDERS]
    return [_row(each, grouped[each], list(module.METRICS)) for each in order]


def _row(contender: str, turns: dict[int, dict[str, Any]], metrics: list[str]) -> Row:
    figures, by_round = {}, {}
    for metric in metrics:
        values = {turn: run.get("values", {}).get(metric) for turn, run in turns.items()}
        values = {turn: value for turn, value in values.items() if value is not None}
        if values:
            by_round[metric] = values
            found = values.values()
            figures[metric] = Figure(statistics.median(found), min(found), max(found), len(found))
    runs = list(turns.values())
    remarks = list(dict.fromkeys(run["message"] for run in runs if run.get("message")))
    for words, count in (
        ("hung when closed", sum(run.get("hung_at_close", False) for run in runs)),
        ("left processes behind", sum(run.get("left_processes", 0) > 0 for run in runs)),
    ):
        if count:
            remarks.append(f"{words} in {count} of {len(runs)}")
    return Row(contender, max(run["size"] for run in runs), figures, tuple(remarks), by_round)


def headline(name: str) -> str:
    """The metric of a workload that counts first."""
    return next(iter(workload.load(name).METRICS))


def ours(name: str, found: Iterable[Row], metric: str) -> Row | None:
    """The front door of ours that the others are compared with: the one that the workload names, or the first."""
    candidates = [row for row in found if row.contender in contenders.OURS and metric in row.figures]
    named = getattr(workload.load(name), "OURS", None)
    return next((row for row in candidates if row.contender == named), next(iter(candidates), None))


def advantage(better: str, mine: float, theirs: float) -> float | None:
    """How many times as good ``mine`` is."""
    above, below = (mine, theirs) if better == "higher" else (theirs, mine)
    return above / below if below else None


def best(found: Iterable[Row], metric: str, better: str, among: Iterable[str] | None = None) -> Row | None:
    """The best of those named; by default, of all alternatives."""
    names = set(contenders.ALL) - set(contenders.OURS) if among is None else set(among)
    candidates = [row for row in found if row.contender in names and metric in row.figures]
    choose = max if better == "higher" else min
    return choose(candidates, key=lambda row: row.figures[metric].median, default=None)


def verdicts(name: str, found: list[Row]) -> list[Verdict]:
    """Each target of a workload, and what became of it."""
    module = workload.load(name)
    results = []
    for target in getattr(module, "TARGETS", []):
        better = module.METRICS[target.metric].better
        mine = next(
            (row for row in found if row.contender == target.ours),
            None if target.ours else ours(name, found, target.metric),
        )
        reached = mine.figures[target.metric].median if mine and target.metric in mine.figures else None
        opponent, ratios, measured, wanted = None, [], reached, target.value
        if target.ratio is not None:
            opponent = best(found, target.metric, better, target.against)
            ratios = paired(mine, opponent, target.metric) if mine and opponent else []
            measured, wanted = (statistics.median(ratios) if ratios else None), target.ratio
        met = None
        if measured is not None and wanted is not None:
            met = measured >= wanted if better == "higher" else measured <= wanted
        label = target.ours or (mine.contender if mine else "distpool")
        name_of_opponent = opponent.contender if opponent else None
        ratio = measured if target.ratio is not None else None
        results.append(Verdict(target, label, reached, name_of_opponent, ratio, len(ratios), met))
    return results


def paired(mine: Row, theirs: Row, metric: str) -> list[float]:
    """Mine as a multiple of theirs, in each round that has both: the machine's speed may differ from round to round."""
    others = theirs.by_round.get(metric, {})
    return [value / others[turn] for turn, value in mine.by_round.get(metric, {}).items() if others.get(turn)]


def disturbed(runs: Iterable[dict[str, Any]]) -> float:
    """The share of runs during which other programs kept the machine busy."""
    loads = [run.get("other_load", 0.0) for run in runs]
    return sum(load > DISTURBED_CORES for load in loads) / len(loads) if loads else 0.0
