"""The pool's initializer in a worker, and what must happen when it fails.

Called by the worker's runner while it sets up.
"""

from __future__ import annotations

import sys
import threading

from distpool.store.client import ObjectStore
from distpool.wire.driver_to_worker import Setup, Value

#: How long what a failed initializer left in queues may take to get out.
_DRAIN_S = 1.0


def run_initializer(message: Setup, store: ObjectStore) -> None:
    """Call the initializer, if there is one; what it raises is logged as in ``concurrent.futures`` and raised."""
    if not message.initializer and not message.initializer_objects:
        return
    initializer, initargs = store.unpack(Value(message.initializer, message.initializer_objects))
    try:
        initializer(*initargs)
    except BaseException:
        # Under that logger's name, because programs have handlers there, and some have them only in workers.
        import logging

        logging.getLogger("concurrent.futures").critical("Exception in initializer:", exc_info=True)
        raise


def drain_queues() -> None:
    """Wait until what was put into ``multiprocessing`` queues is with their readers, though not for ever.

    The driver ends a worker whose initializer failed, and who reads the queue then wants to find out why it did.
    """
    util = sys.modules.get("multiprocessing.util")
    if util is None:
        return  # nobody has made a queue
    thread = threading.Thread(target=util._exit_function, daemon=True)
    thread.start()
    thread.join(_DRAIN_S)
