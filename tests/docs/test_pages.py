"""Pages that repeat what the source says must say the same; links must lead somewhere."""

from __future__ import annotations

import json
import re
import statistics
from pathlib import Path

import pytest

from distpool import errors
from distpool.task_options import TaskOptions
from tests.support.imports import modules

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(DOCS.rglob("*.md"))]


def first_column(page: Path) -> list[str]:
    """The names in the first column of a page's tables."""
    return re.findall(r"^\| `(\w+)` \|", page.read_text(), re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)", page.read_text())
    dead = [target for target in targets if "://" not in target and not (page.parent / target).exists()]
    assert dead == []


def test_no_page_is_an_orphan() -> None:
    reached, todo = set(), [ROOT / "README.md"]
    while todo:
        page = todo.pop().resolve()
        if page in reached or not page.exists() or page.suffix != ".md":
            continue
        reached.add(page)
        todo += [page.parent / target for target in re.findall(r"\]\(([^)#\s]+)", page.read_text())]
    reached |= {page.resolve() for page in (DOCS / "changelog.d").glob("*.md")}
    assert {page.resolve() for page in DOCS.rglob("*.md")} - reached - {(DOCS / "index.md").resolve()} == set()


def test_each_option_is_described() -> None:
    assert first_column(DOCS / "reference" / "options.md") == list(TaskOptions._fields)


def test_each_error_is_described_with_its_standard_bases() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \|([^|]*)\|", (DOCS / "reference" / "errors.md").read_text(), re.MULTILINE))
    own = {
        name: error
        for name, error in vars(errors).items()
        if isinstance(error, type) and issubclass(error, errors.DistpoolError) and error is not errors.DistpoolError
    }
    assert set(rows) == set(own)
    for name, cell in rows.items():
        bases = [base.__name__ for base in own[name].__bases__ if base is not errors.DistpoolError]
        assert re.findall(r"`(\w+)`", cell) == bases, name


def test_each_setting_is_described() -> None:
    source = "\n".join(path.read_text() for path in modules().values())
    read = set(re.findall(r"""["'](DISTPOOL_[A-Z_]+)["']""", source))
    described = {name for name in first_column(DOCS / "reference" / "settings.md") if name.startswith("DISTPOOL_")}
    assert described >= read, "read by the source, but not described"
    assert described <= read, "described, but read nowhere"


def test_the_readmes_figures_are_those_of_the_report() -> None:
    rows = [
        [line for line in page.read_text().splitlines() if re.match(r"\| .* \| \d+ of \d+ \|$", line)]
        for page in (ROOT / "README.md", ROOT / "benchmarks" / "results" / "report.md")
    ]
    assert len(rows[0]) > 10
    assert rows[0] == rows[1]


def test_the_figures_of_scikit_learn_are_those_of_the_results() -> None:
    report = (ROOT / "benchmarks" / "results" / "report.md").read_text()
    page = " ".join((DOCS / "explanation" / "fast-path.md").read_text().split())

    def reached(workload: str) -> tuple[float, str]:
        target = rf"\| scikit-learn: {workload} on the digits \| warm \|"
        found = re.search(rf"{target}.* ([\d.]+) x \(.*; (\d+) rounds\)", report)
        assert found is not None
        return float(found[1]), found[2]

    (forest, forests), (search, searches) = reached("random forest"), reached("grid search")
    assert f"the forest takes {forest:.2f} times as long (median of the ratios of {forests} rounds)" in page
    assert f"the search {search:.2f} times (of {searches})" in page


def test_the_figures_of_large_arrays_are_those_of_the_results() -> None:
    results = json.loads((ROOT / "benchmarks" / "results" / "runs.json").read_text())
    page = (DOCS / "explanation" / "fast-path.md").read_text()
    limits = results["limits"]
    write, both, fresh = (limits[name] for name in ("write_recycled_shared", "write_map_sum", "write_fresh_shared"))
    rates = {
        "write into a segment that is mapped": write,
        "map anew, touch, sum": 1 / (1 / both - 1 / write),
        "both, one after the other": both,
        "write into fresh shared memory instead": fresh,
    }
    for what, rate in rates.items():
        assert f"| {what} | {rate / 1000:.1f} GB/s |" in page

    def steady(workload: str, contender: str) -> str:
        runs = [run for run in results["runs"] if (run["workload"], run["contender"]) == (workload, contender)]
        return f"{statistics.median(run['values']['steady'] for run in runs) / 1000:.1f}"

    assert f"{steady('arrays_in', 'distpool')} GB/s with `DistExecutor`" in page
    assert f"and {steady('arrays_in', 'distpool-pool')} with `Pool`" in page
    assert f"It is {steady('arrays_out', 'distpool')} GB/s" in page
    assert f"with Ray ({steady('arrays_out', 'ray')}, " in page
