"""What a call costs, in units that are the same on a fast and on a busy machine."""

from __future__ import annotations

import hashlib
import timeit
from collections.abc import Callable

_TEXT = b"a" * 68
_NUMBER = 1_000
_ROUNDS = 15


def in_hashes(call: Callable[[], object]) -> float:
    """How many SHA-256 of a short text `call` costs: the best of several rounds, taken in turns."""
    measured, unit = [], []
    for _ in range(_ROUNDS):
        measured.append(timeit.timeit(call, number=_NUMBER))
        unit.append(timeit.timeit(lambda: hashlib.sha256(_TEXT).digest(), number=_NUMBER))
    return min(measured) / min(unit)
