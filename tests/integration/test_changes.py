"""Changes between replicas through a real Postgres: they arrive, and what may have been missed is known."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
from sqlalchemy import event

from gateway.errors import SessionGone, Unauthenticated
from gateway.identity.api_keys import ApiKeys
from gateway.identity.issuing import KeyIssuer
from gateway.keys import KeyRing
from gateway.sessions.changes import EVERYTHING
from gateway.sessions.registry import SessionRegistry
from gateway.storage.changes import Changes
from gateway.storage.engine import Database
from gateway.storage.keys import PostgresKeyStore
from gateway.storage.sessions import PostgresSessionStore
from tests.support.severed import Wire

RING = KeyRing.parse(KeyRing.generate())
PRINCIPAL = "key:a"


async def until(condition: Callable[[], bool], seconds: float = 10.0) -> float:
    """Waits for it and returns how long that took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, "it did not happen in time"
        await asyncio.sleep(0.005)
    return time.monotonic() - began


class Heard(list[str]):
    """What a subscriber was told."""

    def __init__(self, changes: Changes, kind: str) -> None:
        super().__init__()
        changes.subscribe(kind, self.append)


class Replica:
    """A bus, which may hang on a wire of its own, and what uses it."""

    def __init__(self, url: str, bus_url: str) -> None:
        self.database = Database(url, pool_size=3)
        self.bus_database = Database(bus_url, pool_size=2)
        self.changes = Changes(self.bus_database)
        self.sessions = SessionRegistry(
            PostgresSessionStore(self.database, RING), self.changes, clock=time.time, idle=timedelta(hours=1)
        )
        self.key_store = PostgresKeyStore(self.database)
        self.keys = ApiKeys(self.key_store, RING, self.changes, clock=time.time)


@asynccontextmanager
async def running(url: str, bus_url: str | None = None) -> AsyncIterator[Replica]:
    replica = Replica(url, bus_url or url)
    await replica.changes.start()
    try:
        yield replica
    finally:
        await replica.changes.stop()
        await replica.database.dispose()
        await replica.bus_database.dispose()


@pytest.fixture
async def one(database_url: str) -> AsyncIterator[Replica]:
    async with running(database_url) as replica:
        yield replica


@pytest.fixture
async def other(database_url: str) -> AsyncIterator[Replica]:
    async with running(database_url) as replica:
        yield replica


async def test_a_change_arrives_once_at_every_other_replica_and_here_at_once(one: Replica, other: Replica) -> None:
    here, there = Heard(one.changes, "a"), Heard(other.changes, "a")
    unconcerned = Heard(other.changes, "b")
    one.changes.publish("a", "x:y/ü")
    assert here == ["x:y/ü"]
    await until(lambda: there == ["x:y/ü"])
    one.changes.publish("a", "last")
    await until(lambda: there[-1] == "last")
    assert here == there == ["x:y/ü", "last"]
    assert unconcerned == []


async def test_both_directions_work_and_no_echo_is_taken_for_a_change(one: Replica, other: Replica) -> None:
    here, there = Heard(one.changes, "a"), Heard(other.changes, "a")
    for number in range(20):
        one.changes.publish("a", f"one {number}")
        other.changes.publish("a", f"other {number}")
        await until(lambda: len(here) == len(there))
    await until(lambda: len(here) >= 40 and len(there) >= 40)
    assert sorted(here) == sorted(there)
    assert len(set(here)) == len(here) == 40
    await until(lambda: not one.changes._echoes)


async def test_a_subscriber_that_left_is_not_called(one: Replica, other: Replica) -> None:
    heard: list[str] = []
    leave = other.changes.subscribe("a", heard.append)
    last = Heard(other.changes, "a")
    one.changes.publish("a", "1")
    await until(lambda: heard == ["1"])
    leave()
    leave()
    one.changes.publish("a", "2")
    await until(lambda: last == ["1", "2"])
    assert heard == ["1"]


async def test_a_thousand_changes_share_a_few_transactions(one: Replica, other: Replica) -> None:
    sent: list[str] = []
    event.listen(
        one.bus_database._engine.sync_engine,
        "before_cursor_execute",
        lambda _connection, _cursor, statement, _parameters, _context, _many: sent.append(statement),
    )
    there = Heard(other.changes, "a")
    for number in range(1_000):
        one.changes.publish("a", str(number % 500))
    await until(lambda: len(there) >= 500)
    assert sorted(there, key=int) == [str(number) for number in range(500)]
    assert len(sent) == 1


