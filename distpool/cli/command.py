"""Parsing of the command line; called by the ``distpool`` console script and by ``python -m distpool``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from distpool.version import __version__


def parser() -> argparse.ArgumentParser:
    """The whole grammar of the command line."""
    top = argparse.ArgumentParser(
        prog="distpool", description="Run multiprocessing, concurrent.futures and joblib programs on every core."
    )
    python = ".".join(str(part) for part in sys.version_info[:3])
    top.add_argument("--version", action="version", version=f"distpool {__version__} (Python {python})")
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    :param arguments: what follows the command's name; ``sys.argv`` when left out.
    :returns: the exit status (``--version``, ``--help`` and wrong usage leave through ``SystemExit``, as usual).
    """
    top = parser()
    top.parse_args(arguments)
    top.print_help()
    return 2
