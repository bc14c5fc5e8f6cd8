"""``python -m distpool`` is the ``distpool`` command."""

from __future__ import annotations

import sys

from distpool.cli import main

if __name__ == "__main__":
    sys.exit(main())
