"""How much shared memory a node's objects may take, and where they go beyond that.

Made by whoever starts a node (``distpool.init``, or the command line), told to it with the rest of its configuration.
"""

from __future__ import annotations

import os

import msgspec

from distpool.wire.system_text import is_unicode

#: In each folder of a node: locked by those for whom it is kept.
OWNER_FILE = ".owner"
#: In a store folder: locked by the agent that keeps its books.
AGENT_FILE = ".agent"

#: Buffers and pickles of at least this size go through shared memory; ``DISTPOOL_INLINE_BYTES`` overrides.
INLINE_BYTES = 1 << 16

#: Share of the machine's memory that objects may take by default, and of the file system that holds them at most.
_MEMORY_SHARE, _FILE_SYSTEM_SHARE = 0.3, 0.9


class StoreSettings(msgspec.Struct, frozen=True):
    """What can be said about a node's object store; see ``make`` for the checked way to say it.

    :param store_bytes: the budget; None: a share of the machine's memory.
    :param spill_folder: an existing folder of this machine to spill to; empty: the node's own temporary one.
    :param spill_uri: a place on another file system to which spilled segments are moved on; empty: none.
    """

    store_bytes: int | None = None
    spill_folder: str = ""
    spill_uri: str = ""

    @classmethod
    def make(cls, store_bytes: float | None = None, spill_uri: str | None = None) -> StoreSettings:
        """Check what a user said; what is None is taken from ``DISTPOOL_STORE_BYTES`` and ``DISTPOOL_SPILL_URI``.

        :raises ValueError: when the budget is no positive number of bytes, or the URI names no place.
        :raises ModuleNotFoundError: when the place can only be reached with pyarrow, and that is not installed.
        """
        inline_bytes()
        name, budget = "store_bytes", store_bytes
        if budget is None and (text := os.environ.get("DISTPOOL_STORE_BYTES", "")):
            name = "DISTPOOL_STORE_BYTES"
            try:
                budget = float(text)
            except ValueError:
                raise ValueError(f"DISTPOOL_STORE_BYTES must be a number of bytes, not {text!r}") from None
        if budget is not None and not (isinstance(budget, (int, float)) and 1 <= budget < 1 << 62):
            raise ValueError(f"{name} must be a number of bytes, at least 1, not {budget!r}")
        uri_name = "spill_uri"
        if spill_uri is None:
            uri_name, spill_uri = "DISTPOOL_SPILL_URI", os.environ.get("DISTPOOL_SPILL_URI", "")
        folder, uri = _place(uri_name, os.fspath(spill_uri))
        return cls(None if budget is None else int(budget), folder, uri)

    def budget_bytes(self, folder: str, memory_bytes: int) -> int:
        """For a machine with so much memory; never more than the file system of the store's ``folder`` can give."""
        from distpool.store.file_system import free_bytes

        wanted = int(memory_bytes * _MEMORY_SHARE) if self.store_bytes is None else self.store_bytes
        return max(1, min(wanted, int(free_bytes(folder) * _FILE_SYSTEM_SHARE)))


def inline_bytes() -> int:
    """From which size on buffers go through the store, as ``DISTPOOL_INLINE_BYTES`` says.

    :raises ValueError: when that is no number.
    """
    text = os.environ.get("DISTPOOL_INLINE_BYTES", "")
    try:
        return max(1, int(text)) if text else INLINE_BYTES
    except ValueError:
        raise ValueError(f"DISTPOOL_INLINE_BYTES must be a number of bytes, not {text!r}") from None


def without_secrets(uri: str) -> str:
    """What may be shown of a URI: neither user, password nor options."""
    from urllib.parse import urlsplit

    parts = urlsplit(uri)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _place(name: str, uri: str) -> tuple[str, str]:
    """A local folder, or a URI, of which the other is empty."""
    if not uri:
        return "", ""
    if uri.startswith(("/", "file://")):
        from urllib.parse import unquote, urlsplit

        folder = uri if uri.startswith("/") else unquote(urlsplit(uri).path)
        if not (os.path.isdir(folder) and os.access(folder, os.W_OK | os.X_OK)):
            raise ValueError(
                f"{name} is {uri!r}, but {folder!r} is no folder that this user can write to; make it first"
            )
        if not is_unicode(folder):
            raise ValueError(
                f"{name} is {uri!r}, which is no Unicode in this locale; name another folder, or set LC_ALL"
            )
        return os.path.abspath(folder), ""
    if "://" not in uri:
        raise ValueError(f"{name} must be a URI such as 'file:///big/disk' or 's3://bucket/path', not {uri!r}")
    import importlib.util

    if importlib.util.find_spec("pyarrow") is None:
        raise ModuleNotFoundError(
            f"{name} is {without_secrets(uri)}, which is reached through pyarrow, and that is not installed: "
            "pip install pyarrow, or give a folder of this machine",
            name="pyarrow",
        )
    return "", uri.rstrip("/")
