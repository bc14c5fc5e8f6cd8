"""An object from one node to another, as a share of what plain encrypted ZeroMQ reaches on the same link.

Two hosts as namespaces of the kernel on this machine, joined by a bridge; both ways take turns.

``python -m benchmarks transfer`` (as root, with iproute2) writes ``transfer.json``.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import sys
from pathlib import Path
from typing import TYPE_CHECKING

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
        "plain_mb_per_s": statistics.median(plain),
        "site_to_site_mb_per_s": statistics.median(ours),
        "ratio": statistics.median(b / a for a, b in zip(plain, ours, strict=True)),
    }
    (output / "transfer.json").write_text(json.dumps(document, indent=1))
    say(f"from site to site: {document['ratio']:.0%} of plain encrypted ZeroMQ")


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
