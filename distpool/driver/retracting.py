"""Taking back what waits behind another task while a worker is idle; a part of ``core``, and as free of I/O as that."""

from __future__ import annotations

from distpool.driver.state import Effects, Group, Worker
from distpool.wire.resources import Shape

#: A worker that has not answered for this long while another is idle gives its queue back.
RETRACT_AFTER_S = 0.005


class Retractor:
    """For all groups of a pool; ``deadlines`` is the core's."""

    def __init__(self, groups: dict[Shape, Group], deadlines: dict[tuple[str, str], float]) -> None:
        self._groups = groups
        self._deadlines = deadlines

    def watch(self, group: Group, now: float) -> None:
        """A worker is idle: look soon whether another one sits on a queue."""
        if ("retract", "") not in self._deadlines and any(
            len(w.in_flight) > 1 and not w.retracting for w in group.workers.values()
        ):
            self._deadlines[("retract", "")] = now + RETRACT_AFTER_S

    def look(self, now: float, effects: Effects) -> None:
        """Take back what idle workers can do sooner."""
        for group in self._groups.values():
            idle = len(group.idle)
            if not idle or group.ready:
                continue
            again = False
            for worker in group.workers.values():
                held = len(worker.in_flight)
                if held < 2 or worker.retracting or worker.exit is not None:
                    continue
                stuck = now - worker.last_progress >= RETRACT_AFTER_S
                if stuck or held * group.task_s > 4 * RETRACT_AFTER_S:
                    keep = 1 if stuck else -(-held // (idle + 1))
                    _retract(worker, keep, effects)
                else:
                    again = True
            if again:
                self._deadlines[("retract", "")] = now + RETRACT_AFTER_S

    @staticmethod
    def all_but_first(worker: Worker, effects: Effects) -> None:
        """Leave a worker the task that it runs, and nothing else."""
        if len(worker.in_flight) > 1 and not worker.retracting:
            _retract(worker, 1, effects)


def _retract(worker: Worker, keep: int, effects: Effects) -> None:
    effects.retract.append((worker, list(worker.in_flight)[keep:]))
    worker.retracting = True
