"""Effects of the settings of the gateway itself."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from gateway.errors import ConfigurationError
from gateway.settings import check_bind, parse
from tests.support.calls import SECONDS, until
from tests.support.clients import SessionClient
from tests.support.effects import Bench, Running, effect
from tests.support.gateway import LegacySession, ask_modern, modern_headers, modern_message, server
from tests.support.upstreams import Exchange, ScriptedUpstream, scripted


@effect("gateway.mode")
async def _mode(bench: Bench) -> None:
    document = {"servers": [server("one", "http://127.0.0.1:1/mcp")]}
    check_bind(parse(document), "127.0.0.1")
    with pytest.raises(ConfigurationError, match="production"):
        check_bind(parse({**document, "gateway": {"mode": "production"}}), "127.0.0.1")


@effect("gateway.public_url")
async def _public_url(bench: Bench) -> None:
    async with bench.running(public_url="https://mcp.example.com") as running:
        assert await running.status(host="mcp.example.com") != 421
        assert await running.status(origin="https://mcp.example.com") != 403
    async with bench.running() as running:
        assert await running.status(host="mcp.example.com") == 421


@effect("gateway.allowed_hosts")
async def _allowed_hosts(bench: Bench) -> None:
    async with bench.running(allowed_hosts=["gw.example.com:443"]) as running:
        assert await running.status(host="gw.example.com:443") != 421
        assert await running.status(host="other.example.com") == 421


@effect("gateway.allowed_origins")
async def _allowed_origins(bench: Bench) -> None:
    async with bench.running(allowed_origins=["https://inspector.example"]) as running:
        assert await running.status(origin="https://inspector.example") != 403
        assert await running.status(origin="https://other.example") == 403


@effect("gateway.authentication.mode")
async def _authentication(bench: Bench) -> None:
    async with bench.running(authentication={"mode": "required"}) as running:
        assert await running.status() == 401
    async with bench.running(authentication={"mode": "anonymous"}) as running:
        assert await running.status() != 401


@effect("gateway.max_body_bytes")
async def _max_body(bench: Bench) -> None:
    async def sent(running: Running) -> int:
        status, _ = await ask_modern(running.http, running.replica.mcp, "tools/list", {"pad": "x" * 2000})
        return status

    async with bench.running(max_body_bytes=1024) as running:
        assert await sent(running) == 413
    async with bench.running() as running:
        assert await sent(running) == 200


@effect("gateway.page_size")
async def _page_size(bench: Bench) -> None:
    tools = [{"name": name, "inputSchema": {"type": "object"}} for name in "abc"]
    async with scripted(ScriptedUpstream(tools=tools)) as upstream:
        for size, expected in ((2, 2), (3, 3), (1000, 3)):
            async with bench.running(server(bench.slug, upstream.url), page_size=size) as running:
                _, answer = await ask_modern(running.http, running.replica.mcp, "tools/list")
                assert len(answer["result"]["tools"]) == expected
                assert ("nextCursor" in answer["result"]) == (size == 2)


@effect("gateway.list_cache_bytes")
async def _list_cache(bench: Bench) -> None:
    async with scripted(ScriptedUpstream()) as upstream:
        for size, is_kept in ((0, False), (1024 * 1024, True)):
            async with bench.running(server(bench.slug, upstream.url), list_cache_bytes=size) as running:
                await ask_modern(running.http, running.replica.mcp, "tools/list")
                # What is kept shows in nothing but memory and time.
                lists = running.replica.gateway._edge._dispatch._lists
                assert bool(lists.joined_bytes) == is_kept


@effect("gateway.session_idle")
async def _session_idle(bench: Bench) -> None:
    async with bench.running() as running:
        session = await LegacySession(running.http, running.replica.mcp).open()
    connection = await asyncpg.connect(bench.database_url)
    try:  # noted uses may lag by two minutes, which are granted on top
        await connection.execute("UPDATE gateway_sessions SET last_used = last_used - interval '200 seconds'")
    finally:
        await connection.close()
    for idle, status in ((60, 404), (86_400, 200)):
        async with bench.running(session_idle=idle) as running:  # a replica that has never seen the session
            session.http = running.http
            found, _ = await session.send({"jsonrpc": "2.0", "id": 1, "method": "ping"}, running.replica.mcp)
            assert found == status


@effect("gateway.keep_alive")
async def _keep_alive(bench: Bench) -> None:
    async with bench.running(keep_alive=0.05) as running:
        client = await SessionClient(running.http, running.replica.mcp, "2025-11-25", None).open({})
        async with client.stream() as events:
            comments = [(await anext(events)).comment for _ in range(3)]
    assert comments[1:] == ["keep-alive", "keep-alive"]


@effect("gateway.stream_grace")
async def _stream_grace(bench: Bench) -> None:
    release = asyncio.Event()

    async def held(exchange: Exchange) -> None:
        await release.wait()
        await exchange.result({"content": []})

    message = modern_message("tools/call", {"name": "echo"})
    async with scripted(ScriptedUpstream(acts={"tools/call": held})) as upstream:
        for grace, kind in ((0, "text/event-stream"), (SECONDS, "application/json")):
            slug = bench.slug
            if grace:
                release.set()
            async with bench.running(server(slug, upstream.url), stream_grace=grace) as running:
                url, headers = running.replica.server(slug), modern_headers(message)
                await ask_modern(running.http, url, "tools/list")
                async with running.http.post(url, json=message, headers=headers) as response:
                    assert response.content_type == kind  # the first one before there is any answer
                    release.set()
                    await response.read()


@effect("gateway.refresh")
async def _refresh(bench: Bench) -> None:
    upstream = ScriptedUpstream("legacy", capabilities={"tools": {}})  # tells of no changes and names no ttl
    async with scripted(upstream), bench.running(server(bench.slug, upstream.url), refresh=0.05):
        await until(lambda: len(upstream.requests("tools/list")) > 3)
    async with scripted(upstream), bench.running(server(bench.slug, upstream.url)) as running:
        before = len(upstream.requests("tools/list"))
        await ask_modern(running.http, running.replica.mcp, "tools/list")
        assert len(upstream.requests("tools/list")) <= before + 1
