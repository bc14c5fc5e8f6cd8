"""What a node process runs: ``python .../distpool/node/__main__.py private`` (or ``zygote``).

Started by ``launch``, as a file rather than with ``-m``: that would put the working directory first on the import path,
and a program's own ``random.py`` would take the place of the standard library's.
"""

from __future__ import annotations

import errno
import gc
import os
import sys

_LIMITS = {
    errno.EMFILE: "it may not open enough files: raise the limit (ulimit -n), 256 is plenty for a small node",
    errno.ENFILE: "the machine has too many open files (fs.file-max)",
    errno.EAGAIN: "no further process may be started: look at ulimit -u, and at pids.max of the control group",
    errno.ENOMEM: "the system has no memory for another process",
}


def _start() -> None:
    # Whatever is loaded from here on stays: looking for garbage in it meanwhile is a tenth of the time.
    gc.disable()
    try:
        # This file's folder is no place to import from; the one that holds the package may not be on the path at all.
        here = os.path.dirname(os.path.abspath(__file__))
        if sys.path and os.path.abspath(sys.path[0]) == here:
            del sys.path[0]
        home = os.path.dirname(os.path.dirname(here))
        sys.path.insert(0, home)
        from distpool.on_import import import_msgspec

        sys.path.remove(home)
        import_msgspec()
        from distpool.node import process

        process.main(sys.argv[1])
    except BaseException as error:
        import traceback

        # To whoever started us and waits for word at the other end; nobody does for a zygote's.
        known = type(error).__name__ == "ConnectError"
        words = str(error) if known else _LIMITS.get(getattr(error, "errno", None) or 0) or traceback.format_exc()
        try:
            os.write(2 if sys.argv[1] == "zygote" else 3, words.encode())
        except BrokenPipeError:  # the program that started it has died, perhaps in the middle of that
            pass
        except OSError:  # a zygote that was forked has closed it
            os.write(2, words.encode())
        os._exit(1)


if __name__ == "__main__":
    _start()
