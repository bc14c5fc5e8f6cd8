"""What stands in a worker for a value that could not be carried: every use of it says which one, and why."""

from __future__ import annotations

from typing import Any, NoReturn

from distpool.errors import SerializationError

_REFUSED = (
    "call iter next len getitem setitem delitem contains enter exit aenter aexit aiter anext await bool int float "
    "complex index eq ne lt le gt ge add radd iadd sub rsub isub mul rmul imul matmul rmatmul imatmul truediv rtruediv "
    "itruediv floordiv rfloordiv ifloordiv mod rmod imod pow rpow ipow lshift rlshift ilshift rshift rrshift irshift "
    "and rand iand or ror ior xor rxor ixor divmod rdivmod neg pos abs invert round trunc floor ceil fspath bytes "
    "reversed"
)


class Unavailable:
    """Stands for a value of the driver's program; ``what`` names it, ``reason`` says why it is not here."""

    __slots__ = ("_reason", "_what")

    def __init__(self, what: str, reason: str) -> None:
        object.__setattr__(self, "_what", what)
        object.__setattr__(self, "_reason", reason)

    def __getattr__(self, name: str) -> Any:
        # Python itself probes objects for special attributes (copying, inspection); that is no use of the value.
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        _refuse(self)

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        _refuse(self)

    def __delattr__(self, name: str) -> NoReturn:
        _refuse(self)

    def __repr__(self) -> str:
        return f"<unavailable in this worker: {what_of(self)} ({reason_of(self)})>"

    def __reduce__(self) -> tuple[Any, ...]:
        return (Unavailable, (what_of(self), reason_of(self)))

    __hash__ = object.__hash__


def what_of(value: Unavailable) -> str:
    """The name of what is missing."""
    return str(object.__getattribute__(value, "_what"))


def reason_of(value: Unavailable) -> str:
    """Why it is missing."""
    return str(object.__getattribute__(value, "_reason"))


def is_unavailable(value: Any) -> bool:
    """Whether ``value`` is such a stand-in."""
    return type(value) is Unavailable


def _refuse(value: Unavailable, *_: Any, **__: Any) -> NoReturn:
    raise SerializationError(
        f"{what_of(value)} could not be carried to this worker: {reason_of(value)}. "
        "Make it inside the task or in the pool's initializer."
    )


for _name in _REFUSED.split():
    setattr(Unavailable, f"__{_name}__", _refuse)
