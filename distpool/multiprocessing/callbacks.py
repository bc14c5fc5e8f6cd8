"""The one thread of a pool in which callbacks run, in the order in which their calls complete.

It starts with the first call that has a callback, and holds no reference to the pool, which may be collected meanwhile.
"""

from __future__ import annotations

import queue
import sys
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distpool.multiprocessing.results import ApplyResult


class CallbackThread:
    """See the module's description."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._queue: queue.SimpleQueue[ApplyResult | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._ended = False
        self._expected = 0
        self._closing = False
        self._quiet = False

    def expect(self) -> None:
        """A call with a callback is being made: exactly one ``put`` or ``expect_no_more`` will follow.

        :raises RuntimeError: when the system lets no thread be started; nothing is expected then.
        """
        with self._lock:
            # It may have ended because the pool was closed by another thread, which was faster than this call.
            if self._thread is None or self._ended:
                thread = threading.Thread(target=self._run, name="distpool-callbacks", daemon=True)
                thread.start()
                self._thread = thread
                self._ended = False
            self._expected += 1

    def put(self, result: ApplyResult) -> None:
        """All tasks of a call are done."""
        self._queue.put(result)

    def expect_no_more(self) -> None:
        """The call that was being made has failed."""
        with self._lock:
            self._expected -= 1
        self._queue.put(None)

    def close(self, quiet: bool = False) -> None:
        """No more calls will be made; end when the last expected one is done.

        :param quiet: run no more callbacks.
        """
        self._quiet = self._quiet or quiet
        with self._lock:
            self._closing = True
        self._queue.put(None)

    def join(self) -> None:
        """Wait for the last callback (unless called from one)."""
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _run(self) -> None:
        while True:
            result = self._queue.get()
            if result is not None:
                try:
                    result.finish(self._quiet)
                except BaseException:
                    # The standard pool's thread would end here, and every later call would wait for ever.
                    sys.excepthook(*sys.exc_info())
                with self._lock:
                    self._expected -= 1
                result = None
            with self._lock:
                if self._closing and self._expected == 0:
                    self._ended = True
                    return
