"""How stored results were made, so that they can be made again; no I/O, no thread, no clock.

A result that lies in the store of a node is lost with it.  For each of them the driver keeps a ``Made``: the task, in
the form in which it was sent, and how its inputs were made in turn.  When somebody needs a result that is gone,
``recompute`` says which tasks must run again, inputs first; the shell (``distpool.driver.recovery``) submits them as
ordinary tasks, so attempts, retries and fences are those of the pool's core.

What is kept is bounded: an entry goes with the last handle of its result, unless what was made of that result is still
there; when there are too many entries, or the calls in them are too large, the oldest go first.  How often a task runs
is bounded by its ``max_retries``, whatever the reasons: a recomputation takes one of the retries that are left.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import msgspec

from distpool.driver.task import Task

#: Of all entries of a program.
MOST_ENTRIES = 100_000
MOST_BYTES = 64 << 20

#: An argument that is no task's result: gives what keeps it, or None when nothing does any more.
Argument = Callable[[], Any]


class Made(msgspec.Struct, eq=False):
    """How one stored result was made.

    ``task`` is a copy without attempt and future, ``forgotten`` why there is none any more, ``name`` its function's
    name, ``runs_left`` what is left of its ``max_retries``.  ``inputs`` are its futures and references, in the order of
    the task's dependencies, and behind them whatever else it needs.  ``held`` says how many handles of the result
    exist, ``users`` how many entries have it among their inputs, ``running`` whether the task runs again at this
    moment.  ``pool``, ``outcome`` and ``again`` are opaque: where it ran, the result as the program has it, and the
    future of the run that is under way.
    """

    name: str
    task: Task | None
    inputs: tuple[Made | Argument, ...]
    max_retries: int
    runs_left: int
    size_bytes: int
    pool: Any = None
    outcome: Any = None
    again: Any = None
    held: int = 1
    users: int = 0
    forgotten: str = ""
    running: bool = False


class Irrecoverable(Exception):
    """A result cannot be computed again; the text says why."""


class Lineage:
    """See the module's description."""

    def __init__(self, most_entries: int = MOST_ENTRIES, most_bytes: int = MOST_BYTES) -> None:
        self._most_entries = most_entries
        self._most_bytes = most_bytes
        self._entries: OrderedDict[Made, None] = OrderedDict()
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def remember(self, made: Made) -> None:
        """A task has made a result that can be lost."""
        self._entries[made] = None
        self.size_bytes += made.size_bytes
        for found in made.inputs:
            if isinstance(found, Made):
                found.users += 1
        while self._entries and (len(self._entries) > self._most_entries or self.size_bytes > self._most_bytes):
            reason = (
                f"how it was made is not known any more: the program has more than {self._most_entries:,} such "
                f"results, or their calls take more than {self._most_bytes >> 20} MiB"
            )
            self._evict(next(iter(self._entries)), reason)

    def let_go(self, made: Made) -> None:
        """A handle of a result ended."""
        made.held -= 1
        self._drop_unused([made])

    def forget(self, pool: Any) -> None:
        """Nothing can run in a pool any more."""
        for made in [made for made in self._entries if made.pool is pool]:
            if made in self._entries:
                self._evict(made, "the pool in which the task ran has ended")

    def recompute(self, made: Made, lost: str) -> list[Made]:
        """The entries whose tasks must run again for a result that is lost, inputs first; they count as running.

        Inputs that somebody has a handle of are believed to be there: whoever finds that one is not asks for that.
        Empty when it is being computed already.

        :param lost: what is to be said of the result when it cannot be computed.
        :raises Irrecoverable: and nothing has changed.
        """
        order: list[Made] = []
        if not made.running:
            self._plan(made, order, lost)
        for each in order:
            each.running = True
        return order

    def on_ran(self, made: Made, runs_left: int) -> None:
        """A task that had to run again is settled, with its result or without."""
        made.running = False
        made.again = None
        made.runs_left = runs_left
        self._drop_unused([made])

    def _plan(self, made: Made, order: list[Made], lost: str) -> None:
        # Chains of results are as long as programs like: no recursion.
        todo: list[tuple[Made, bool]] = [(made, False)]
        planned: set[Made] = set()
        while todo:
            each, inputs_done = todo.pop()
            if inputs_done:
                order.append(each)
                continue
            if each in planned or each.running:
                continue
            planned.add(each)
            self._check(each, lost if each is made else f"{lost}, and so is an input of it, the result of {each.name}")
            todo.append((each, True))
            todo += [(found, False) for found in each.inputs if isinstance(found, Made) and not found.held]

    def _check(self, made: Made, lost: str) -> None:
        if made.runs_left <= 0:
            why = f"its {made.max_retries} retries are exhausted" if made.max_retries else "it has max_retries=0"
            raise Irrecoverable(f"{lost}; the task cannot run again: {why}")
        if made.task is None:
            raise Irrecoverable(f"{lost}; {made.forgotten}")
        for found in made.inputs:
            if not isinstance(found, Made) and found() is None:
                raise Irrecoverable(
                    f"{lost}; the task cannot run again: one of its arguments was stored with put(), or was a large "
                    "part of the call, and has been let go of since"
                )

    def _evict(self, made: Made, reason: str) -> None:
        self._remove(made)
        made.task = None
        made.forgotten = reason
        self._drop_unused(self._release_inputs(made))

    def _drop_unused(self, todo: list[Made]) -> None:
        while todo:
            made = todo.pop()
            if made.held or made.users or made.running or made not in self._entries:
                continue
            self._remove(made)
            todo += self._release_inputs(made)

    def _release_inputs(self, made: Made) -> list[Made]:
        inputs = [found for found in made.inputs if isinstance(found, Made)]
        made.inputs = ()
        for found in inputs:
            found.users -= 1
        return inputs

    def _remove(self, made: Made) -> None:
        del self._entries[made]
        self.size_bytes -= made.size_bytes

    def check_invariants(self) -> None:
        """Raise ``AssertionError`` when the books contradict themselves."""
        assert self.size_bytes == sum(made.size_bytes for made in self._entries)
        users: dict[Made, int] = {}
        for made in self._entries:
            assert made.held or made.users or made.running, f"{made.name} is kept though nobody needs it"
            for found in made.inputs:
                if isinstance(found, Made):
                    users[found] = users.get(found, 0) + 1
        for made, count in users.items():
            assert made.users >= count, f"{made.name} is counted {made.users} times and used {count} times"
