"""What a request costs everybody else: how long the event loop stood still, and how much memory stayed."""

from __future__ import annotations

import asyncio
import gc
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self

LONGEST_TURN: Final = 0.05
"""Seconds for which one request may hold the event loop."""
_TICK = 0.001
_MEMORY = Path("/proc/self/statm")
_PAGE = os.sysconf("SC_PAGE_SIZE")


def _resident() -> int:
    return int(_MEMORY.read_text(encoding="ascii").split()[1]) * _PAGE


class Burden:
    """Measures while it is entered.

    `longest_turn` is the most CPU time this process used between two turns of the loop, which is how long the loop
    stood still however busy the machine is with others. `grown` is the most bytes by which the process grew meanwhile.
    """

    def __init__(self) -> None:
        self.longest_turn = 0.0
        self.grown = 0

    async def __aenter__(self) -> Self:
        gc.collect()
        self._before = _resident()
        self._loop = asyncio.get_running_loop()
        self._last = time.process_time()
        self._handle = self._loop.call_later(_TICK, self._tick)
        return self

    def _tick(self) -> None:
        now = time.process_time()
        self.longest_turn = max(self.longest_turn, now - self._last)
        self.grown = max(self.grown, _resident() - self._before)
        self._last = time.process_time()
        self._handle = self._loop.call_later(_TICK, self._tick)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._handle.cancel()
        self.longest_turn = max(self.longest_turn, time.process_time() - self._last)
