"""Requests in flight: found by session and typed id, here or on another replica."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway.edge.inflight import CANCEL, LONGEST_ID, Flight, InFlight
from tests.support.calls import until
from tests.support.stores import MemoryBus, MemoryChanges


class Flying:
    """Requests under way on one replica, each in its own task."""

    def __init__(self, bus: MemoryBus | None = None) -> None:
        self.changes = MemoryChanges(bus)
        self.inflight = InFlight(self.changes)
        self.flights: dict[asyncio.Task[None], Flight] = {}

    async def begin(self, session: str, request_id: str | int) -> asyncio.Task[None]:
        async def run() -> None:
            flight = self.inflight.begin(session, request_id)
            self.flights[task] = flight
            try:
                await asyncio.Event().wait()
            finally:
                self.inflight.end(flight)

        task = asyncio.create_task(run())
        await until(lambda: task in self.flights)
        return task

    async def is_cancelled(self, task: asyncio.Task[None]) -> bool:
        for _ in range(3):
            await asyncio.sleep(0)
        assert task.done() == self.flights[task].cancelled
        return task.done()

    async def land(self) -> None:
        for task in self.flights:
            task.cancel()
        await asyncio.gather(*self.flights, return_exceptions=True)


@pytest.fixture
def flying() -> Flying:
    return Flying()


@pytest.mark.parametrize("meant", [1, "1"])
async def test_a_number_and_the_same_number_as_text_are_two_requests(flying: Flying, meant: str | int) -> None:
    flown = {type(each): await flying.begin("s:a", each) for each in (1, "1")}
    flying.inflight.cancel("s:a", meant)
    for kind, task in flown.items():
        assert await flying.is_cancelled(task) == (kind is type(meant))
    await flying.land()


async def test_the_same_id_in_another_session_is_another_request(flying: Flying) -> None:
    mine, other = await flying.begin("s:a", 1), await flying.begin("s:b", 1)
    flying.inflight.cancel("s:a", 1)
    assert await flying.is_cancelled(mine)
    assert not await flying.is_cancelled(other)
    await flying.land()


@pytest.mark.parametrize("request_id", [2**70, -1, 0, "", "é\u2028\"'", "x" * LONGEST_ID])
async def test_every_id_that_json_allows_is_found(flying: Flying, request_id: str | int) -> None:
    task = await flying.begin("s:a", request_id)
    flying.inflight.cancel("s:a", request_id)
    assert await flying.is_cancelled(task)
    await flying.land()


async def test_a_request_on_another_replica_is_cancelled_there() -> None:
    bus = MemoryBus()
    here, there = Flying(bus), Flying(bus)
    task = await there.begin("s:a", "x")
    here.inflight.cancel("s:a", "x")
    assert await there.is_cancelled(task)
    assert [kind for kind, _ in here.changes.published] == [CANCEL]
    await there.land()


async def test_a_request_that_runs_here_is_told_to_nobody(flying: Flying) -> None:
    task = await flying.begin("s:a", 1)
    flying.inflight.cancel("s:a", 1)
    assert await flying.is_cancelled(task)
    assert flying.changes.published == []
    await flying.land()


@pytest.mark.parametrize("odd", [None, True, 1.0, [], {}, "x" * (LONGEST_ID + 1), 10 ** (LONGEST_ID + 1)])
async def test_an_id_that_none_can_have_is_told_to_nobody(flying: Flying, odd: Any) -> None:
    flying.inflight.cancel("s:a", odd)
    assert flying.changes.published == []


async def test_an_answered_request_can_no_longer_be_cancelled(flying: Flying) -> None:
    task = await flying.begin("s:a", 1)
    flight = flying.flights[task]
    flying.inflight.end(flight)
    flying.inflight.cancel("s:a", 1)
    assert not flight.cancelled
    await flying.land()


async def test_an_id_used_again_while_it_is_in_flight_means_the_newer_request(flying: Flying) -> None:
    older, newer = await flying.begin("s:a", 1), await flying.begin("s:a", 1)
    older.cancel()
    await asyncio.gather(older, return_exceptions=True)
    flying.inflight.cancel("s:a", 1)
    assert await flying.is_cancelled(newer)
    await flying.land()
