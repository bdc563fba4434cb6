"""How long sessions live, what noting their use costs, and what remembering them costs."""

from __future__ import annotations

import gc
import tracemalloc

import pytest

from gateway.errors import StorageUnavailable
from gateway.sessions.model import UpstreamSession
from tests.support.cluster import GITHUB, Cluster, gone
from tests.support.cost import in_hashes


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


async def test_use_is_noted_once_a_minute_for_all_sessions_together(cluster: Cluster) -> None:
    sessions = [await cluster.open() for _ in range(5)]
    asked = cluster.store.asked
    cluster.now += 60.0
    for session in sessions * 3:
        cluster.one.find_cached(session.id, "key:a", "")
    await cluster.one.flush()
    await cluster.one.flush()
    assert cluster.store.asked == asked + 1
    assert {stored.last_used for stored in cluster.store.sessions.values()} == {cluster.now}


async def test_use_that_could_not_be_noted_is_noted_later(cluster: Cluster) -> None:
    session = await cluster.open()
    cluster.now += 60.0
    cluster.one.find_cached(session.id, "key:a", "")
    cluster.store.away = True
    with pytest.raises(StorageUnavailable):
        await cluster.one.flush()
    cluster.store.away = False
    await cluster.one.flush()
    assert {stored.last_used for stored in cluster.store.sessions.values()} == {cluster.now}


async def test_stopping_notes_what_was_used_and_fails_for_no_store_that_is_away(cluster: Cluster) -> None:
    session = await cluster.open()
    await cluster.one.start()
    cluster.now += 60.0
    cluster.one.find_cached(session.id, "key:a", "")
    cluster.store.away = True
    await cluster.one.stop()
    cluster.store.away = False
    await cluster.one.stop()
    assert {stored.last_used for stored in cluster.store.sessions.values()} == {cluster.now}


async def test_a_session_lives_as_long_as_any_replica_uses_it(cluster: Cluster) -> None:
    session = await cluster.open()
    await cluster.other.resolve(session.id, "key:a", "")
    for _ in range(10):
        cluster.now += 1_000.0
        assert await cluster.one.resolve(session.id, "key:a", "") is session
        await cluster.one.flush()
        await cluster.other.purge()
    assert not await gone(cluster.other, session)


async def test_an_unused_session_expires_on_every_replica_and_is_purged_with_what_it_had(cluster: Cluster) -> None:
    session = await cluster.open()
    await cluster.other.resolve(session.id, "key:a", "")
    await cluster.one.attach(session.upstreams, GITHUB)
    for registry in (cluster.one, cluster.other):
        await registry.resolve(session.id, "key:a", "")
        assert registry.find_cached(session.id, "key:a", "") is not None
    cluster.now += 3_600.0 + 121.0
    assert await gone(cluster.one, session)
    assert await gone(cluster.other, session)
    await cluster.other.purge()
    assert cluster.store.sessions == {}
    assert cluster.ended == [(session.upstreams.key, GITHUB)]


async def test_a_deletion_whose_notice_was_lost_is_seen_when_use_is_next_noted(cluster: Cluster) -> None:
    session = await cluster.open()
    await cluster.store.delete(session.upstreams.key)
    assert cluster.one.find_cached(session.id, "key:a", "") is session
    await cluster.one.flush()
    assert await gone(cluster.one, session)


async def test_the_cache_stays_within_its_bound_and_keeps_what_is_in_use() -> None:
    cluster = Cluster(cache_size=20)
    used = await cluster.open()
    for _ in range(100):
        cluster.now += 61.0
        assert cluster.one.find_cached(used.id, "key:a", "") is used
        await cluster.open()
    assert len(cluster.one._sessions.by_name) == 20
    assert len(cluster.one._sessions._names) == 20


async def test_a_remembered_session_takes_at_most_three_kilobytes() -> None:
    cluster = Cluster(cache_size=10_000)
    await cluster.open()
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for number in range(500):
            session = await cluster.one.open(
                principal="key:a",
                endpoint="",
                protocol_version="2025-11-25",
                client_info={"name": "tests", "version": "1"},
                client_capabilities={"elicitation": {"form": {}}, "sampling": {}, "roots": {"listChanged": True}},
            )
            opened = UpstreamSession("github", "1", f"upstream-{number}", "2025-11-25", GITHUB.capabilities)
            await cluster.one.attach(session.upstreams, opened)
            # The store in memory is not what is measured here.
            cluster.store.sessions.clear()
            cluster.store.upstreams.clear()
            cluster.changes[0].published.clear()
        del session, opened
        gc.collect()
        each = (tracemalloc.get_traced_memory()[0] - before) / 500
    finally:
        tracemalloc.stop()
    assert len(cluster.one._sessions.by_name) == 501
    assert each < 3_000


async def test_finding_a_remembered_session_costs_less_than_two_hashes(cluster: Cluster) -> None:
    session = await cluster.open()
    session_id = session.id
    # About half a microsecond, where a hash takes one.
    assert in_hashes(lambda: cluster.one.find_cached(session_id, "key:a", "")) < 2.0
