"""Parsing of the command line; called by the ``distpool`` console script and by ``python -m distpool``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from distpool.cli import doctor, memory, nodes, start, status
from distpool.version import __version__


def parser() -> argparse.ArgumentParser:
    """The whole grammar of the command line."""
    top = argparse.ArgumentParser(
        prog="distpool", description="Run multiprocessing, concurrent.futures and joblib programs on every core."
    )
    python = ".".join(str(part) for part in sys.version_info[:3])
    top.add_argument("--version", action="version", version=f"distpool {__version__} (Python {python})")
    commands = top.add_subparsers(title="commands", metavar="COMMAND")
    start.add_start(commands)
    status.add_status(commands)
    memory.add_memory(commands)
    nodes.add_drain(commands)
    nodes.add_autoscale(commands)
    start.add_stop(commands)
    doctor.add_doctor(commands)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    :param arguments: what follows the command's name; ``sys.argv`` when left out.
    :returns: the exit status (``--version``, ``--help`` and wrong usage leave through ``SystemExit``, as usual).
    """
    top = parser()
    parsed = top.parse_args(arguments)
    if not hasattr(parsed, "run"):
        top.print_help()
        return 2
    try:
        return int(parsed.run(parsed))
    except OSError as error:  # a ``ConnectError``, or the system's own words: no space, no permission
        print(f"distpool: {error}", file=sys.stderr)
        return 1
