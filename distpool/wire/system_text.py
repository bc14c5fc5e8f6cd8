"""Text of the operating system (paths, arguments, the environment) on its way: as the bytes that the system has.

It may hold what is no Unicode, as lone surrogates (where the locale is not UTF-8, whatever is not ASCII), which the
strings of a message cannot.  ``os.fsdecode`` is the way back.
"""

from __future__ import annotations

import os


def to_bytes(text: str) -> bytes:
    """Never fails: what the system could not have said itself is as good as UTF-8 can make it."""
    try:
        return os.fsencode(text)
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")


def is_unicode(text: str) -> bool:
    """Whether the strings of a message can hold it."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
