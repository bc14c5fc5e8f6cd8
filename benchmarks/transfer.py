"""An object from one node to another, as a share of what plain encrypted ZeroMQ reaches on the same link.

Two hosts as namespaces of the kernel on this machine, joined by a bridge, which therefore share its cores; both ways
take turns. Plain is one ZeroMQ socket that pushes frames into another and stores nothing; an object is read from one
node's store and written into the other's.

``python -m benchmarks transfer`` (as root, with iproute2; about a minute) writes ``transfer.json`` and ``transfer.md``.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import machine
from benchmarks.run import say

if TYPE_CHECKING:
    from tests.multihost.hosts import Lan


def carry_out(output: Path, quick: bool) -> None:
    """Measure in rounds, and write the medians down."""
    from tests.multihost.hosts import Lan, missing

    if missing():
        say(f"NOT RUN: {missing()}")
        return
    rounds, size_bytes = (3, 100 << 20) if quick else (7, 400 << 20)
    plain: list[float] = []
    ours: list[float] = []
    with contextlib.closing(Lan(["giver", "taker"])) as lan:
        for _ in range(rounds):
            plain.append(once(lan, "plain-", size_bytes))
            ours.append(once(lan, "", size_bytes))
            say(f"plain {plain[-1]:,.0f} MB/s, from site to site {ours[-1]:,.0f} MB/s")
    document = {
        "machine": machine.facts(),
        "rounds": rounds,
        "size_bytes": size_bytes,
        "plain_mb_per_s": plain,
        "site_to_site_mb_per_s": ours,
    }
    (output / "transfer.json").write_text(json.dumps(document, indent=1) + "\n")
    report(output)


def report(output: Path) -> None:
    """``transfer.md`` from ``transfer.json``."""
    document = json.loads((output / "transfer.json").read_text())
    lines = ["# From node to node", "", str(__doc__).split("\n\n")[1].replace("\n", " "), ""]
    lines += [f"* {key}: {value}" for key, value in document["machine"].items()]
    lines += ["", *table(document)]
    (output / "transfer.md").write_text("\n".join(lines) + "\n")
    say(lines[-1])


def table(document: dict[str, Any]) -> list[str]:
    """Medians, with the lowest and the highest."""
    plain, ours = document["plain_mb_per_s"], document["site_to_site_mb_per_s"]
    shares = [b / a for a, b in zip(plain, ours, strict=True)]

    def shown(values: list[float], form: str) -> str:
        return f"{statistics.median(values):{form}} ({min(values):{form}} – {max(values):{form}})"

    size, rounds = f"{document['size_bytes'] >> 20} MiB", document["rounds"]
    return [
        "| object | rounds | plain encrypted ZeroMQ, MB/s | from node to node, MB/s | share, of each round |",
        "|---|---|---|---|---|",
        f"| {size} | {rounds} | {shown(plain, ',.0f')} | {shown(ours, ',.0f')} | {shown(shares, '.0%')} |",
    ]


def once(lan: Lan, way: str, size_bytes: int) -> float:
    """Megabytes per second."""
    giver, taker = lan.hosts
    words = (giver.address, str(size_bytes))
    module = (sys.executable, "-m", "benchmarks.transfer_ends")
    process = giver.popen(*module, f"{way}give", *words, stdin=-1)
    assert process.stdout is not None
    try:
        if process.stdout.readline() != "up\n":
            raise RuntimeError(process.communicate()[1])
        took_s = float(taker.run(*module, f"{way}take", *words))
    finally:
        process.communicate("\n")
    return size_bytes / took_s / 1e6
