"""Processes that end when the one that started them does, however that ends."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1


def die_with_parent(death: signal.Signals) -> Callable[[], None] | None:
    """For `preexec_fn`: has Linux send `death` to the new process when our thread ends; None elsewhere.

    It runs after a change of user, which would clear the setting, and calls nothing but two system calls.
    """
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl  # loaded here: between fork and exec nothing may be
    owner = os.getpid()

    def bind() -> None:
        prctl(_PR_SET_PDEATHSIG, int(death), 0, 0, 0)
        if os.getppid() != owner:  # the owner died before the line above, and no signal will come
            os._exit(1)

    return bind
