"""Legacy sessions on both sides: ours with clients, and those that we open at upstreams on their behalf."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path

import asyncpg
import pytest

from gateway.sessions.model import session_key
from tests.support.clients import NEWEST, SECONDS, SESSIONS, Events, ModernClient, SessionClient
from tests.support.federation import Federation, acting, federation, last
from tests.support.gateway import replica, server
from tests.support.upstream_eras import city, hello, slug_of
from tests.support.upstreams import Exchange, ScriptedUpstream

OLD = "2025-11-25"
SLUG = slug_of(OLD)


@pytest.fixture(scope="module")
async def world(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Federation]:
    upstreams = {slug_of(era): guarded(city(era)) for era in ("2025-03-26", OLD, NEWEST)}
    async with federation(database_url, tmp_path_factory.mktemp("state"), upstreams) as running:
        yield running


def guarded(upstream: ScriptedUpstream) -> ScriptedUpstream:
    """Lets it answer calls on sessions only that it knows."""
    if upstream.era == "legacy":
        answer = upstream.acts["tools/call"]

        async def call(exchange: Exchange) -> None:
            if exchange.seen.headers.get("mcp-session-id") in upstream.sessions:
                await answer(exchange)
            else:
                await exchange.error(-32600, "Session not found", status=404)

        upstream.acts["tools/call"] = call
    return upstream


def sessions_at(upstream: ScriptedUpstream, method: str = "tools/call") -> list[str]:
    """Under which session ids the upstream got its requests of a method."""
    asked = [seen for seen in upstream.seen if seen.body and seen.json.get("method") == method]
    return [seen.headers["mcp-session-id"] for seen in asked]


async def status_of(world: Federation, url: str, method: str = "POST", **headers: str) -> int:
    sent = {"accept": "application/json, text/event-stream", "content-type": "application/json"}
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}
    body = {"jsonrpc": "2.0", "id": 1, "method": "ping"} if method == "POST" else None
    async with world.http.request(method, url, json=body, headers=sent) as response:
        return response.status


@pytest.mark.parametrize("revision", SESSIONS)
async def test_a_session_is_found_by_its_owner_at_its_endpoint_until_it_is_deleted(
    world: Federation, revision: str
) -> None:
    """P21: anything else gets 404, no session at all 400; on POST, GET and DELETE alike."""
    url, own = world.replica.mcp, world.replica.server(SLUG)
    mine, theirs = f"Bearer {await world.key('*')}", f"Bearer {await world.key('*')}"
    async with world.client(revision, key=mine.removeprefix("Bearer ")) as speaker:
        assert isinstance(speaker, SessionClient)
        session_id = speaker.session.session_id
        assert await status_of(world, url, authorization=mine, mcp_session_id=session_id) == 200
        for method in ("POST", "GET", "DELETE"):
            assert await status_of(world, url, method, authorization=mine) == 400
            for authorization, wrong, address in (
                (mine, "unknown", url),
                (mine, session_id[:-1], url),
                (mine, "A" * len(session_id), url),
                (mine, session_id, own),
                (theirs, session_id, url),
            ):
                sent = {"authorization": authorization, "mcp_session_id": wrong}
                assert await status_of(world, address, method, **sent) == 404, (method, wrong)
            assert await status_of(world, url, method, mcp_session_id=session_id) == 404
        unknown = {"authorization": mine, "mcp_session_id": session_id, "mcp_protocol_version": "2024-01-01"}
        assert await status_of(world, url, **unknown) == 400
        assert await speaker.result("ping") == {}
        assert await speaker.delete() == 200
        for method in ("POST", "GET", "DELETE"):
            assert await status_of(world, url, method, authorization=mine, mcp_session_id=session_id) == 404


async def test_a_session_that_was_not_used_for_long_is_gone(world: Federation, tmp_path: Path) -> None:
    """P21: the database says when it was last used; a replica that does not know the session looks there."""
    servers = [server(SLUG, world.upstreams[SLUG].url)]
    async with world.client(OLD) as speaker, world.client(OLD) as fresh:
        assert isinstance(speaker, SessionClient)
        assert isinstance(fresh, SessionClient)
        connection = await asyncpg.connect(world.database_url)
        try:
            aged = "UPDATE gateway_sessions SET last_used = now() - interval '2 days' WHERE key = $1"
            assert await connection.execute(aged, session_key(speaker.session.session_id)) == "UPDATE 1"
        finally:
            await connection.close()
        async with replica(world.database_url, tmp_path, servers) as other:
            assert await status_of(world, other.mcp, mcp_session_id=speaker.session.session_id) == 404
            assert await status_of(world, other.mcp, mcp_session_id=fresh.session.session_id) == 200


async def test_session_ids_are_visible_random_and_different(world: Federation) -> None:
    """P22: 128 bits or more; no two share more of it than chance gives."""
    ids = []
    for _ in range(20):
        async with world.client(OLD) as speaker:
            assert isinstance(speaker, SessionClient)
            ids.append(speaker.session.session_id)
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{22,}", each) for each in ids)
    for place in range(len(ids[0])):
        assert len({each[place] for each in ids}) > 4


async def test_an_upstream_session_is_opened_at_its_first_use_and_ended_with_ours(world: Federation) -> None:
    """Neither side ever sees the other's id; each of our sessions has its own there."""
    upstream = world.upstreams[SLUG]
    before = len(upstream.seen)
    async with world.client(OLD) as one, world.client("2025-03-26") as two:
        assert isinstance(one, SessionClient)
        assert isinstance(two, SessionClient)
        await one.result("tools/list")
        assert len(upstream.seen) == before
        for speaker in (one, one, two):
            result = await speaker.call(f"{SLUG}__weather")
            assert "session-" not in str(result)
        first, again, other = sessions_at(upstream)[-3:]
        assert first == again != other
        asked = [seen.json["method"] for seen in upstream.seen[before:]]
        assert asked.count("initialize") == asked.count("notifications/initialized") == 2
        for seen in upstream.seen[before:]:
            assert one.session.session_id not in str(seen.headers)
            assert two.session.session_id not in str(seen.headers)
        assert last(upstream, "tools/call").headers["mcp-protocol-version"] == OLD
        assert await one.delete() == 200
        ended = [seen.headers["mcp-session-id"] for seen in upstream.seen[before:] if seen.method == "DELETE"]
        assert ended == [first]
        await two.call(f"{SLUG}__weather")
        assert sessions_at(upstream)[-1] == other


