"""How long a party of a cluster may be silent before the others give it up."""

from __future__ import annotations

import math
import os

from distpool.errors import ConnectError

_DEFAULT_S, _LEAST_S = 10.0, 0.5


def silence_s() -> float:
    """Seconds without a sign of life after which a node or program is given up, as ``DISTPOOL_SILENCE_S`` says.

    It is to be the same everywhere in a cluster.

    :raises ConnectError: when that is no such number.
    """
    text = os.environ.get("DISTPOOL_SILENCE_S", "")
    try:
        value = float(text) if text else _DEFAULT_S
    except ValueError:
        value = math.nan
    if not _LEAST_S <= value < 1e5:
        raise ConnectError(f"DISTPOOL_SILENCE_S must be a number of seconds, {_LEAST_S:g} or more, not {text!r}")
    return value
