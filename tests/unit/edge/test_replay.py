"""Streams that can be taken up again: ids, what is kept before it is written, and replay on any replica."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from gateway.bridge.stream_log import MAX_EVENTS
from gateway.edge.replay import RETRY_MS, Logged, Replays
from gateway.errors import StorageUnavailable
from gateway.upstream.sse import Event, EventParser
from tests.support.asgi import FakeHttp
from tests.support.calls import until
from tests.support.stores import MemoryBus, MemoryChanges, MemoryStreamLog

SESSION = "s:alice"
NEVER = 3600.0


class Severable(MemoryStreamLog):
    """A log that may be away."""

    away = False

    async def open(self, session: str, stream: str) -> None:
        self._check()
        await super().open(session, stream)

    async def append(
        self, session: str, stream: str, seq: int, event: bytes, upstream_event_id: str | None = None
    ) -> None:
        self._check()
        await super().append(session, stream, seq, event, upstream_event_id)

    def _check(self) -> None:
        if self.away:
            raise StorageUnavailable("The log is away.")


@pytest.fixture
def changes() -> MemoryChanges:
    return MemoryChanges()


@pytest.fixture
def kept(changes: MemoryChanges) -> Severable:
    return Severable(changes)


def parsed(stream: bytes) -> list[Event]:
    return list(EventParser(1_000_000).feed(stream))


def ids(stream: bytes) -> list[str | None]:
    return [event.id for event in parsed(stream) if event.has_data]


async def written(kept: MemoryStreamLog, *events: bytes, end: bool = True, primed: bool = True) -> str:
    """A stream as a client saw it that was there to the end; returns the id of its first event."""
    logged = Logged(kept, SESSION, primed=primed)
    stream = await logged.start() + b"".join([await logged.event(data) for data in events])
    if end:
        await logged.end()
    first = ids(stream)[0]
    assert first is not None
    return first


def at(first: str, number: int) -> str:
    """The id of another event of the same stream."""
    return f"{first.partition('-')[0]}-{number}"


@asynccontextmanager
async def serving(
    replays: Replays, last: str, session: str = SESSION
) -> AsyncIterator[tuple[FakeHttp, asyncio.Task[bool]]]:
    """A reconnected client."""
    fake = FakeHttp(method="GET")
    task = asyncio.create_task(replays.serve(fake.request, session, last))
    try:
        yield fake, task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


# --- writing


async def test_a_primed_stream_begins_with_an_id_and_no_data(kept: Severable) -> None:
    (event,) = parsed(await Logged(kept, SESSION, primed=True).start())
    assert (event.data, event.retry) == (b"", RETRY_MS)
    assert event.id is not None
    assert event.id.endswith("-0")


async def test_older_clients_get_no_event_that_they_would_choke_on(kept: Severable) -> None:
    (event,) = parsed(await Logged(kept, SESSION, primed=False).start())
    assert (event.id, event.has_data, event.retry) == (None, False, RETRY_MS)


async def test_events_are_numbered_and_kept_before_they_are_written(kept: Severable) -> None:
    logged = Logged(kept, SESSION, primed=True)
    stream = (parsed(await logged.start())[0].id or "").partition("-")[0]
    for number, data in enumerate([b'{"a":1}', b'{"a":2}'], 1):
        (event,) = parsed(await logged.event(data))
        assert (event.id, event.data, event.event) == (f"{stream}-{number}", data, "message")
        assert (await kept.read(SESSION, stream, number - 1)).events == [(number, data)]


async def test_two_streams_never_share_an_id(kept: Severable) -> None:
    assert len({await written(kept, b"{}") for _ in range(50)}) == 50


@pytest.mark.parametrize("primed", [True, False])
async def test_a_stream_that_cannot_be_kept_goes_on_without_ids(kept: Severable, primed: bool) -> None:
    kept.away = True
    logged = Logged(kept, SESSION, primed=primed)
    assert await logged.start() == b": open\n\n"
    (event,) = parsed(await logged.event(b"{}"))
    assert (event.id, event.data) == (None, b"{}")
    await logged.end()


async def test_after_a_gap_nothing_claims_that_it_could_be_replayed(kept: Severable) -> None:
    logged = Logged(kept, SESSION, primed=True)
    await logged.start()
    kept.away = True
    assert ids(await logged.event(b"1")) == [None]
    kept.away = False
    assert ids(await logged.event(b"2")) == [None]


async def test_a_replay_of_a_stream_with_a_gap_ends_when_the_stream_does(
    kept: Severable, changes: MemoryChanges
) -> None:
    logged = Logged(kept, SESSION, primed=True)
    first = parsed(await logged.start())[0].id or ""
    kept.away = True
    await logged.event(b"1")
    kept.away = False
    await logged.end()
    async with serving(Replays(kept, changes, keep_alive=NEVER), first) as (fake, task):
        assert await asyncio.wait_for(task, 5)
        assert fake.ended


# --- replaying


async def test_what_came_after_the_last_event_comes_again_under_the_same_ids(
    kept: Severable, changes: MemoryChanges
) -> None:
    first = await written(kept, b"1", b"2", b"3")
    async with serving(Replays(kept, changes, keep_alive=NEVER), at(first, 1)) as (fake, task):
        assert await asyncio.wait_for(task, 5)
        assert [(event.id, event.data) for event in parsed(fake.body) if event.has_data] == [
            (at(first, 2), b"2"),
            (at(first, 3), b"3"),
        ]
        assert parsed(fake.body)[0].retry == RETRY_MS
        assert fake.ended


async def test_a_stream_that_goes_on_is_followed_to_its_end(kept: Severable, changes: MemoryChanges) -> None:
    logged = Logged(kept, SESSION, primed=True)
    first = parsed(await logged.start())[0].id or ""
    async with serving(Replays(kept, changes, keep_alive=NEVER), first) as (fake, task):
        await until(lambda: fake.status == 200)
        await logged.event(b"1")
        await until(lambda: ids(fake.body) == [at(first, 1)])
        await logged.event(b"2")
        await logged.end()
        assert await asyncio.wait_for(task, 5)
        assert ids(fake.body) == [at(first, 1), at(first, 2)]


async def test_a_stream_that_another_replica_writes_is_followed_too() -> None:
    bus = MemoryBus()
    here, there = MemoryChanges(bus), MemoryChanges(bus)
    kept = MemoryStreamLog(there)
    logged = Logged(kept, SESSION, primed=True)
    first = parsed(await logged.start())[0].id or ""
    async with serving(Replays(kept, here, keep_alive=NEVER), first) as (fake, task):
        await until(lambda: fake.status == 200)
        await logged.event(b"1")
        await logged.end()
        assert await asyncio.wait_for(task, 5)
        assert ids(fake.body) == [at(first, 1)]


@pytest.mark.parametrize(
    "last",
    ["", "x", "1", "0" * 24, "0" * 24 + "-", "0" * 24 + "-1", "G" * 24 + "-1", "0" * 24 + "-1234567890", "a-1\n"],
)
async def test_an_id_that_is_not_ours_is_not_replayed(kept: Severable, changes: MemoryChanges, last: str) -> None:
    async with serving(Replays(kept, changes, keep_alive=NEVER), last) as (fake, task):
        assert not await task
        assert fake.sent == []


async def test_a_stream_of_another_session_is_not_replayed(kept: Severable, changes: MemoryChanges) -> None:
    first = await written(kept, b"1")
    async with serving(Replays(kept, changes, keep_alive=NEVER), first, "s:bob") as (fake, task):
        assert not await task
        assert fake.sent == []


async def test_a_client_that_leaves_again_ends_its_replay(kept: Severable, changes: MemoryChanges) -> None:
    first = await written(kept, b"1", end=False)
    async with serving(Replays(kept, changes, keep_alive=NEVER), first) as (fake, task):
        await until(lambda: ids(fake.body) == [at(first, 1)])
        fake.disconnect()
        changes.publish("stream", "any")
        assert await asyncio.wait_for(task, 5)
        assert not fake.ended


async def test_events_that_are_kept_no_longer_are_left_out(kept: Severable, changes: MemoryChanges) -> None:
    first = await written(kept, *(b"%d" % number for number in range(MAX_EVENTS + 5)))
    async with serving(Replays(kept, changes, keep_alive=NEVER), first) as (fake, task):
        assert await asyncio.wait_for(task, 5)
        assert ids(fake.body)[0] == at(first, 6)
        assert len(ids(fake.body)) == MAX_EVENTS


async def test_a_finished_replay_listens_no_more(kept: Severable, changes: MemoryChanges) -> None:
    first = await written(kept, b"1")
    async with serving(Replays(kept, changes, keep_alive=NEVER), first) as (_, task):
        await asyncio.wait_for(task, 5)
    assert changes._subscribers["stream"] == []
