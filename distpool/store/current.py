"""The store that this process works with."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distpool.store.client import ObjectStore

_installed: ObjectStore | None = None


def install(store: ObjectStore) -> None:
    """Make it the one that ``store_of_this_process`` finds."""
    global _installed
    _installed = store


def store_of_this_process() -> ObjectStore | None:
    """The store that this process works with, if it has one already."""
    store = _installed
    return store if store is not None and store.usable else None
