"""Effects of the settings of one server."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import pytest

from catalogue.model import Facts, Kind
from gateway.errors import ConfigurationError
from gateway.identity.issuing import KeyIssuer
from gateway.settings import check_bind, parse
from gateway.storage.engine import Database
from gateway.storage.keys import PostgresKeyStore
from tests.support.clients import SessionClient
from tests.support.effects import Bench, Running, effect, stdio_where
from tests.support.gateway import RING, LegacySession, ask_modern, server
from tests.support.processes import gateway_process
from tests.support.upstreams import TOOL, Exchange, ScriptedUpstream, scripted

DENIAL = "dev.mcp-gateway/denial"


async def call(running: Running, slug: str, **headers: str) -> tuple[int, dict[str, Any]]:
    """Calls `echo` on the server's own endpoint."""
    url = running.replica.server(slug)
    return await ask_modern(running.http, url, "tools/call", {"name": "echo", "arguments": {}}, headers=headers)


def reason(answer: dict[str, Any]) -> str | None:
    """Of a tool result that says why the call was not done."""
    meta: dict[str, Any] = answer["result"]["_meta"]
    return meta[DENIAL]["reason"] if DENIAL in meta else None


@effect("servers.slug", "servers.versions.url")
async def _slug_and_url(bench: Bench) -> None:
    async with scripted(ScriptedUpstream()) as upstream, bench.running(server("mine", upstream.url)) as running:
        assert (await call(running, "mine"))[0] == 200
        assert len(upstream.requests("tools/call")) == 1
        _, answer = await ask_modern(running.http, running.replica.mcp, "tools/list")
        assert [tool["name"] for tool in answer["result"]["tools"]] == ["mine__echo"]


@effect("servers.versions.version")
async def _version(bench: Bench) -> None:
    async with scripted(ScriptedUpstream()) as older, scripted(ScriptedUpstream()) as newer:
        versions = [{"version": "1", "url": older.url}, {"version": "2.0-beta", "url": newer.url}]
        slug = bench.slug
        async with bench.running({"slug": slug, "versions": versions}) as running:
            assert (await call(running, f"{slug}@2.0-beta"))[0] == 200
            assert (len(older.requests("tools/call")), len(newer.requests("tools/call"))) == (0, 1)


@effect("servers.versions.command", "servers.versions.env", "servers.versions.cwd")
async def _command(bench: Bench) -> None:
    folder = bench.folder / "theirs"
    folder.mkdir()
    (folder / "gateway.py").write_text("raise RuntimeError('a module of the folder was taken for ours')")
    version = {
        "command": [sys.executable, stdio_where.__file__],
        "cwd": str(folder),
        "env": {"GIVEN": "by the file"},
    }
    slug = bench.slug
    document = {
        "gateway": {"authentication": {"mode": "anonymous"}},
        "servers": [{"slug": slug, "versions": [version]}],
    }
    with pytest.raises(ConfigurationError, match="wrap"):
        check_bind(parse(document), "127.0.0.1")
    environment = {"MCP_GATEWAY_DATABASE_URL": bench.database_url}
    async with (
        gateway_process(bench.folder / slug, document, command="dev", **environment) as gateway,
        aiohttp.ClientSession() as http,
    ):
        client = await SessionClient(http, gateway.server(slug), "2025-11-25", None).open({})
        result = await client.call("where")
        assert json.loads(result["content"][0]["text"]) == {"cwd": str(folder), "GIVEN": "by the file"}


@effect("servers.versions.transport")
async def _transport(bench: Bench) -> None:
    seen: dict[str, list[str]] = {}
    for transport in ("auto", "sse"):
        upstream = ScriptedUpstream("legacy")

        async def refuse(exchange: Exchange) -> None:
            await exchange.respond(405)

        upstream.acts["GET"] = refuse
        slug = bench.slug
        async with scripted(upstream):
            entry = server(slug, upstream.url, version={"transport": transport})
            async with bench.running(entry) as running:
                await call(running, slug)
        seen[transport] = [each.method for each in upstream.seen]
    assert seen["auto"][0] == "POST"
    assert set(seen["sse"]) == {"GET"}


@effect("servers.versions.protocol")
async def _protocol(bench: Bench) -> None:
    for protocol, asks_first in (("auto", "server/discover"), ("2025-06-18", "initialize")):
        slug = bench.slug
        async with scripted(ScriptedUpstream("legacy")) as upstream:
            entry = server(slug, upstream.url, version={"protocol": protocol})
            async with bench.running(entry) as running:
                await call(running, slug)
            assert upstream.seen[0].json["method"] == asks_first
            offered = {body["params"]["protocolVersion"] for body in upstream.requests("initialize")}
            assert offered == {"2025-11-25" if protocol == "auto" else protocol}


