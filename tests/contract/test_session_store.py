"""What every `SessionStore` does, in memory and in Postgres alike."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from gateway.keys import KeyRing
from gateway.sessions.model import UpstreamSession, principal_key, session_key
from gateway.sessions.store import SessionStore, StoredSession
from gateway.storage.engine import Database
from gateway.storage.sessions import PostgresSessionStore
from tests.support.stores import MemorySessionStore

NOW = 1_800_000_000.0
KEY = session_key("one")
OTHER = session_key("two")
HOLDER = principal_key("key:abc", "")
# What a client may send as JSON strings, and Postgres' text would refuse.
ODD = "nul \x00, surrogate \ud800, quote ' and \\u0000"
SESSION = StoredSession(
    principal="key:abc",
    endpoint="github",
    protocol_version="2025-11-25",
    client_info={"name": ODD, "version": "1"},
    client_capabilities={"elicitation": {}, "experimental": {"big": 10**30}},
    last_used=NOW,
)
FIRST = UpstreamSession("github", "1", f"id {ODD}", "2025-11-25", {"tools": {"listChanged": True}})
SECOND = UpstreamSession("github", "1", "second", "2025-11-25", {})
NAMELESS = UpstreamSession("github", "2", None, "2025-03-26", {})


@pytest.fixture(params=["memory", "postgres"])
def url(request: pytest.FixtureRequest) -> str | None:
    return None if request.param == "memory" else str(request.getfixturevalue("database_url"))


@pytest.fixture
async def store(url: str | None) -> AsyncIterator[SessionStore]:
    if url is None:
        yield MemorySessionStore()
        return
    database = Database(url)
    postgres = PostgresSessionStore(database, KeyRing.parse(KeyRing.generate()))
    try:
        yield postgres
    finally:
        await postgres.purge(NOW * 2)
        await database.dispose()


async def test_what_was_created_is_found_as_it_was(store: SessionStore) -> None:
    await store.create(KEY, SESSION)
    assert await store.find(KEY) == (SESSION, {})
    assert await store.find(OTHER) is None


async def test_a_log_level_and_subscriptions_are_kept(store: SessionStore) -> None:
    await store.create(KEY, SESSION)
    assert await store.set_log_level(KEY, "debug")
    for uri in ("test://a", ODD, "test://a"):
        assert await store.subscribe(KEY, uri)
    found = await store.find(KEY)
    assert found is not None
    assert found[0].log_level == "debug"
    assert found[0].subscriptions == {"test://a", ODD}
    assert await store.unsubscribe(KEY, "test://a")
    assert await store.unsubscribe(KEY, "test://never")
    assert await store.set_log_level(KEY, None)
    found = await store.find(KEY)
    assert found is not None
    assert found[0].log_level is None
    assert found[0].subscriptions == {ODD}


async def test_a_session_that_is_gone_cannot_be_changed(store: SessionStore) -> None:
    assert not await store.set_log_level(KEY, "debug")
    assert not await store.subscribe(KEY, "test://a")
    assert not await store.unsubscribe(KEY, "test://a")
    assert await store.attach(KEY, FIRST, None, NOW) is None
    assert await store.delete(KEY) == []


@pytest.mark.parametrize("holder", [KEY, HOLDER])
async def test_the_first_to_attach_wins_and_the_others_learn_who(store: SessionStore, holder: str) -> None:
    await store.create(KEY, SESSION)
    assert await store.attach(holder, FIRST, None, NOW) == FIRST
    assert await store.attach(holder, SECOND, None, NOW) == FIRST
    assert await store.find_upstreams(holder) == {"github": FIRST}


@pytest.mark.parametrize("holder", [KEY, HOLDER])
async def test_of_many_that_attach_at_once_exactly_one_wins(store: SessionStore, holder: str) -> None:
    await store.create(KEY, SESSION)
    opened = [UpstreamSession("github", "1", f"id-{number}", "2025-11-25", {}) for number in range(8)]
    kept = await asyncio.gather(*(store.attach(holder, session, None, NOW) for session in opened))
    assert len({session.session_id for session in kept if session is not None}) == 1
    assert await store.find_upstreams(holder) == {"github": kept[0]}


@pytest.mark.parametrize("holder", [KEY, HOLDER])
@pytest.mark.parametrize("lost", [FIRST, NAMELESS])
async def test_of_many_that_replace_a_lost_session_exactly_one_wins(
    store: SessionStore, holder: str, lost: UpstreamSession
) -> None:
    await store.create(KEY, SESSION)
    await store.attach(holder, lost, None, NOW)
    opened = [UpstreamSession("github", "1", f"id-{number}", "2025-11-25", {}) for number in range(8)]
    kept = await asyncio.gather(*(store.attach(holder, session, lost, NOW) for session in opened))
    assert len({session.session_id for session in kept if session is not None}) == 1
    assert kept[0] is not None
    assert kept[0].session_id != lost.session_id
    assert await store.find_upstreams(holder) == {"github": kept[0]}


async def test_a_replacement_needs_no_session_to_replace(store: SessionStore) -> None:
    assert await store.attach(HOLDER, SECOND, FIRST, NOW) == SECOND


async def test_only_the_session_that_was_lost_is_detached(store: SessionStore) -> None:
    await store.attach(HOLDER, SECOND, None, NOW)
    assert not await store.detach(HOLDER, FIRST)
    assert await store.find_upstreams(HOLDER) == {"github": SECOND}
    assert await store.detach(HOLDER, SECOND)
    assert not await store.detach(HOLDER, SECOND)
    assert await store.find_upstreams(HOLDER) == {}


async def test_deleting_a_session_returns_what_it_had_and_nothing_of_others(store: SessionStore) -> None:
    await store.create(KEY, SESSION)
    await store.create(OTHER, SESSION)
    await store.attach(KEY, FIRST, None, NOW)
    await store.attach(OTHER, SECOND, None, NOW)
    await store.attach(HOLDER, SECOND, None, NOW)
    assert await store.delete(KEY) == [FIRST]
    assert await store.find(KEY) is None
    assert await store.find_upstreams(KEY) == {}
    assert await store.find(OTHER) == (SESSION, {"github": SECOND})
    assert await store.find_upstreams(HOLDER) == {"github": SECOND}


async def test_no_upstream_session_is_lost_when_a_session_is_deleted_while_one_is_attached(store: SessionStore) -> None:
    for attempt in range(10):
        key = session_key(f"attempt {attempt}")
        await store.create(key, SESSION)
        kept, left = await asyncio.gather(store.attach(key, FIRST, None, NOW), store.delete(key))
        # Either it was kept and given back at the deletion, or its opener is told to end it.
        assert left == ([] if kept is None else [FIRST])
        assert await store.find_upstreams(key) == {}


async def test_use_is_noted_at_most_once_a_minute(store: SessionStore) -> None:
    await store.create(KEY, SESSION)
    await store.attach(HOLDER, FIRST, None, NOW)
    assert await store.touch([KEY, OTHER, HOLDER], NOW + 59.0, 60.0) == {KEY, HOLDER}
    found = await store.find(KEY)
    assert found is not None
    assert found[0].last_used == NOW
    assert await store.touch([KEY], NOW + 61.0, 60.0) == {KEY}
    found = await store.find(KEY)
    assert found is not None
    assert found[0].last_used == NOW + 61.0


async def test_purging_forgets_what_was_not_used_and_returns_what_it_had(store: SessionStore) -> None:
    await store.create(KEY, SESSION)
    await store.create(OTHER, SESSION)
    used_holder = principal_key("key:abc", '{"sampling": {}}')
    for holder, session in ((KEY, FIRST), (OTHER, SECOND), (HOLDER, NAMELESS), (used_holder, SECOND)):
        await store.attach(holder, session, None, NOW)
    await store.touch([OTHER, used_holder], NOW + 100.0, 60.0)
    assert sorted(await store.purge(NOW + 50.0), key=str) == sorted([(KEY, FIRST), (HOLDER, NAMELESS)], key=str)
    assert await store.find(KEY) is None
    assert await store.find(OTHER) is not None
    assert await store.find_upstreams(used_holder) == {"github": SECOND}
    assert await store.purge(NOW + 50.0) == []
