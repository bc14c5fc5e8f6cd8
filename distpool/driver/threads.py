"""Whether this process may start the threads that a session needs: libzmq ends the program when its own cannot be."""

from __future__ import annotations

import threading

from distpool.errors import ConnectError

#: Two of libzmq's, the session's own, and one for what is shared.
_NEEDED = 4


def require_threads() -> None:
    """Try.

    :raises ConnectError: when the system refuses.
    """
    over = threading.Event()
    started: list[threading.Thread] = []
    try:
        for _ in range(_NEEDED):
            thread = threading.Thread(target=over.wait, daemon=True)
            thread.start()
            started.append(thread)
    except RuntimeError as error:
        raise ConnectError(
            f"distpool needs {_NEEDED} threads in this program, and the system lets it start {len(started)}: {error}; "
            "look at the limit of processes (ulimit -u), and at pids.max of the control group"
        ) from None
    finally:
        over.set()
        for thread in started:
            thread.join()