async def test_a_replica_that_cannot_send_asks_all_to_drop_what_they_remember_in_the_end(
    one: Replica, other: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.storage.changes._LONGEST_QUEUE", 10)
    dropped = Heard(other.changes, EVERYTHING)
    for number in range(11):
        one.changes.publish("a", str(number))
    await until(lambda: len(dropped) == 1)


async def test_a_fault_of_one_subscriber_keeps_nothing_from_the_others(one: Replica, other: Replica) -> None:
    def faulty(_: str) -> None:
        raise RuntimeError("a fault")

    other.changes.subscribe("a", faulty)
    there = Heard(other.changes, "a")
    one.changes.publish("a", "x")
    await until(lambda: there == ["x"])
    assert other.changes.healthy


async def test_a_closed_connection_is_noticed_at_once_and_mended(database_url: str, one: Replica) -> None:
    async with Wire(database_url) as wire, running(database_url, wire.url) as cut:
        dropped, heard = Heard(cut.changes, EVERYTHING), Heard(cut.changes, "a")
        assert cut.changes.healthy
        wire.close_all()
        assert await until(lambda: not cut.changes.healthy) < 0.2
        await until(lambda: cut.changes.healthy)
        assert dropped == [""]
        one.changes.publish("a", "x")
        await until(lambda: heard == ["x"])


async def test_a_silent_connection_is_noticed_within_a_second_and_trusted_again_when_it_speaks(
    database_url: str, one: Replica
) -> None:
    async with Wire(database_url) as wire, running(database_url, wire.url) as cut:
        heard = Heard(cut.changes, "a")
        wire.swallow()
        one.changes.publish("a", "x")
        assert await until(lambda: not cut.changes.healthy) < 1.0
        assert heard == []
        wire.let_pass()
        await until(lambda: cut.changes.healthy)
        assert heard == ["x"]


async def test_a_connection_that_stays_silent_is_replaced(database_url: str, one: Replica) -> None:
    async with Wire(database_url) as wire, running(database_url, wire.url) as cut:
        dropped, heard = Heard(cut.changes, EVERYTHING), Heard(cut.changes, "a")
        connections = wire.accepted
        wire.swallow()
        assert 2.0 < await until(lambda: wire.accepted > connections) < 8.0
        assert not cut.changes.healthy
        wire.let_pass()
        await until(lambda: cut.changes.healthy)
        assert dropped == [""]
        one.changes.publish("a", "x")
        await until(lambda: heard == ["x"])


async def test_what_was_published_while_postgres_was_out_of_reach_arrives_afterwards(
    database_url: str, one: Replica
) -> None:
    async with Wire(database_url) as wire, running(database_url, wire.url) as cut:
        here, heard = Heard(cut.changes, "a"), Heard(one.changes, "a")
        wire.refuse()
        connections = wire.accepted
        cut.changes.publish("a", "x")
        assert here == ["x"]
        await until(lambda: wire.accepted > connections + 2)
        cut.changes.publish("a", "y")
        assert heard == []
        wire.accept()
        await until(lambda: set(heard) == {"x", "y"})
        await until(lambda: cut.changes.healthy)


async def test_what_is_queued_is_sent_before_the_bus_stops(database_url: str, one: Replica) -> None:
    heard = Heard(one.changes, "a")
    async with running(database_url) as leaving:
        leaving.changes.publish("a", "first")
        await until(lambda: heard == ["first"])
        for number in range(10):
            leaving.changes.publish("a", str(number))
    assert not leaving.changes.healthy
    await until(lambda: len(heard) == 11)


@pytest.mark.parametrize("wire_is_cut", [False, True], ids=["heard", "listen cut"])
async def test_a_revoked_key_and_a_closed_session_are_refused_everywhere_within_a_second(
    database_url: str, one: Replica, wire_is_cut: bool
) -> None:
    async with Wire(database_url) as wire, running(database_url, wire.url) as there:
        issued = await KeyIssuer(one.key_store, RING, time.time).create("ci")
        session = await one.sessions.open(
            principal=PRINCIPAL, endpoint="", protocol_version="2025-11-25", client_info={}, client_capabilities={}
        )
        await there.keys.authenticate(issued.text)
        await there.sessions.resolve(session.id, PRINCIPAL, "")
        await until(lambda: there.keys.find_cached(issued.text) is not None)
        await until(lambda: there.sessions.find_cached(session.id, PRINCIPAL, "") is not None)
        if wire_is_cut:
            wire.swallow()
        began = time.monotonic()
        await one.key_store.revoke(issued.record.id, time.time())
        await one.sessions.close(session)
        await until(lambda: there.keys.find_cached(issued.text) is None, 1.0)
        await until(lambda: there.sessions.find_cached(session.id, PRINCIPAL, "") is None, 1.0)
        assert time.monotonic() - began < 1.0
        with pytest.raises(Unauthenticated):
            await there.keys.authenticate(issued.text)
        with pytest.raises(SessionGone):
            await there.sessions.resolve(session.id, PRINCIPAL, "")
