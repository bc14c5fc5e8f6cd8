"""The ``distpool`` command.  Thin: each subcommand is one module here that calls the package and prints."""

from __future__ import annotations

from distpool.cli.command import main

__all__ = ["main"]
