"""The exceptions of failed tasks in the form in which the standard library's pool raises them."""

from __future__ import annotations

import pickle
from concurrent.futures import Future
from typing import Any, cast

from distpool.errors import SerializationError
from distpool.on_import import loaded


def as_pool_error(error: BaseException) -> BaseException:
    """``error`` with the kind of cause, or of the kind, that programs written for ``multiprocessing.Pool`` expect."""
    cause = error.__cause__
    # Whoever gave an error such a cause has imported its class.
    process = loaded("concurrent.futures.process")
    if process is not None and isinstance(cause, process._RemoteTraceback):
        from multiprocessing.pool import MaybeEncodingError, RemoteTraceback  # type: ignore[attr-defined]

        error.__cause__ = RemoteTraceback(str(cause))
        if isinstance(error, SerializationError) and error.of_outcome:
            unsent = MaybeEncodingError(error, "what the task returned or raised")
            unsent.__cause__ = error
            return cast(BaseException, unsent)
    return error


def as_submit_error(error: BaseException) -> BaseException:
    """What ``get()`` raises when a call could not be sent.

    An exception of the user's own (raised by a ``__reduce__``, say), or the standard library's refusal to pickle what
    may only be inherited, arrives as it is.
    """
    cause = error.__cause__
    if not isinstance(error, SerializationError) or cause is None:
        return error
    return error if isinstance(cause, (pickle.PicklingError, TypeError, AttributeError)) else cause


def failed(error: BaseException) -> Future[Any]:
    """A future that has failed already."""
    future: Future[Any] = Future()
    future.set_exception(error)
    return future
