"""What a child process would know of its parent by inheritance, for workers that are not the driver's children."""

from __future__ import annotations

import contextlib
import sys
from typing import Any

import msgspec

from distpool.on_import import wait_for
from distpool.sharing.elsewhere import explain_shared_memory
from distpool.sharing.reach import reach_managers
from distpool.sharing.reducers import Shared
from distpool.sharing.server import SharedDescriptor

_TRACKER_MODULE = "multiprocessing.resource_tracker"


class Parentage(msgspec.Struct, frozen=True):
    """Captured in the driver when it sets up workers, adopted by each worker before it runs anything.

    :param authkey: ``multiprocessing.current_process().authkey``, with which manager proxies authenticate.
    :param tracker: the driver's resource tracker, for when a worker first needs one.  A worker that attaches to a block
        of shared memory tells the tracker; one of its own would destroy the block when the worker ends.
    """

    authkey: bytes
    tracker: SharedDescriptor

    @classmethod
    def capture(cls, shared: Shared) -> Parentage:
        """That of this process, which workers can adopt as long as ``shared`` is not closed."""
        from multiprocessing import process

        return cls(bytes(process.current_process().authkey), shared.provide(_tracker_descriptor))

    def adopt(self) -> None:
        """Make this process look like a child of the one it was captured in, for ``multiprocessing``."""
        from multiprocessing import process

        process.current_process().authkey = self.authkey
        reach_managers()
        explain_shared_memory()
        loaded = sys.modules.get(_TRACKER_MODULE)
        if loaded is None:
            wait_for(_TRACKER_MODULE, self._adopt_tracker)  # few tasks need one, and it takes long to import
        else:
            self._adopt_tracker(loaded)

    def _adopt_tracker(self, module: Any) -> None:
        tracker = module._resource_tracker
        if tracker._fd is None:
            tracker.__class__ = _inherited(type(tracker))
            tracker._inherited = self.tracker


def _tracker_descriptor() -> int:
    from multiprocessing import resource_tracker

    fd = resource_tracker.getfd()
    assert fd is not None
    return fd


def _inherited(base: Any) -> Any:
    class InheritedTracker(base):  # type: ignore[misc]
        """Uses the tracker of the parent program, as child processes do."""

        _fd: int | None
        _inherited: SharedDescriptor | None

        def ensure_running(self) -> None:
            if self._fd is None and self._inherited is not None:
                # Once: if the program has ended, the process has a tracker of its own from then on.
                inherited, self._inherited = self._inherited, None
                with contextlib.suppress(OSError):
                    self._fd = inherited.detach()
            super().ensure_running()

    return InheritedTracker
