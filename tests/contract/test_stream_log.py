"""What every `StreamLog` does, in memory and in Postgres alike."""

from __future__ import annotations

import asyncio
import itertools
import uuid
from collections.abc import AsyncIterator

import pytest

from gateway.bridge.stream_log import MAX_BYTES, MAX_EVENTS, StreamLog, StreamPage, StreamUnknown, announced_id
from gateway.storage.engine import Database
from gateway.storage.stream_log import PostgresStreamLog
from tests.support.stores import MemoryChanges, MemoryStreamLog

NOW = 1_800_000_000.0


@pytest.fixture(params=["memory", "postgres"])
def url(request: pytest.FixtureRequest) -> str | None:
    return None if request.param == "memory" else str(request.getfixturevalue("database_url"))


@pytest.fixture
def changes() -> MemoryChanges:
    return MemoryChanges()


@pytest.fixture
async def log(url: str | None, changes: MemoryChanges) -> AsyncIterator[StreamLog]:
    if url is None:
        yield MemoryStreamLog(changes)
        return
    database = Database(url)
    try:
        yield PostgresStreamLog(database, changes, clock=lambda: NOW)
    finally:
        await database.dispose()


@pytest.fixture
def session() -> str:
    return uuid.uuid4().hex


async def test_events_are_read_in_order_after_a_number(log: StreamLog, session: str) -> None:
    await log.open(session, "a")
    for seq in range(1, 6):
        await log.append(session, "a", seq, b"event %d" % seq, f"upstream {seq} \x00")
    page = await log.read(session, "a", 3)
    assert page == StreamPage([(4, b"event 4"), (5, b"event 5")], ended=False, known=True)
    assert (await log.read(session, "a", 5)).events == []


async def test_the_end_is_seen_together_with_all_events(log: StreamLog, session: str) -> None:
    await log.open(session, "a")
    await log.append(session, "a", 1, b"only")
    await log.end(session, "a")
    assert await log.read(session, "a", 0) == StreamPage([(1, b"only")], ended=True, known=True)
    assert await log.read(session, "a", 1) == StreamPage([], ended=True, known=True)


async def test_a_stream_is_known_to_its_own_session_only(log: StreamLog, session: str) -> None:
    await log.open(session, "a")
    await log.append(session, "a", 1, b"secret")
    assert await log.read("another", "a", 0) == StreamPage([], ended=False, known=False)
    assert await log.read(session, "b", 0) == StreamPage([], ended=False, known=False)


async def test_nothing_is_added_to_a_stream_that_was_never_opened(log: StreamLog, session: str) -> None:
    await log.open(session, "a")
    refused, added = await asyncio.gather(
        log.append(session, "never", 1, b"x"), log.append(session, "a", 1, b"x"), return_exceptions=True
    )
    assert isinstance(refused, StreamUnknown)
    assert added is None


async def test_opening_again_keeps_what_is_there(log: StreamLog, session: str) -> None:
    await log.open(session, "a")
    await log.append(session, "a", 1, b"x")
    await log.open(session, "a")
    assert (await log.read(session, "a", 0)).events == [(1, b"x")]


async def test_the_same_event_twice_is_one_and_another_of_its_number_is_refused(log: StreamLog, session: str) -> None:
    await log.open(session, "a")
    await asyncio.gather(log.append(session, "a", 1, b"x"), log.append(session, "a", 1, b"x"))
    await log.append(session, "a", 1, b"x")
    with pytest.raises(ValueError, match="has number 1"):
        await log.append(session, "a", 1, b"y")
    assert (await log.read(session, "a", 0)).events == [(1, b"x")]


async def test_the_oldest_events_go_when_there_are_too_many(log: StreamLog, session: str) -> None:
    await log.open(session, "a")
    await asyncio.gather(*(log.append(session, "a", seq, b"x") for seq in range(1, MAX_EVENTS + 51)))
    await log.append(session, "a", MAX_EVENTS + 51, b"x")
    events = (await log.read(session, "a", 0)).events
    assert [seq for seq, _ in events] == list(range(52, MAX_EVENTS + 52))


async def test_the_oldest_events_go_when_they_are_too_long_and_the_newest_stays(log: StreamLog, session: str) -> None:
    await log.open(session, "a")
    third = bytes(MAX_BYTES // 3)
    for seq in range(1, 5):
        await log.append(session, "a", seq, third)
    assert [seq for seq, _ in (await log.read(session, "a", 0)).events] == [2, 3, 4]
    await log.append(session, "a", 5, bytes(2 * MAX_BYTES))
    assert [seq for seq, _ in (await log.read(session, "a", 0)).events] == [5]


async def test_many_streams_at_once_keep_their_own_order(log: StreamLog, session: str) -> None:
    async def write(stream: str) -> None:
        await log.open(session, stream)
        for seq in range(20):
            await log.append(session, stream, seq, f"{stream} {seq}".encode())
        await log.end(session, stream)

    streams = [f"stream-{number}" for number in range(20)]
    await asyncio.gather(*(write(stream) for stream in streams))
    for stream in streams:
        page = await log.read(session, stream, -1)
        assert page.events == [(seq, f"{stream} {seq}".encode()) for seq in range(20)]
        assert page.ended


async def test_every_append_and_the_end_are_published_once_they_can_be_read(
    log: StreamLog, session: str, changes: MemoryChanges
) -> None:
    await log.open(session, "a")
    assert changes.published == []
    for seq, told in itertools.pairwise(range(1, 4)):
        await log.append(session, "a", seq, b"x")
        assert len(changes.published) == told - 1
    await log.end(session, "a")
    assert set(changes.published) == {("stream", announced_id(session, "a"))}
    assert session not in str(changes.published)
