"""What only a real Postgres shows: shared commits, sealed rows, locks and restarts."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from sqlalchemy import event, select, text, update

from catalogue.storage import PostgresDefinitionStore
from gateway.bridge.stream_log import KEPT_AFTER_END
from gateway.cli.postgres import EmbeddedPostgres
from gateway.errors import SessionGone, StorageUnavailable
from gateway.identity.api_keys import ApiKeys
from gateway.identity.key_text import generate
from gateway.keys import KeyRing
from gateway.sessions.model import UpstreamSession, session_key
from gateway.sessions.registry import SessionRegistry
from gateway.sessions.store import StoredSession
from gateway.storage import locks, migrate, tables
from gateway.storage.engine import Database
from gateway.storage.keys import PostgresKeyStore
from gateway.storage.sessions import PostgresSessionStore
from gateway.storage.stream_log import PostgresStreamLog
from tests.support.stores import MemoryChanges

NOW = 1_800_000_000.0
OLD, NEW = KeyRing.generate(), KeyRing.generate()
SESSION = StoredSession("key:a", "", "2025-11-25", {}, {}, NOW)
GITHUB = UpstreamSession("github", "1", "upstream-secret", "2025-11-25", {})


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = Database(database_url)
    try:
        yield database
    finally:
        async with database.connect() as connection:
            await connection.execute(text("TRUNCATE gateway_sessions, upstream_sessions, api_keys, streams CASCADE"))
        await database.dispose()


def statements(database: Database, word: str) -> list[str]:
    """Collects from now on what is executed and contains the word."""
    seen: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if word in statement:
            seen.append(statement)

    event.listen(database._engine.sync_engine, "before_cursor_execute", note)
    return seen


# --- sessions


async def test_upstream_session_ids_are_sealed_and_bound_to_their_holder(database: Database) -> None:
    store = PostgresSessionStore(database, KeyRing.parse(OLD))
    await store.attach("p:a:", GITHUB, None, NOW)
    await store.attach("p:b:", UpstreamSession("github", "1", "other", "2025-11-25", {}), None, NOW)
    rows = tables.upstream_sessions
    async with database.connect() as connection:
        everything = (await connection.execute(select(rows))).all()
        assert "upstream-secret" not in str(everything)
        stolen = next(row.sealed_id for row in everything if row.holder == "p:a:")
        await connection.execute(update(rows).where(rows.c.holder == "p:b:").values(sealed_id=stolen))
    assert await store.find_upstreams("p:b:") == {}
    assert await store.find_upstreams("p:a:") == {"github": GITHUB}


async def test_rotating_the_master_key_loses_no_upstream_session(database: Database) -> None:
    before, both, after = (PostgresSessionStore(database, KeyRing.parse(ring)) for ring in (OLD, f"{NEW},{OLD}", NEW))
    reopened = UpstreamSession("github", "1", "reopened", "2025-11-25", {})
    await before.attach("p:a:", GITHUB, None, NOW)
    assert await both.find_upstreams("p:a:") == {"github": GITHUB}
    assert await both.attach("p:a:", reopened, GITHUB, NOW) == reopened
    assert await after.find_upstreams("p:a:") == {"github": reopened}


async def test_an_upstream_session_that_no_key_opens_makes_way_for_another(database: Database) -> None:
    await PostgresSessionStore(database, KeyRing.parse(OLD)).attach("p:a:", GITHUB, None, NOW)
    store = PostgresSessionStore(database, KeyRing.parse(NEW))
    assert await store.find_upstreams("p:a:") == {}
    reopened = UpstreamSession("github", "1", "reopened", "2025-11-25", {})
    assert await store.attach("p:a:", reopened, None, NOW) == reopened
    assert await store.find_upstreams("p:a:") == {"github": reopened}


async def test_one_replica_at_a_time_purges(database: Database) -> None:
    store = PostgresSessionStore(database, KeyRing.parse(OLD))
    await store.create(session_key("old"), SESSION)
    async with database.begin() as connection:
        assert await locks.take_for_transaction(connection, locks.PURGE_SESSIONS)
        assert await store.purge(NOW + 1.0) == []
        assert await store.find(session_key("old")) is not None
    await store.purge(NOW + 1.0)
    assert await store.find(session_key("old")) is None


async def test_many_sessions_are_purged_and_their_streams_go_along(database: Database) -> None:
    store = PostgresSessionStore(database, KeyRing.parse(OLD))
    log = PostgresStreamLog(database, MemoryChanges(), clock=lambda: NOW)
    async with database.connect() as connection:
        await connection.execute(
            text(
                "INSERT INTO gateway_sessions (key, principal, endpoint, protocol_version, client_info,"
                " client_capabilities, opened, last_used) SELECT 's:' || n, 'key:a', '', '1', '{}', '{}',"
                " to_timestamp(0), to_timestamp(0) FROM generate_series(1, 2500) AS n"
            )
        )
    await log.open("s:7", "a")
    await log.append("s:7", "a", 1, b"x")
    await store.purge(NOW)
    async with database.connect() as connection:
        assert await connection.scalar(text("SELECT count(*) FROM gateway_sessions")) == 0
    assert not (await log.read("s:7", "a", 0)).known


async def test_use_of_a_hundred_sessions_is_noted_by_one_update(database: Database) -> None:
    now = NOW
    store = PostgresSessionStore(database, KeyRing.parse(OLD))
    registry = SessionRegistry(store, MemoryChanges(), clock=lambda: now, idle=timedelta(hours=1))
    opened = [
        await registry.open(
            principal="key:a", endpoint="", protocol_version="2025-11-25", client_info={}, client_capabilities={}
        )
        for _ in range(100)
    ]
    now += 120.0
    updates, everything = statements(database, "UPDATE"), statements(database, "")
    for session in opened:
        assert registry.find_cached(session.id, "key:a", "") is session
    await registry.flush()
    assert len(updates) == len(everything) == 1


# --- stream log


async def test_events_that_gather_share_a_transaction(database: Database) -> None:
    log = PostgresStreamLog(database, MemoryChanges(), clock=lambda: NOW)
    await log.open("one", "a")
    inserts = statements(database, "INSERT INTO stream_events")
    await asyncio.gather(*(log.append("one", "a", seq, b"x") for seq in range(400)))
    assert len(inserts) == 1
    await log.append("one", "a", 400, b"x")
    assert len(inserts) == 2
    assert len((await log.read("one", "a", -1)).events) == 401


async def test_another_replica_goes_on_where_the_first_one_stopped(database: Database) -> None:
    first, second = (PostgresStreamLog(database, MemoryChanges(), clock=lambda: NOW) for _ in range(2))
    await first.open("one", "a")
    for seq, length in ((1, 600_000), (2, 300_000)):
        await first.append("one", "a", seq, bytes(length))
    await second.append("one", "a", 3, bytes(300_000))
    assert [seq for seq, _ in (await first.read("one", "a", 0)).events] == [2, 3]


async def test_ended_streams_are_purged_after_a_quarter_of_an_hour(database: Database) -> None:
    now = NOW
    log = PostgresStreamLog(database, MemoryChanges(), clock=lambda: now)
    await PostgresSessionStore(database, KeyRing.parse(OLD)).create(session_key("live"), SESSION)
    for session, stream in (("x", "ended"), ("x", "abandoned"), ("live", "open")):
        await log.open(session, stream)
        await log.append(session, stream, 1, b"x")
    await log.end("x", "ended")
    now += KEPT_AFTER_END - 1.0
    await log.purge()
    assert (await log.read("x", "ended", 0)).known
    now += 2.0
    await log.purge()
    assert not (await log.read("x", "ended", 0)).known
    assert (await log.read("x", "abandoned", 0)).known
    now += 86_400.0
    await log.purge()
    assert not (await log.read("x", "abandoned", 0)).known
    assert (await log.read("live", "open", 0)).known


# --- definitions


async def test_definitions_are_kept_and_written_only_when_their_digest_differs(database: Database) -> None:
    store = PostgresDefinitionStore(database.connect)
    await store.save("github", "1", "digest-1", b"\x00body")
    await store.save("github", "2", "digest-2", b"two")
    await store.save("github", "1", "digest-1", b"never written")
    assert await store.load_all() == {("github", "1"): ("digest-1", b"\x00body"), ("github", "2"): ("digest-2", b"two")}
    await store.save("github", "1", "digest-3", b"three")
    assert (await store.load_all())["github", "1"] == ("digest-3", b"three")


# --- Postgres goes away


class Away:
    """A Postgres of its own that can be stopped and started again."""

    def __init__(self, folder: pytest.TempPathFactory) -> None:
        self.server = EmbeddedPostgres(folder.mktemp("away"))
        self.url = self.server.start()


@pytest.fixture
def away(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Away]:
    away = Away(tmp_path_factory)
    try:
        yield away
    finally:
        away.server.stop()
        shutil.rmtree(away.server.files.home, ignore_errors=True)


async def test_a_postgres_that_is_stopped_is_unavailable_to_everything_until_it_is_started(away: Away) -> None:
    await migrate.upgrade(away.url)
    database = Database(away.url, pool_size=4)
    ring, changes = KeyRing.parse(OLD), MemoryChanges()
    sessions = SessionRegistry(PostgresSessionStore(database, ring), changes, clock=time.time, idle=timedelta(hours=1))
    log = PostgresStreamLog(database, changes, clock=time.time)
    definitions = PostgresDefinitionStore(database.connect)
    session = await sessions.open(
        principal="key:a", endpoint="", protocol_version="2025-11-25", client_info={}, client_capabilities={}
    )
    await log.open(session.id, "a")
    changes.healthy = False
    await log.append(session.id, "a", 1, b"x")

    away.server.stop()
    asks: list[Callable[[], object]] = [
        lambda: sessions.resolve(session.id, "key:a", ""),
        lambda: sessions.resolve("x" * 43, "key:a", ""),
        lambda: sessions.set_log_level(session, "debug"),
        lambda: ApiKeys(PostgresKeyStore(database), ring, changes, clock=time.time).authenticate(generate()[1]),
        lambda: log.append(session.id, "a", 2, b"x"),
        lambda: log.read(session.id, "a", 0),
        definitions.load_all,
        lambda: migrate.status(away.url),
    ]
    for ask in asks:
        with pytest.raises(StorageUnavailable) as refusal:
            await ask()  # type: ignore[misc]
        assert "postgresql://" not in str(refusal.value)

    away.server.start()
    assert await sessions.resolve(session.id, "key:a", "") is session
    await log.append(session.id, "a", 2, b"x")
    assert [seq for seq, _ in (await log.read(session.id, "a", 0)).events] == [1, 2]
    with pytest.raises(SessionGone):
        await sessions.resolve("x" * 43, "key:a", "")

    # A restart between two requests, with every connection of the pool open: nobody gets an error of it.
    before = await asyncio.gather(*(driver(database) for _ in range(4)))
    away.server.stop()
    away.server.start()
    with anyio.fail_after(5.0):
        while not all(connection.is_closed() for connection in before):
            await checkpoint()
    after = await asyncio.gather(*(driver(database) for _ in range(4)))
    assert not set(before) & set(after)
    await database.dispose()


async def driver(database: Database) -> Any:
    """A connection of the pool, held long enough for the others to get their own."""
    async with database.connect() as connection:
        await connection.execute(text("SELECT pg_sleep(0.1)"))
        return (await connection.get_raw_connection()).driver_connection


async def test_a_full_pool_and_a_statement_without_end_are_unavailability_too(database_url: str) -> None:
    database = Database(database_url, pool_size=1, command_timeout=0.2)
    try:
        with pytest.raises(StorageUnavailable):
            async with database.connect() as connection:
                await connection.execute(text("SELECT pg_sleep(60)"))
        async with database.connect() as connection:
            assert await connection.scalar(text("SELECT 1")) == 1
    finally:
        await database.dispose()
