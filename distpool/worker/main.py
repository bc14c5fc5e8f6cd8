"""A worker process from its fork to its end.

Called by the zygote in the child: ``run(WorkerStart(...))`` never returns.  Threads: *main* runs tasks and receives
while it is idle; *watch* receives while a task runs (see ``watch``).
"""

from __future__ import annotations

import atexit
import faulthandler

# What every worker's set-up needs is loaded once per node, in the zygote.
import logging  # noqa: F401
import multiprocessing  # noqa: F401
import os
import random  # noqa: F401
import sys
import threading
import traceback
from typing import TYPE_CHECKING, NoReturn

import msgspec
import zmq

import distpool.code.finder
import distpool.code.loader
import distpool.code.pickler
import distpool.code.state
import distpool.sharing.parentage
import distpool.store.parts  # noqa: F401 - for the zygote, as above
from distpool import crashpoints
from distpool.wire.channel import Channel
from distpool.wire.worker_to_agent import WorkerStarted
from distpool.worker.mailbox import Mailbox
from distpool.worker.runner import Runner
from distpool.worker.setup import reset_signals

if TYPE_CHECKING:
    from distpool.node.control import ClusterFacts
    from distpool.wire.security import Keys

#: What only some tasks need: those whose modules have state, that submit tasks, or share memory.  The zygote loads one
#: after the other when it has nothing else to do: the first workers must not wait for it.
LOADED_LATER = (
    "_blake2",
    "distpool.code.by_value",
    "distpool.driver.current",
    "distpool.driver.environment",
    "distpool.code.definitions",
    "distpool.executor",
    "distpool.store.link",
    "multiprocessing.resource_tracker",
    # What modules of programs import more often than anything else that takes milliseconds.
    "pathlib",
    "tempfile",
)
#: How long the last words may take to leave the process.
_LINGER_S = 2.0


def loaded_ahead() -> None:
    """The zygote has loaded modules: what is the same for all workers is found out before they are forked."""
    from distpool.worker.thread_budget import note_libraries

    note_libraries()


class WorkerStart(msgspec.Struct, frozen=True):
    """What the zygote tells a new worker.

    :param lease: its name: that of the lease that it was started for, or one of its own if it was started ahead of any.
    :param node: the id of its node.
    :param agent_endpoint: where its agent listens.
    :param endpoint: where it shall listen for its driver.
    :param scheduler_endpoint: the cluster's scheduler, as seen from this node.
    :param store_folder: the folder of the node's object store.
    :param cluster: None on a private node; otherwise ``endpoint`` is not used.
    :param learned: modules of the standard library that the zygote has loaded ahead of time, since tasks may need them.
    """

    lease: str
    node: str
    agent_endpoint: str
    endpoint: str
    scheduler_endpoint: str
    store_folder: str
    cluster: ClusterFacts | None = None
    learned: frozenset[str] = frozenset()


def run(start: WorkerStart) -> NoReturn:
    """Be a worker until the driver says ``Leave``; then end the process with status 0."""
    crashpoints.play("worker")
    crashpoints.reach("worker.began")
    reset_signals()
    _keep_crash_reports_visible()
    zmq_context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    keys = _keys(start)
    channel = Channel(zmq_context, f"w-{start.lease}".encode(), keys)
    agent = f"a-{start.node}".encode()
    channel.connect(start.agent_endpoint, agent)
    endpoint = _listen(zmq_context, channel, start, keys)
    mailbox = Mailbox(channel, agent)
    if start.cluster is not None:
        from distpool.worker import far_sockets

        far_sockets.install(mailbox)
    runner = Runner(mailbox, start)
    crashpoints.reach("worker.listening")
    mailbox.tell_agent(WorkerStarted(start.lease, endpoint, os.getpid()))
    crashpoints.reach("worker.started")
    status = 0
    try:
        runner.serve()
        crashpoints.reach("worker.leaving")
        runner.imports.report()
        _run_exit_functions()
        runner.end()
        channel.close(_LINGER_S)
        crashpoints.reach("worker.left")
        zmq_context.term()
    except BaseException:
        traceback.print_exc(file=sys.__stderr__)
        status = 1
    os._exit(status)


def _keys(start: WorkerStart) -> Keys | None:
    if start.cluster is None:
        return None
    from distpool.wire.security import Keys

    return Keys.derive(start.cluster.secret)


def _listen(context: zmq.Context[zmq.Socket[bytes]], channel: Channel, start: WorkerStart, keys: Keys | None) -> str:
    """Listen for the driver; returns where it finds this worker."""
    if start.cluster is None or keys is None:
        return channel.bind(start.endpoint, shortcuts=True)
    from distpool.node.ports import bind_first_free
    from distpool.wire.gatekeeper import Gatekeeper

    Gatekeeper(context, keys)
    return bind_first_free(channel, start.cluster)


def _run_exit_functions() -> None:
    """What the interpreter does at its end, and ``multiprocessing`` at the end of a child."""
    # Children and finalizers first: ``atexit`` functions may count on them being done.
    util = sys.modules.get("multiprocessing.util")
    for step in (
        *((util._exit_function,) if util is not None else ()),
        threading._shutdown,  # type: ignore[attr-defined]  # Python's own end has no other name
        atexit._run_exitfuncs,
    ):
        try:
            step()
        except BaseException:
            sys.excepthook(*sys.exc_info())
    for name in ("stdout", "stderr"):
        try:
            getattr(sys, name).flush()
        except Exception:
            pass  # deleted, None, closed, or a thing of the user's


def _keep_crash_reports_visible() -> None:
    """Reports of crashes go to the standard error that the process began with, also when a task closes or redirects
    descriptor 2."""
    try:
        faulthandler.enable(file=os.fdopen(os.dup(2), "w", closefd=False), all_threads=True)
    except OSError:
        pass  # there is none
