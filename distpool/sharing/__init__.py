"""Standard ``multiprocessing`` objects (locks, queues, pipes, shared values, manager proxies) in our workers.

The standard library hands such objects to its children by *inheritance*.  Our workers are nobody's children here, so
what a pool's initializer gets is passed another way:

* file descriptors (pipes, sockets, shared memory) through a socket of the owner (``server``);
* semaphores by name where they have one, in shared memory where we made them (``semaphores``), and otherwise, for those
  that plain ``multiprocessing`` made and unlinked at once, by calls to a thread of their owner (``remote``);
* on another machine, semaphores and the ends of pipes (and so queues) by calls to a thread of their owner (``remote``,
  ``connections``), which is reached through the channel between worker and driver (``reach``, ``relay``);
* manager proxies and the resource tracker need what a child would know of its parent (``parentage``).

The driver packs an initializer inside ``sharing()`` and keeps what that yields for as long as it may start workers.
Outside of it such objects cannot be pickled, with the standard library's own error.  Whoever pickles asks
``dispatch_table()`` for the reducers to use.
"""

from __future__ import annotations

from distpool.sharing.parentage import Parentage
from distpool.sharing.reducers import Shared, dispatch_table, sharing

__all__ = ["Parentage", "Shared", "dispatch_table", "sharing"]
