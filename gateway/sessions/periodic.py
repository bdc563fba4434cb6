"""Work that a replica repeats for as long as it runs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import structlog

from gateway.errors import StorageUnavailable

log = structlog.get_logger()


class Periodic:
    """Runs `work` every `period` seconds. A turn that fails is logged; the next one comes all the same."""

    def __init__(self, name: str, period: float, work: Callable[[], Awaitable[object]]) -> None:
        self._name = name
        self._period = period
        self._work = work
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._repeat(), name=self._name)

    async def stop(self) -> None:
        """Ends it, in the middle of its work if need be."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _repeat(self) -> None:
        while True:
            await asyncio.sleep(self._period)
            try:
                await self._work()
            except StorageUnavailable as error:
                log.warning("periodic_work_skipped", work=self._name, error=str(error))
            except Exception:
                log.exception("periodic_work_failed", work=self._name)
