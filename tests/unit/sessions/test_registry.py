"""The session registry: what a replica remembers, when it asks, and what others' changes do to it."""

from __future__ import annotations

import asyncio

import pytest
from anyio.lowlevel import checkpoint

from gateway.errors import SessionGone, StorageUnavailable
from gateway.sessions.model import UpstreamSession
from tests.support.cluster import GITHUB, REOPENED, Cluster, gone


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


async def test_a_session_opened_here_is_used_there(cluster: Cluster) -> None:
    session = await cluster.open()
    assert cluster.other.find_cached(session.id, "key:a", "") is None
    found = await cluster.other.resolve(session.id, "key:a", "")
    assert found == session
    assert cluster.other.find_cached(session.id, "key:a", "") is found


async def test_steady_use_asks_the_store_nothing(cluster: Cluster) -> None:
    session = await cluster.open()
    asked = cluster.store.asked
    for _ in range(100):
        assert cluster.one.find_cached(session.id, "key:a", "") is session
        assert await cluster.one.resolve(session.id, "key:a", "") is session
    assert cluster.store.asked == asked


async def test_ids_are_random_visible_ascii_and_the_store_never_sees_them(cluster: Cluster) -> None:
    ids = {(await cluster.open()).id for _ in range(20)}
    assert len(ids) == 20
    for session_id in ids:
        assert len(session_id) == 43
        assert all(0x21 <= ord(character) <= 0x7E for character in session_id)
        assert session_id not in repr(cluster.store.sessions)


async def test_unknown_foreign_and_misplaced_sessions_are_gone_alike(cluster: Cluster) -> None:
    session = await cluster.open()
    words = set()
    for registry in (cluster.one, cluster.other):
        for session_id, principal, endpoint in (
            (session.id, "key:b", ""),
            (session.id, "key:a", "github"),
            (session.id[:-1] + "!", "key:a", ""),
            ("x" * 43, "key:a", ""),
            ("", "key:a", ""),
            ("ü" * 43, "key:a", ""),
        ):
            assert registry.find_cached(session_id, principal, endpoint) is None
            with pytest.raises(SessionGone) as refusal:
                await registry.resolve(session_id, principal, endpoint)
            words.add(str(refusal.value))
    assert len(words) == 1


async def test_a_session_closed_here_is_gone_there_and_its_upstream_sessions_are_returned(cluster: Cluster) -> None:
    session = await cluster.open()
    there = await cluster.other.resolve(session.id, "key:a", "")
    await cluster.other.attach(there.upstreams, GITHUB)
    assert await cluster.one.close(session) == [GITHUB]
    assert await gone(cluster.one, session)
    assert await gone(cluster.other, session)
    assert await cluster.other.close(there) == []
    with pytest.raises(SessionGone):
        await cluster.other.attach(there.upstreams, REOPENED)


async def test_changes_made_here_are_seen_there_in_the_object_that_is_held_there(cluster: Cluster) -> None:
    session = await cluster.open()
    there = await cluster.other.resolve(session.id, "key:a", "")
    await cluster.one.set_log_level(session, "warning")
    await cluster.one.subscribe(session, "test://a")
    await cluster.one.subscribe(session, "test://b")
    await cluster.one.unsubscribe(session, "test://a")
    await cluster.one.attach(session.upstreams, GITHUB)
    assert session.log_level == "warning"
    assert session.subscriptions == {"test://b"}
    assert await cluster.other.resolve(session.id, "key:a", "") is there
    assert there == session


async def test_changes_to_a_session_that_is_gone_are_refused(cluster: Cluster) -> None:
    session = await cluster.open()
    there = await cluster.other.resolve(session.id, "key:a", "")
    await cluster.one.close(session)
    for change in (
        cluster.other.set_log_level(there, "debug"),
        cluster.other.subscribe(there, "test://a"),
        cluster.other.unsubscribe(there, "test://a"),
    ):
        with pytest.raises(SessionGone):
            await change


async def test_while_changes_may_go_unheard_every_request_asks_the_store(cluster: Cluster) -> None:
    session = await cluster.open()
    there = await cluster.other.resolve(session.id, "key:a", "")
    cluster.changes[1].healthy = False
    assert cluster.other.find_cached(session.id, "key:a", "") is None
    assert await cluster.other.resolve(session.id, "key:a", "") is there
    cluster.bus.held = True
    await cluster.one.close(session)
    assert await gone(cluster.other, session)


async def test_what_changed_unheard_is_seen_after_reconnecting(cluster: Cluster) -> None:
    session = await cluster.open()
    there = await cluster.other.resolve(session.id, "key:a", "")
    cluster.bus.replicas.remove(cluster.changes[1])
    await cluster.one.set_log_level(session, "error")
    cluster.changes[1].reconnect()
    assert cluster.other.find_cached(session.id, "key:a", "") is None
    await cluster.other.resolve(session.id, "key:a", "")
    assert there.log_level == "error"


