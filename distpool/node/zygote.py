"""The process from which workers are forked: warm, single-threaded, with nothing of any program in it.

The first zygote is forked by the node process before that has any thread.  It has imported what every worker needs.
Later *generations* are forked from it; they have loaded the modules that workers came to import, and fork workers in
their turn.  A process with threads must not fork, so a module that starts threads when it is imported makes a
generation unfit.

    node process ──► first zygote ──► workers
         │  ▲             └──► generation ──► workers
         └──┴── one control socket to each (``control``)

Each process is killed by the kernel when its parent ends, however that comes about.
"""

from __future__ import annotations

import contextlib
import contextvars
import ctypes
import gc
import importlib
import os
import select
import signal
import socket
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Iterator
from types import FrameType
from typing import Any, NoReturn

from distpool import crashpoints
from distpool.node.control import Exited, Fork, Forked, Generate, NotForked, Ready, Unfit, ZygoteEnd

_PR_SET_PDEATHSIG = 1
#: When memory runs out all the same, the kernel had better take a worker, whose task can run again, than the program:
#: as if it used so many thousandths of the memory more than it does.
_SOONER_KILLED = 300
#: Of the thread in which a generation loads its modules (``nice``), where the system has nothing lower.
_LOADING_PRIORITY = 19
#: After so long, the first workers are up, and between requests there is time to load what only some workers need.
_QUIET_S = 0.05
#: Libraries make threads when they are imported, unless they are told otherwise: numerical ones as many as there are
#: cores, and pyarrow (which scikit-learn and pandas import) one in which its allocator tidies up.
_NO_THREADS = dict.fromkeys(
    (
        "OMP_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "MKL_NUM_THREADS",
        "BLIS_NUM_THREADS",
        "VECLIB_MAXIMUM_THREADS",
        "NUMEXPR_NUM_THREADS",
    ),
    "1",
) | {"JE_ARROW_MALLOC_CONF": "background_thread:false"}


def run(control: socket.socket, worker_module: str, import_path: list[bytes]) -> NoReturn:
    """Be the first zygote, in a process that has just been forked (or started) for it.  Never returns."""
    die_with_parent()
    _be_killed_sooner()
    crashpoints.play("zygote")
    sys.path += [entry for entry in map(os.fsdecode, import_path) if entry not in sys.path]
    end = ZygoteEnd(control)
    try:
        module = importlib.import_module(worker_module)
    except BaseException:
        with contextlib.suppress(ConnectionError):
            end.send(Unfit(0, (), traceback.format_exc()))
        os._exit(1)
    _Zygote(end, 0, module, frozenset(sys.modules)).serve((), ())


def _be_killed_sooner() -> None:
    """Be dearer to the kernel's out-of-memory killer than what is not a worker; children inherit it (proc(5))."""
    path = "/proc/self/oom_score_adj"
    with contextlib.suppress(OSError, ValueError):  # another system, or a container that does not allow it
        with open(path) as file:
            score = int(file.read())
        with open(path, "w") as file:
            file.write(str(min(1000, score + _SOONER_KILLED)))


