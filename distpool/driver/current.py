"""The session of this process: made when it is first needed, replaced when it is lost, forgotten in a forked child."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from distpool.driver import ending
from distpool.driver.ahead import take_over
from distpool.driver.inherited import inherit
from distpool.driver.pool import PoolSpec, WorkerPool
from distpool.driver.session import Session
from distpool.worker import context as worker_context

if TYPE_CHECKING:
    from distpool.store.settings import StoreSettings

_current: Session | None = None
_current_lock = threading.Lock()
_foreign: list[Session] = []


def current_session(address: str | None = None, store_settings: StoreSettings | None = None) -> Session:
    """This process's session, made at the first call.

    :param address: the cluster to attach to, or an engine's address; None: ``DISTPOOL_ADDRESS`` if set, otherwise a
        private node.
    :param store_settings: see ``Session``; only looked at when a session is made.
    :raises ConnectError: when the scheduler cannot be reached.
    :raises RuntimeError: when this process has pools elsewhere.
    """
    global _current
    ending.stay_if_daemon()
    with _current_lock:
        if ending.interpreter_ends():
            raise RuntimeError("cannot schedule new futures after interpreter shutdown")
        session = _current
        predecessor = None
        if session is not None and session.pid == os.getpid() and not session.closed:
            if session.lifeline.is_cut():
                store_settings = store_settings or session.store_settings
                predecessor = session if _address(address) is None else None
                session.close(bequeath=predecessor is not None)
            elif address is not None and address != session.address:
                if session.pools:
                    raise RuntimeError(
                        f"this process works with {session.address or 'a node of its own'} and cannot use {address} at "
                        "the same time: end its pools first, or call distpool.shutdown()"
                    )
                session.close()
        if session is None or session.closed or session.pid != os.getpid():
            ending.install(close_current)
            try:
                session = _current = Session(_address(address), store_settings, predecessor)
            finally:
                if predecessor is not None and _current is predecessor:
                    predecessor.give_up_store()
        return session


def begin_session(address: str | None, store_bytes: float | None, spill_uri: str | None) -> Session:
    """This process's session, with a private node whose store has these settings (errors: see ``distpool.init``)."""
    from distpool.store.settings import StoreSettings

    if _address(address) is not None or worker_context.current() is not None:
        raise ValueError(
            "store_bytes and spill_uri are for a program's private node; a cluster's nodes are told when they start"
        )
    settings = StoreSettings.make(store_bytes, spill_uri)
    if existing_session() is not None:
        raise RuntimeError(
            "distpool has been started in this program already, perhaps by a call before init(); give store_bytes and "
            "spill_uri before the first call, or after shutdown()"
        )
    return current_session(None, settings)


def _address(address: str | None) -> str | None:
    """Where a new session attaches."""
    if address is None and worker_context.current() is None:
        address = os.environ.get("DISTPOOL_ADDRESS")
    # In a worker the variable is the driver's: nested work goes to the worker's own scheduler.
    return address or None


def works_with_cluster(address: str | None = None) -> bool:
    """Whether the next pool (in the cluster at ``address``, if that is given) is one of a cluster."""
    session = existing_session()
    if address is None and session is not None:
        return session.node is None
    worker = worker_context.current()
    return _address(address) is not None or (worker is not None and bool(worker.secret))


def close_current() -> None:
    """End this process's session, if it has one."""
    global _current
    with _current_lock:
        session, _current = _current, None
    if session is not None and session.pid == os.getpid():
        session.close()
    unused = take_over()
    if unused is not None:
        unused.stop()


def existing_session() -> Session | None:
    """This process's session if it has one."""
    session = _current
    return session if session is not None and session.pid == os.getpid() and not session.closed else None


def forget_in_child() -> None:
    """In a process that the user forked: the session is the parent's; this process makes its own if it needs one.

    The parent's objects are kept, unused, so that nothing of theirs is finalized here.
    """
    global _current, _current_lock
    if _current is not None:
        _foreign.append(_current)
        for pool in list(_current.pools.values()):
            inherit(pool)
        if _current.node is not None:
            _current.node.forget()
        if _current.site is not None:
            _current.site.forget()
        if _current.cluster is not None:
            _current.cluster.forget()
    _current = None
    _current_lock = threading.Lock()


def rejoin(pool_id: str, spec: PoolSpec) -> WorkerPool:
    """What a pickled ``WorkerPool`` becomes where it is unpickled."""
    return current_session().join_pool(pool_id, spec)