@pytest.mark.parametrize("known", [False, True], ids=["unknown there", "known there"])
async def test_a_change_during_the_reading_of_a_session_is_not_overlooked(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    session = await cluster.open()
    if known:
        await cluster.other.resolve(session.id, "key:a", "")
        await cluster.one.set_log_level(session, "debug")
    find, reading, changed = cluster.store.find, asyncio.Event(), asyncio.Event()

    async def slow(key: str) -> object:
        row = await find(key)
        reading.set()
        await changed.wait()
        return row

    with monkeypatch.context() as patch:
        patch.setattr(cluster.store, "find", slow)
        resolving = asyncio.create_task(cluster.other.resolve(session.id, "key:a", ""))
        await reading.wait()
        await cluster.one.close(session)
        changed.set()
        await resolving
    assert await gone(cluster.other, session)


async def test_a_change_during_the_reading_of_a_principals_sessions_is_not_overlooked(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = await cluster.one.for_principal("key:a", "")
    find, reading, changed = cluster.store.find_upstreams, asyncio.Event(), asyncio.Event()

    async def slow(key: str) -> object:
        row = await find(key)
        reading.set()
        await changed.wait()
        return row

    with monkeypatch.context() as patch:
        patch.setattr(cluster.store, "find_upstreams", slow)
        finding = asyncio.create_task(cluster.other.for_principal("key:a", ""))
        await reading.wait()
        await cluster.one.attach(here, GITHUB)
        changed.set()
        await finding
    assert (await cluster.other.for_principal("key:a", "")).by_slug == {"github": GITHUB}


async def test_one_reading_serves_all_who_ask_and_none_by_leaving_ends_it(cluster: Cluster) -> None:
    session = await cluster.open()
    asked = cluster.store.asked
    first = asyncio.create_task(cluster.other.resolve(session.id, "key:a", ""))
    others = [asyncio.create_task(cluster.other.resolve(session.id, "key:a", "")) for _ in range(20)]
    await checkpoint()
    first.cancel()
    found = await asyncio.gather(*others)
    assert len({id(there) for there in found}) == 1
    assert cluster.store.asked == asked + 1


async def test_an_unreachable_store_is_not_a_session_that_is_gone(cluster: Cluster) -> None:
    session = await cluster.open()
    cluster.store.away = True
    with pytest.raises(StorageUnavailable):
        await cluster.other.resolve(session.id, "key:a", "")
    cluster.store.away = False
    assert not await gone(cluster.other, session)


async def test_of_two_replicas_that_open_an_upstream_session_the_first_wins_on_both(cluster: Cluster) -> None:
    session = await cluster.open()
    there = await cluster.other.resolve(session.id, "key:a", "")
    assert await cluster.one.attach(session.upstreams, GITHUB) is GITHUB
    assert await cluster.other.attach(there.upstreams, REOPENED) == GITHUB
    assert session.upstreams.by_slug == there.upstreams.by_slug == {"github": GITHUB}


async def test_of_two_replicas_that_replace_a_lost_upstream_session_the_first_wins_on_both(cluster: Cluster) -> None:
    session = await cluster.open()
    await cluster.one.attach(session.upstreams, GITHUB)
    there = await cluster.other.resolve(session.id, "key:a", "")
    again = UpstreamSession("github", "1", "upstream-3", "2025-11-25", {})
    assert await cluster.one.attach(session.upstreams, REOPENED, replacing=GITHUB) == REOPENED
    assert await cluster.other.attach(there.upstreams, again, replacing=GITHUB) == REOPENED


async def test_an_upstream_session_read_again_is_the_same_object(cluster: Cluster) -> None:
    session = await cluster.open()
    await cluster.one.attach(session.upstreams, GITHUB)
    there = await cluster.other.resolve(session.id, "key:a", "")
    known = there.upstreams.by_slug["github"]
    await cluster.one.set_log_level(session, "error")
    await cluster.other.resolve(session.id, "key:a", "")
    assert there.log_level == "error"
    assert there.upstreams.by_slug["github"] is known


async def test_only_the_upstream_session_that_is_known_here_is_detached(cluster: Cluster) -> None:
    session = await cluster.open()
    await cluster.one.attach(session.upstreams, GITHUB)
    there = await cluster.other.resolve(session.id, "key:a", "")
    cluster.bus.held = True
    await cluster.one.attach(session.upstreams, REOPENED, replacing=GITHUB)
    assert await cluster.other.detach(there.upstreams, "github") is None
    cluster.bus.deliver()
    await cluster.other.resolve(session.id, "key:a", "")
    assert there.upstreams.by_slug == {"github": REOPENED}
    assert await cluster.other.detach(there.upstreams, "github") == REOPENED
    assert await cluster.other.detach(there.upstreams, "github") is None


async def test_a_principals_upstream_sessions_are_shared_by_its_replicas_and_by_like_clients_only(
    cluster: Cluster,
) -> None:
    here = await cluster.one.for_principal("key:a", '{"sampling": {}}')
    there = await cluster.other.for_principal("key:a", '{"sampling": {}}')
    unlike = await cluster.other.for_principal("key:a", "")
    await cluster.one.attach(here, GITHUB)
    assert await cluster.other.for_principal("key:a", '{"sampling": {}}') is there
    assert there.by_slug == {"github": GITHUB}
    assert (await cluster.other.for_principal("key:a", "")).by_slug == unlike.by_slug == {}
    asked = cluster.store.asked
    for _ in range(10):
        await cluster.other.for_principal("key:a", "")
        await cluster.other.for_principal("key:a", '{"sampling": {}}')
    assert cluster.store.asked == asked
