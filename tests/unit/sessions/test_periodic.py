"""Work that is repeated goes on whatever one turn of it meets."""

from __future__ import annotations

import anyio
import pytest

from gateway.errors import StorageUnavailable
from gateway.sessions.periodic import Periodic


@pytest.mark.parametrize("error", [StorageUnavailable("away"), RuntimeError("a fault")], ids=["away", "fault"])
async def test_a_turn_that_fails_is_followed_by_the_next(error: Exception) -> None:
    turns = 0
    third = anyio.Event()

    async def work() -> None:
        nonlocal turns
        turns += 1
        if turns == 3:
            third.set()
        raise error

    periodic = Periodic("test", 0.001, work)
    periodic.start()
    with anyio.fail_after(5.0):
        await third.wait()
    await periodic.stop()
    await periodic.stop()


async def test_stopping_interrupts_a_turn_that_does_not_end() -> None:
    started = anyio.Event()

    async def work() -> None:
        started.set()
        await anyio.Event().wait()

    periodic = Periodic("test", 0.001, work)
    periodic.start()
    with anyio.fail_after(5.0):
        await started.wait()
        await periodic.stop()