@effect("servers.versions.credentials.strategy")
async def _credentials(bench: Bench) -> None:
    database = Database(bench.database_url)
    try:
        issued = await KeyIssuer(PostgresKeyStore(database), RING, time.time).create("effects")
    finally:
        await database.dispose()
    slug = bench.slug
    async with scripted(ScriptedUpstream()) as upstream:
        entry = server(slug, upstream.url, version={"credentials": {"strategy": "none"}})
        async with bench.running(entry, authentication={"mode": "required"}) as running:
            status, _ = await call(running, slug, authorization=f"Bearer {issued.text}")
            assert status == 200
        assert upstream.requests("tools/call")
        for seen in upstream.seen:
            assert "authorization" not in seen.headers
            assert issued.text.encode() not in seen.body


@effect("servers.allow.sampling", "servers.allow.roots")
async def _allow(bench: Bench) -> None:
    able: dict[str, Any] = {"sampling": {}, "roots": {}, "elicitation": {}}
    for allow in ({}, {"sampling": True}, {"roots": True}):
        slug = bench.slug
        async with (
            scripted(ScriptedUpstream("legacy")) as upstream,
            bench.running(server(slug, upstream.url, allow=allow)) as running,
        ):
            session = await LegacySession(running.http, running.replica.server(slug)).open(able)
            await session.ask("tools/call", {"name": "echo", "arguments": {}})
            declared = upstream.requests("initialize")[-1]["params"]["capabilities"]
            assert declared.keys() == {"elicitation", *allow}


@effect("servers.deadline")
async def _deadline(bench: Bench) -> None:
    async def never(exchange: Exchange) -> None:
        await exchange.gone()

    slug = bench.slug
    async with (
        scripted(ScriptedUpstream(acts={"tools/call": never})) as upstream,
        bench.running(server(slug, upstream.url, deadline=0.3)) as running,
    ):
        _, answer = await call(running, slug)
        assert reason(answer) == "upstream_timeout"
        assert "0.3 s" in answer["result"]["content"][0]["text"]


@effect("servers.concurrency")
async def _concurrency(bench: Bench) -> None:
    release = asyncio.Event()

    async def held(exchange: Exchange) -> None:
        await release.wait()
        await exchange.result({"content": []})

    slug = bench.slug
    async with (
        scripted(ScriptedUpstream(acts={"tools/call": held})) as upstream,
        bench.running(server(slug, upstream.url, concurrency=1)) as running,
    ):
        calls = [asyncio.create_task(call(running, slug)) for _ in range(6)]
        refused, _ = await asyncio.wait(calls, timeout=10, return_when=asyncio.FIRST_COMPLETED)
        assert [reason((await task)[1]) for task in refused] == ["upstream_unavailable"]  # four may wait
        assert len(upstream.requests("tools/call")) == 1
        release.set()
        answers = await asyncio.gather(*calls)
        assert [reason(answer) for _, answer in answers].count(None) == 5


@effect("servers.max_event_bytes")
async def _max_event(bench: Bench) -> None:
    async def large(exchange: Exchange) -> None:
        await exchange.result({"content": [{"type": "text", "text": "x" * 4000}]})

    async with scripted(ScriptedUpstream(acts={"tools/call": large})) as upstream:
        for size, expected in ((2048, "upstream_protocol_error"), (8192, None)):
            slug = bench.slug
            async with bench.running(server(slug, upstream.url, max_event_bytes=size)) as running:
                assert reason((await call(running, slug))[1]) == expected


@effect("servers.tools.idempotent")
async def _idempotent(bench: Bench) -> None:
    async def breaks_off(exchange: Exchange) -> None:
        await exchange.stream()
        await exchange.raw(b": nothing follows\n\n", last=True)

    for idempotent, times in ((False, 1), (True, 2)):
        slug = bench.slug
        async with (
            scripted(ScriptedUpstream(acts={"tools/call": breaks_off})) as upstream,
            bench.running(server(slug, upstream.url, tools={"echo": {"idempotent": idempotent}})) as running,
        ):
            assert reason((await call(running, slug))[1]) == "outcome_unknown"
            assert len(upstream.requests("tools/call")) == times


@effect("servers.tools.scopes")
async def _scopes(bench: Bench) -> None:
    slug = bench.slug
    async with (
        scripted(ScriptedUpstream()) as upstream,
        bench.running(server(slug, upstream.url, tools={"echo": {"scopes": ["write"]}})) as running,
    ):
        assert (await call(running, slug))[0] == 403
        assert upstream.requests("tools/call") == []


@effect("servers.tools.price", "servers.tools.labels", "servers.tools.approval")
async def _facts(bench: Bench) -> None:
    # Seams: nothing spends, taints or asks for approval yet. The facts arrive where the stages of later will look.
    stated = {"price": 0.02, "labels": ["external_write"], "approval": True}
    expected = Facts(price=0.02, labels=frozenset({"external_write"}), approval=True)
    slug = bench.slug
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(scripted(ScriptedUpstream(tools=[TOOL, {**TOOL, "name": "other"}])))
        running = await stack.enter_async_context(bench.running(server(slug, upstream.url, tools={"echo": stated})))
        await call(running, slug)
        view = running.replica.gateway._catalogue.current.view(slug)
        assert view is not None
        assert {item.exposed_name: item.facts for item in view.items[Kind.TOOL]} == {"echo": expected, "other": Facts()}
