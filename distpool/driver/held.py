"""Tasks that are kept back until what they need is there: futures among their arguments, or inputs that were lost."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from distpool import errors
from distpool.driver.dependencies import values_of, when_all_done
from distpool.driver.outcome import PackedOutcome
from distpool.driver.task import Task, home_of

if TYPE_CHECKING:
    from distpool.driver.session import Session


class HeldTasks:
    """One per pool.

    :param inbox: where they go when they can run.
    :ivar tasks: changed under the session's lock; who finds a task to be no longer among them leaves it alone.
    """

    def __init__(self, session: Session, inbox: deque[Task]) -> None:
        self._session = session
        self._lock = session.lock
        self._inbox = inbox
        self.tasks: set[Task] = set()

    def hold(self, task: Task, dependencies: Sequence[Any], released: Callable[[], None]) -> None:
        """Keep a task back until the futures among its arguments are done.

        :param released: called, without the lock, when it has gone to the inbox.
        """
        self.tasks.add(task)
        when_all_done(dependencies, lambda: self._release(task, dependencies, released))

    def _release(self, task: Task, dependencies: Sequence[Any], released: Callable[[], None]) -> None:
        try:
            values, kept = values_of(task.function.name, dependencies)
        except errors.DependencyError as error:
            with self._lock:
                held = task in self.tasks
                self.tasks.discard(task)
                task.withdrawn = True
            if held:
                # Without its traceback, whose frames refer to the values of the others.
                self._session.settle([(task.future, None, error.with_traceback(None))])
        else:
            with self._lock:
                if task not in self.tasks:
                    return  # cancelled
                self.tasks.discard(task)
                tasks = [task] if task.call is None else task.call.tasks
                for part in tasks:
                    part.message.dependencies = values
                task.keep = (task.keep, kept)
                task.inputs = kept
                arguments = (task.message.objects, *(value.objects for value in values))
                task.home = home_of(itertools.chain.from_iterable(arguments))
                self._inbox.extend(tasks)
        released()

    def put_back(self, task: Task, verdict: BaseException | PackedOutcome | None) -> bool:
        """A task whose input had been lost can run, or cannot; False when it has been cancelled.

        :param verdict: why it cannot.
        """
        with self._lock:
            if task not in self.tasks:
                return False
            self.tasks.discard(task)
            if verdict is None:
                values = task.message.dependencies = tuple(packed.value for packed in task.inputs)
                task.home = home_of(itertools.chain(task.message.objects, *(value.objects for value in values)))
                self._inbox.append(task)
            else:
                task.withdrawn = True
                task.let_go()
        if isinstance(verdict, PackedOutcome):
            self._session.settle([(task.future, verdict, None)])
        elif verdict is not None:
            self._session.settle([(task.future, None, verdict)])
        return True