async def test_modern_requests_of_one_principal_share_an_upstream_session(world: Federation) -> None:
    """Of two principals they never do."""
    keys = [await world.key("*") for _ in range(2)]
    used = []
    for key in (keys[0], keys[0], keys[1]):
        async with world.client(NEWEST, key=key) as speaker:
            await speaker.call(f"{SLUG}__weather")
            used.append(sessions_at(world.upstreams[SLUG])[-1])
    assert used[0] == used[1] != used[2]


@pytest.mark.parametrize("client", [OLD, NEWEST])
async def test_a_session_that_the_upstream_forgot_is_opened_anew(world: Federation, client: str) -> None:
    """Once for all calls at the same time, with the same log level; the calls did not run and are sent again."""
    upstream = world.upstreams[SLUG]
    async with world.client(client) as speaker:
        if isinstance(speaker, SessionClient):
            await speaker.result("logging/setLevel", {"level": "error"})
        await speaker.call(f"{SLUG}__weather")
        old = sessions_at(upstream)[-1]
        upstream.sessions.clear()
        before = len(upstream.seen)
        async with asyncio.timeout(SECONDS):
            calls = [speaker.call(f"{SLUG}__weather", city=str(number)) for number in range(3)]
            results = await asyncio.gather(*calls)
        assert all(result["content"][0]["text"] == "sunny" for result in results)
        asked = [seen.json["method"] for seen in upstream.seen[before:] if seen.body]
        used = set(sessions_at(upstream)[-asked.count("tools/call") :])
        assert asked.count("initialize") == 1
        assert len(used - {old}) == 1
        assert asked.count("logging/setLevel") == (client == OLD)


async def test_an_upstream_without_session_ids_is_called_without(world: Federation) -> None:
    """An id is optional; such a server has no session to lose."""
    upstream = world.upstreams[slug_of("2025-03-26")]
    called: list[dict[str, str]] = []

    async def initialize(exchange: Exchange) -> None:
        await exchange.result(hello(upstream, "2025-03-26"))

    async def initialized(exchange: Exchange) -> None:
        await exchange.respond(202)

    async def call(exchange: Exchange) -> None:
        called.append(exchange.seen.headers)
        await exchange.result({"content": []})

    with ExitStack() as stack:
        for method, act in (
            ("initialize", initialize),
            ("notifications/initialized", initialized),
            ("tools/call", call),
        ):
            stack.enter_context(acting(upstream, method, act))
        async with world.client("2025-06-18") as speaker:
            for _ in range(2):
                await speaker.call(f"{slug_of('2025-03-26')}__weather")
            assert isinstance(speaker, SessionClient)
            assert await speaker.delete() == 200
    assert len(called) == 2
    assert all("mcp-session-id" not in headers for headers in called)
    assert {headers["mcp-protocol-version"] for headers in called} == {"2025-03-26"}


async def test_a_forgotten_discovery_session_does_not_hide_changes(database_url: str, tmp_path: Path) -> None:
    """The upstream restarts: its stream ends, its sessions are gone, and it has another tool now."""
    upstream = city(OLD)
    async with federation(database_url, tmp_path, {"up": upstream}) as running:
        speaker = ModernClient(running.http, running.replica.mcp, None, None)
        async with speaker.post("subscriptions/listen", {"notifications": {"toolsListChanged": True}}) as response:
            events = Events(response)
            await events.message()
            async with asyncio.timeout(SECONDS):
                while not upstream.listening:
                    upstream.listened.clear()
                    await upstream.listened.wait()
            upstream.sessions.clear()
            upstream.tools = [*upstream.tools, {"name": "new", "inputSchema": {"type": "object"}}]
            for exchange in tuple(upstream.listening):
                await exchange.raw(b"", last=True)
            assert (await events.message())["method"] == "notifications/tools/list_changed"
        assert len(await speaker.all("tools/list", "tools")) == 3
