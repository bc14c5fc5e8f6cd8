"""Tables and plots from the runs written down: ``report.md``, ``summary.json``, ``summary.png``, ``workloads.png``;
and, for the results that come with the project, the table in its README."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from benchmarks import contenders, hosts, limits, summary, transfer, workload
from benchmarks.summary import Figure, Row, Verdict
from benchmarks.workload import Metric

README = Path(__file__).resolve().parent.parent / "README.md"
_BEGIN, _END = "<!-- summary: `python -m benchmarks report` -->", "<!-- end of summary -->"
_HOW = """\
Each run is a fresh process; contenders take turns, so that what disturbs the machine disturbs all of them. Numbers are
medians, with the lowest and highest of all runs behind them. *distpool is* says how many times as good distpool's
number is: above 1 it is ahead, below 1 it is behind. A target that is a multiple of somebody else's number is of the
median of the rounds' multiples, each of two runs of one round: the machine's speed differs from round to round.
`python -m benchmarks` does all of this again.
"""


def write(folder: Path) -> None:
    """Everything that can be made of ``folder/runs.json``."""
    document = json.loads((folder / "runs.json").read_text())
    runs = document["runs"]
    tables = {name: summary.rows(name, runs) for name in workload.names()}
    tables = {name: found for name, found in tables.items() if found}
    for name, page in (("hosts", hosts), ("transfer", transfer)):
        if (folder / f"{name}.json").exists():
            page.report(folder)
    (folder / "summary.json").write_text(json.dumps(as_json(document, tables), indent=1) + "\n")
    (folder / "report.md").write_text(markdown(document, tables, folder))
    if folder.resolve() == README.parent / "benchmarks" / "results":
        README.write_text(with_overview(README.read_text(), [rounds(tables), "", *overview(tables)]))
    from benchmarks import plots

    plots.overview(tables, folder / "summary.png")
    plots.each_workload(tables, folder / "workloads.png")


def with_overview(readme: str, lines: list[str]) -> str:
    """``readme`` with these lines for the table that it has."""
    head, rest = readme.split(_BEGIN, 1)
    return "\n".join([head + _BEGIN, *lines, _END + rest.split(_END, 1)[1]])


def as_json(document: dict[str, Any], tables: dict[str, list[Row]]) -> dict[str, Any]:
    return {
        "machine": document["machine"],
        "limits": document["limits"],
        "workloads": {
            name: {
                row.contender: {
                    "size": row.size,
                    "remarks": row.remarks,
                    **{metric: vars(figure) for metric, figure in row.figures.items()},
                }
                for row in found
            }
            for name, found in tables.items()
        },
    }


def markdown(document: dict[str, Any], tables: dict[str, list[Row]], folder: Path) -> str:
    lines = ["# distpool side by side with the alternatives", "", _HOW]
    if document.get("quick"):
        lines += ["**A quick run**: small sizes, to see that everything works. The numbers say little.", ""]
    share = summary.disturbed(document["runs"])
    if share > 0.1:
        more = f"more than {summary.DISTURBED_CORES} cores"
        lines += [f"**The machine was not quiet**: during {share:.0%} of the runs other programs used {more}.", ""]
    lines += [rounds(tables), ""]
    lines += [f"* {key}: {value}" for key, value in document["machine"].items()]
    lines += ["", "## Summary", "", *overview(tables), "", "![Summary](summary.png)", ""]
    lines += ["## Targets", "", *targets(tables), ""]
    lines += ["## The machine's limits", "", "| limit | best |", "|---|---|"]
    for name, value in document["limits"].items():
        title, _, number = limits.described(name, value).rpartition(": ")
        lines.append(f"| {title} | {number} |")
    lines.append("")
    if (folder / "growth.md").exists():
        lines += ["How cost grows with tasks, workers and leases: [growth.md](growth.md).", ""]
    lines += several_machines(folder)
    lines += ["## Each workload", ""]
    for name, found in tables.items():
        lines += one_workload(name, found, document["limits"])
    return "\n".join(lines).rstrip() + "\n"


def several_machines(folder: Path) -> list[str]:
    """What was measured on several hosts, where it was."""
    lines: list[str] = []
    for name, title, page in (("hosts", "Several hosts", hosts), ("transfer", "From node to node", transfer)):
        if (folder / f"{name}.json").exists():
            document = json.loads((folder / f"{name}.json").read_text())
            lines += [f"## {title}", "", f"How, and on which machine: [{name}.md]({name}.md).", ""]
            lines += [*page.table(document), ""]
    return lines


def rounds(tables: dict[str, list[Row]]) -> str:
    """How often each was run, in a sentence."""
    counts = [figure.runs for found in tables.values() for row in found for figure in row.figures.values()]
    if not counts:
        return "Nothing was run to its end."
    fewest, most = min(counts), max(counts)
    if fewest == most:
        return f"Each figure is of {most} run{'s' * (most > 1)}."
    return f"Each figure is the median of {fewest} to {most} runs, of {statistics.median(counts):g} for most."


def overview(tables: dict[str, list[Row]]) -> list[str]:
    lines = ["| workload | distpool | best alternative | distpool is | targets met |", "|---|---|---|---|---|"]
    for name, found in tables.items():
        metric = summary.headline(name)
        declared = workload.load(name).METRICS[metric]
        mine = summary.ours(name, found, metric)
        other = summary.best(found, metric, declared.better)
        verdicts = summary.verdicts(name, found)
        met = f"{sum(bool(each.met) for each in verdicts)} of {len(verdicts)}" if verdicts else ""
        mine_text = shown(mine, metric, declared, named=mine is not None and mine.contender != "distpool")
        lines.append(
            f"| {workload.title(name)} | {mine_text} | {shown(other, metric, declared, named=True)} "
            f"| {advantage(mine, other, metric, declared)} | {met} |"
        )
    return lines


def targets(tables: dict[str, list[Row]]) -> list[str]:
    lines = ["| workload | measured | of | wanted | reached | met |", "|---|---|---|---|---|---|"]
    for name, found in tables.items():
        for verdict in summary.verdicts(name, found):
            declared = workload.load(name).METRICS[verdict.target.metric]
            met = {True: "yes", False: "**no**", None: "?"}[verdict.met]
            lines.append(
                f"| {workload.title(name)} | {verdict.target.metric} | {contenders.ALL[verdict.ours].title} "
                f"| {wanted(verdict, declared)} | {reached(verdict, declared)} | {met} |"
            )
    return lines


def wanted(verdict: Verdict, declared: Metric) -> str:
    sign = "≥" if declared.better == "higher" else "≤"
    if verdict.target.ratio is None:
        return f"{sign} {number(verdict.target.value, declared)}"
    opponent = contenders.ALL[verdict.opponent].title if verdict.opponent else ", ".join(verdict.target.against)
    return f"{sign} {verdict.target.ratio:g} x {opponent}"


def reached(verdict: Verdict, declared: Metric) -> str:
    text = number(verdict.reached, declared)
    if verdict.ratio is None:
        return text
    return f"{verdict.ratio:.3g} x ({text}; {verdict.rounds} round{'s' * (verdict.rounds > 1)})"


def one_workload(name: str, found: list[Row], measured_limits: dict[str, float]) -> list[str]:
    module = workload.load(name)
    lines = [f"### {workload.title(name)}", "", workload.explanation(name), ""]
    headers = [f"{metric.replace('_', ' ')}, {declared.unit}" for metric, declared in module.METRICS.items()]
    lines += ["| | " + " | ".join(headers) + " | distpool is | runs | remarks |", "|---" * (len(headers) + 4) + "|"]
    metric = summary.headline(name)
    declared = module.METRICS[metric]
    mine = summary.ours(name, found, metric)
    # Best first; who has no number comes last.
    sign = -1 if declared.better == "higher" else 1
    ordered = sorted(found, key=lambda row: (metric not in row.figures, sign * median(row, metric)))
    for row in ordered:
        cells = [spread(row.figures.get(each), module.METRICS[each]) for each in module.METRICS]
        remarks = list(row.remarks)
        if row.size < max(each.size for each in found):
            remarks.insert(0, f"size {row.size:,}")
        factor = "" if row.contender in contenders.OURS else advantage(mine, row, metric, declared)
        runs = max((figure.runs for figure in row.figures.values()), default=0)
        label = contenders.ALL[row.contender].title
        label = f"**{label}**" if row.contender in contenders.OURS else label
        text = "; ".join(remarks).replace("|", "\\|").replace("\n", " ")
        lines.append(f"| {label} | " + " | ".join(cells) + f" | {factor} | {runs} | {text[:200]} |")
    shown_limits = [limit for limit in getattr(module, "LIMITS", []) if limit in measured_limits]
    if shown_limits:
        described = [limits.described(each, measured_limits[each]) for each in shown_limits]
        lines += ["", "This machine: " + "; ".join(described)]
    return [*lines, ""]


def median(row: Row, metric: str) -> float:
    return row.figures[metric].median if metric in row.figures else 0.0


def number(value: float | None, declared: Metric) -> str:
    return "–" if value is None else f"{value:{declared.format}} {declared.unit}"


def spread(figure: Figure | None, declared: Metric) -> str:
    if figure is None:
        return "–"
    text = f"{figure.median:{declared.format}}"
    if figure.runs > 1:
        text += f" ({figure.lowest:{declared.format}} – {figure.highest:{declared.format}})"
    return text


def shown(row: Row | None, metric: str, declared: Metric, named: bool = False) -> str:
    if row is None:
        return "–"
    text = number(row.figures[metric].median, declared)
    return f"{text} ({contenders.ALL[row.contender].title})" if named else text


def advantage(mine: Row | None, other: Row | None, metric: str, declared: Metric) -> str:
    if mine is None or other is None or metric not in other.figures or mine is other:
        return ""
    factor = summary.advantage(declared.better, mine.figures[metric].median, other.figures[metric].median)
    return "" if factor is None else f"{factor:,.0f} x" if factor >= 100 else f"{factor:.2g} x"
