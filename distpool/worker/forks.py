"""The end of a process that a task forked and that came back from the task as if it were the worker."""

from __future__ import annotations

import os
from typing import NoReturn


def end_forked_child(error: BaseException | None = None) -> NoReturn:
    """Leave as a program would that ended there.

    :param error: with which it came out of the task.
    """
    code = 0
    if isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    elif error is not None:
        import traceback

        traceback.print_exception(type(error), error, error.__traceback__)
        code = 1
    os._exit(code & 0xFF)
