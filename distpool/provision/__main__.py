"""What looks after a program's nodes: ``python .../distpool/provision/__main__.py supervisor``.

Started as a file, for the same reason as ``distpool.node.__main__``.
"""

from __future__ import annotations

import os
import sys


def _start() -> None:
    try:
        # This file's folder is no place to import from; the one that holds the package may not be on the path at all.
        here = os.path.dirname(os.path.abspath(__file__))
        if sys.path and os.path.abspath(sys.path[0]) == here:
            del sys.path[0]
        home = os.path.dirname(os.path.dirname(here))
        sys.path.insert(0, home)
        import distpool  # noqa: F401

        sys.path.remove(home)
        from distpool.provision import supervisor
    except BaseException:
        import traceback

        os.write(3, traceback.format_exc().encode())
        os._exit(1)
    supervisor.main()


if __name__ == "__main__":
    _start()
