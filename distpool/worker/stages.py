"""How far a task came before something went wrong, and what its driver is told for that."""

from __future__ import annotations

from distpool.errors import DistpoolError, ObjectLostError, ObjectStoreFullError, SerializationError
from distpool.wire.worker_to_driver import RAISED, UNTRANSPORTABLE
from distpool.worker import failure

LOADING, CALLING, PACKING = range(3)


def describe(error: BaseException, stage: int) -> tuple[int, BaseException, tuple[str, ...]]:
    """The result's status, the exception that the program gets, and the ids of stored arguments that were lost.

    Loading runs code of the arguments' classes: one that exits would end the driver's program from ``result()``.  The
    pickling of the result belongs to the task, which may exit.
    """
    if stage == CALLING or not isinstance(error, (Exception, SystemExit) if stage == LOADING else Exception):
        return RAISED, error, ()
    lost = error.object_ids if stage == LOADING and isinstance(error, ObjectLostError) else ()
    said: BaseException = error
    if isinstance(error, ObjectStoreFullError):
        pass  # says it all, and is what the program would get from a call of its own
    elif stage == PACKING:
        why = str(error) if isinstance(error, SerializationError) else failure.summary(error)
        said = SerializationError(f"the result of the task cannot be sent: {why}")
        said.of_outcome = True
        said.__cause__ = error
    elif not isinstance(error, DistpoolError):
        said = SerializationError(f"the arguments of the task cannot be loaded in the worker: {failure.summary(error)}")
        said.__cause__ = error
    return UNTRANSPORTABLE, said, lost