class _Zygote:
    """
    :param needed: the modules that the first zygote had before it loaded any ahead of time.
    """

    def __init__(self, control: ZygoteEnd, generation: int, worker_module: Any, needed: frozenset[str]) -> None:
        self._control = control
        self._generation = generation
        self._worker_module = worker_module
        self._needed = needed
        self._learned: frozenset[str] = frozenset()
        # A generation has what the first zygote had loaded when it was forked.
        later = getattr(worker_module, "LOADED_LATER", ())
        self._to_load: deque[str] = deque(name for name in later if name not in sys.modules)
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        #: children that are generations
        self._generations: set[int] = set()

    def serve(self, modules: tuple[str, ...], unloadable: tuple[str, ...]) -> NoReturn:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, _ignore)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        self._share()
        poll = select.poll()
        poll.register(self._control.fileno(), select.POLLIN)
        poll.register(self._wake_read, select.POLLIN)
        load_at = time.monotonic() + _QUIET_S
        try:
            self._control.send(Ready(self._generation, os.getpid(), modules, unloadable))
            while True:
                wait_ms = max(0.0, load_at - time.monotonic()) * 1000 if self._to_load else None
                ready = poll.poll(wait_ms)
                if not ready:
                    self._load_next()
                for fd, _ in ready:
                    if fd == self._wake_read:
                        self._reap()
                    else:
                        self._obey()
        except (EOFError, ConnectionError):
            os._exit(0)  # the node is gone; the kernel ends the workers

    def _load_next(self) -> None:
        gc.disable()
        importlib.import_module(self._to_load.popleft())
        self._share()

    def _share(self) -> None:
        """What exists now is shared with all workers; whatever touches it there, if only to count references, copies it
        page by page."""
        loaded_ahead = getattr(self._worker_module, "loaded_ahead", None)
        if loaded_ahead is not None:
            loaded_ahead()
        self._learned = sys.stdlib_module_names & (sys.modules.keys() - self._needed)
        gc.freeze()
        gc.enable()

    def _reap(self) -> None:
        try:
            os.read(self._wake_read, 4096)
        except BlockingIOError:
            pass
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            if pid in self._generations:
                self._generations.discard(pid)  # the agent sees the end of its control socket
            else:
                peak_rss_bytes = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
                self._control.send(Exited(pid, os.waitstatus_to_exitcode(status), peak_rss_bytes))

    def _obey(self) -> None:
        for message in self._control.receive():
            descriptor = self._control.descriptors.popleft()
            if isinstance(message, Fork):
                self._fork(message, descriptor)
            else:
                self._generate(message, descriptor)
            os.close(descriptor)

    def _fork(self, message: Fork, stderr: int) -> None:
        parent = os.getpid()
        crashpoints.reach("zygote.forking")
        try:
            pid = os.fork()
        except OSError as error:
            self._control.send(NotForked(message.worker, str(error.strerror)))
            return
        if not pid:
            self._become_worker(message, stderr, parent)
        crashpoints.reach("zygote.forked")
        self._control.send(Forked(message.worker, pid))

    def _become_worker(self, message: Fork, stderr: int, parent: int) -> NoReturn:
        code = 1
        try:
            die_with_parent(parent)
            # A process group of its own: what the task starts can be ended with it.
            os.setpgid(0, 0)
            self._leave_zygote()
            os.dup2(stderr, 2)
            os.close(stderr)
            for inherited in self._control.descriptors:
                os.close(inherited)
            module = self._worker_module
            module.run(
                module.WorkerStart(
                    lease=message.worker,
                    node=message.node,
                    agent_endpoint=message.agent_endpoint,
                    endpoint=message.endpoint,
                    scheduler_endpoint=message.scheduler_endpoint,
                    store_folder=message.store_folder,
                    cluster=message.cluster,
                    learned=self._learned,
                )
            )
            code = 0
        except SystemExit as stop:
            code = _exit_code(stop)
        except BaseException:
            traceback.print_exc()
        finally:
            for stream in (sys.stdout, sys.stderr):
                try:
                    stream.flush()
                except Exception:
                    pass  # its reader is gone, and there is nobody else to tell
            os._exit(code)

    def _leave_zygote(self) -> None:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.close(self._wake_read)
        os.close(self._wake_write)
        self._control.close()

    def _generate(self, message: Generate, descriptor: int) -> None:
        parent = os.getpid()
        try:
            pid = os.fork()
        except OSError:
            return  # the agent sees that the other end of the socket is gone
        if pid:
            self._generations.add(pid)
            return
        end = ZygoteEnd(socket.socket(fileno=os.dup(descriptor)))
        try:
            die_with_parent(parent)
            self._leave_zygote()
            os.close(descriptor)
            loaded, unloadable, culprit = _load_politely(message.modules)
            if culprit is not None:
                end.send(Unfit(message.generation, (culprit,), "it starts threads when it is imported"))
                os._exit(0)
            _Zygote(end, message.generation, self._worker_module, self._needed).serve(loaded, unloadable)
        finally:
            os._exit(1)


def die_with_parent(parent: int | None = None) -> None:
    """Have the kernel kill this process when its parent ends (where the kernel can)."""
    if not sys.platform.startswith("linux"):
        return
    before = os.getppid() if parent is None else parent
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != before:
        os._exit(1)  # it ended before we could ask


def _load_politely(names: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...], str | None]:
    """As ``_load``, but tasks that run meanwhile come first.

    Priority belongs to a thread on Linux, and cannot be raised again; so a thread of its own gives it up, and is gone
    when workers are forked.  A low priority does not suffice: a worker that wakes up is sent to wait behind another one
    while the core with such a thread counts as busy.
    """
    if not sys.platform.startswith("linux"):
        return _load(names, 1)
    context = contextvars.copy_context()
    results: list[tuple[tuple[str, ...], tuple[str, ...], str | None]] = []

    def load() -> None:
        try:
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        except OSError:  # a sandbox that does not allow it
            os.setpriority(os.PRIO_PROCESS, 0, _LOADING_PRIORITY)
        results.append(context.run(_load, names, 2))

    thread = threading.Thread(target=load)
    thread.start()
    thread.join()
    for _ in range(1000):  # before Python 3.13 the system's thread may outlive that by a moment
        if _thread_count() == 1:
            break
        time.sleep(0.001)
    # What modules set for "the" context (decimal's precision, numpy's error handling) they set for the workers.
    for variable, value in context.items():
        variable.set(value)
    return results[0]


def _load(names: tuple[str, ...], threads: int) -> tuple[tuple[str, ...], tuple[str, ...], str | None]:
    """Import modules: those loaded, those that cannot be, and the first that started a thread."""
    loaded: list[str] = []
    unloadable: list[str] = []
    with _without_threads():
        for name in names:
            try:
                importlib.import_module(name)
            except BaseException:
                unloadable.append(name)  # the task that needs it will say what is wrong
            else:
                loaded.append(name)
            if _thread_count() != threads:
                return (), (), name
    return tuple(loaded), tuple(unloadable), None


@contextlib.contextmanager
def _without_threads() -> Iterator[None]:
    before = {name: os.environ.get(name) for name in _NO_THREADS}
    os.environ.update(_NO_THREADS)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _thread_count() -> int:
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return threading.active_count()


def _exit_code(stop: SystemExit) -> int:
    if stop.code is None:
        return 0
    if isinstance(stop.code, int):
        return stop.code & 0xFF
    print(stop.code, file=sys.stderr)
    return 1


def _ignore(number: int, frame: FrameType | None) -> None:
    """A handler must exist for the wake-up descriptor to be written."""
