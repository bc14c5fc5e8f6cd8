"""The two pictures of a report."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from benchmarks import contenders, summary, workload
from benchmarks.summary import Row

_COLOURS = [
    *("#4878a8", "#6aa0c8", "#e0a458", "#c8763c", "#7b9e6b"),
    *("#a0a0a0", "#9673a6", "#b85450", "#5b8c85", "#8c6d5b"),
]
_OURS = "#c02040"


def overview(tables: dict[str, list[Row]], file: Path) -> None:
    """Each workload a line, each alternative a dot: how many times as good distpool is."""
    plt = _pyplot()
    figure, axes = plt.subplots(figsize=(10, 0.42 * len(tables) + 1.6))
    alternatives = [name for name in contenders.ALL if name not in contenders.OURS]
    seen: set[str] = set()
    for line, (name, found) in enumerate(reversed(tables.items())):
        metric = summary.headline(name)
        better = workload.load(name).METRICS[metric].better
        mine = summary.ours(name, found, metric)
        if mine is None:
            continue
        for row in found:
            if row.contender not in alternatives or metric not in row.figures:
                continue
            factor = summary.advantage(better, mine.figures[metric].median, row.figures[metric].median)
            if factor:
                at = alternatives.index(row.contender)
                axes.plot(
                    factor,
                    line,
                    "os^DvP*"[at % 7],
                    color=_COLOURS[at % len(_COLOURS)],
                    label=None if row.contender in seen else contenders.ALL[row.contender].title,
                    markersize=6,
                    alpha=0.9,
                )
                seen.add(row.contender)
    axes.axvline(1, color=_OURS, linewidth=1.5)
    axes.set_xscale("log")
    axes.set_yticks(range(len(tables)), [workload.title(name) for name in reversed(tables)], fontsize=8)
    axes.grid(axis="x", color="#e0e0e0")
    axes.set_axisbelow(True)
    axes.set_xlabel("how many times as good distpool is (right of the line it is ahead)")
    if seen:
        axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    _save(figure, file)


def each_workload(tables: dict[str, list[Row]], file: Path) -> None:
    """A small bar chart for each workload, with the range of the runs."""
    plt = _pyplot()
    columns = 3
    lines = max(1, math.ceil(len(tables) / columns))
    figure, grid = plt.subplots(lines, columns, figsize=(15, 3.1 * lines), squeeze=False)
    panels = [axes for line in grid for axes in line]
    for axes in panels[len(tables) :]:
        axes.axis("off")
    for axes, (name, found) in zip(panels, tables.items(), strict=False):
        metric = summary.headline(name)
        declared = workload.load(name).METRICS[metric]
        sign = 1 if declared.better == "higher" else -1
        drawn = sorted(
            (row for row in found if metric in row.figures), key=lambda row: sign * row.figures[metric].median
        )
        values = [row.figures[metric] for row in drawn]
        medians = [each.median for each in values]
        axes.barh(
            range(len(drawn)),
            medians,
            xerr=[[each.median - each.lowest for each in values], [each.highest - each.median for each in values]],
            color=[_OURS if row.contender in contenders.OURS else _COLOURS[0] for row in drawn],
            error_kw={"linewidth": 0.8},
        )
        positive = [value for value in medians if value > 0]
        if positive and max(positive) > 20 * min(positive):
            axes.set_xscale("log")
        axes.set_yticks(range(len(drawn)), [contenders.ALL[row.contender].title for row in drawn], fontsize=6.5)
        axes.set_title(workload.title(name), fontsize=9)
        axes.set_xlabel(f"{declared.unit} ({declared.better} is better)", fontsize=7)
        axes.tick_params(axis="x", labelsize=7)
    _save(figure, file)


def curves(
    panels: list[tuple[str, str, str, dict[str, tuple[list[float], list[float]]]]], file: Path, columns: int = 2
) -> None:
    """Panels of (title, x label, y label, curve → points), x logarithmic."""
    plt = _pyplot()
    lines = max(1, math.ceil(len(panels) / columns))
    figure, grid = plt.subplots(lines, columns, figsize=(6 * columns, 3.8 * lines), squeeze=False)
    cells = [axes for line in grid for axes in line]
    for axes in cells[len(panels) :]:
        axes.axis("off")
    for axes, (title, x_label, y_label, drawn) in zip(cells, panels, strict=False):
        for number, (label, (xs, ys)) in enumerate(drawn.items()):
            axes.plot(xs, ys, "o-", label=label, color=([_OURS, *_COLOURS])[number % 11], markersize=4)
        axes.set_xscale("log")
        axes.set_ylim(bottom=0)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel(x_label, fontsize=8)
        axes.set_ylabel(y_label, fontsize=8)
        axes.grid(color="#e8e8e8")
        axes.legend(fontsize=7)
    _save(figure, file)


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot

    return matplotlib.pyplot


def _save(figure: Any, file: Path) -> None:
    figure.tight_layout()
    figure.savefig(file, dpi=110)
    _pyplot().close(figure)
