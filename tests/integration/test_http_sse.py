"""The first revision's transport, HTTP+SSE, on either side of the gateway."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import mcp
import pytest
import structlog.testing
from mcp.client.sse import sse_client

from gateway.upstream import http_sse
from tests.support.clients import NEWEST, OLDEST, REVISIONS, SECONDS, ChannelClient, Events, connected
from tests.support.federation import Federation, federation
from tests.support.gateway import replica, server
from tests.support.sdk_upstreams import sdk_upstream
from tests.support.upstream_eras import SseUpstream, city, upstream_of
from tests.support.upstreams import TOOL, Exchange, scripted

HELLO = {"protocolVersion": OLDEST, "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}}
STREAM = {"accept": "text/event-stream"}


@pytest.fixture(scope="module")
async def world(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Federation]:
    async with federation(database_url, tmp_path_factory.mktemp("state"), {"old": city(OLDEST)}) as running:
        yield running


async def post(world: Federation, address: str, body: Any, **headers: str) -> int:
    sent = {"content-type": "application/json", **headers}
    async with world.http.post(world.replica.origin + address, json=body, headers=sent) as response:
        await response.read()
        return response.status


async def test_a_channel_begins_with_an_address_that_nobody_guesses(world: Federation) -> None:
    """P22, P25: relative, so of our own origin; another one each time."""
    addresses: set[str] = set()
    for _ in range(5):
        async with world.http.get(f"{world.replica.origin}/sse", headers=STREAM) as response:
            assert "mcp-session-id" not in response.headers
            first = await anext(Events(response))
            assert first.event == "endpoint"
            parts = urlsplit(first.data)
            assert (parts.scheme, parts.netloc, parts.path) == ("", "", "/sse")
            assert len(parts.query) >= len("channel=") + 22  # 128 bits
            addresses.add(first.data)
    assert len(addresses) == 5


async def test_a_channel_is_of_use_to_its_principal_only_and_while_it_stands(world: Federation) -> None:
    """P21."""
    mine, theirs = await world.key("*"), await world.key("*")
    ping = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    async with world.client(OLDEST, key=mine) as speaker:
        assert isinstance(speaker, ChannelClient)
        address = speaker.address.removeprefix(world.replica.origin)
        assert await post(world, address, ping, authorization=f"Bearer {theirs}") == 404
        assert await post(world, address, ping) == 404
        assert await post(world, address, ping, authorization=f"Bearer {mine}") == 202
        assert (await speaker.events.message())["id"] == 1
    for wrong in ("/sse?channel=unknown", "/sse"):
        assert await post(world, wrong, ping, authorization=f"Bearer {mine}") == 404
    async with asyncio.timeout(SECONDS):  # the gateway sees that the channel is gone a moment after we left it
        while await post(world, address, ping, authorization=f"Bearer {mine}") != 404:
            pass


async def test_a_channel_is_initialized_first_and_once(world: Federation) -> None:
    async with world.http.get(f"{world.replica.origin}/sse", headers=STREAM) as response:
        events = Events(response)
        address = (await anext(events)).data
        for method, params, fails in (
            ("tools/list", {}, True),
            ("initialize", {"protocolVersion": OLDEST}, True),
            ("initialize", HELLO, False),
            ("initialize", HELLO, True),
            ("tools/list", {}, False),
        ):
            assert await post(world, address, {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}) == 202
            assert ("error" in await events.message()) == fails, (method, params)


async def test_a_post_reaches_its_channel_through_any_replica(world: Federation, tmp_path: Path) -> None:
    """P26: the replica that holds the stream does the work."""
    upstream = world.upstreams["old"]
    async with (
        replica(world.database_url, tmp_path, [server("old", upstream.url)]) as other,
        connected(world.http, world.replica, OLDEST) as speaker,
    ):
        assert isinstance(speaker, ChannelClient)
        speaker.address = speaker.address.replace(world.replica.origin, other.origin)
        assert (await speaker.call("old__weather"))["content"][0]["text"] == "sunny"


@pytest.mark.parametrize("transport", ["sse", "auto"])
async def test_an_upstream_of_the_official_sdk_is_served_to_everybody(
    database_url: str, tmp_path: Path, transport: str
) -> None:
    """Found by itself, or named; with the official clients of each transport in front."""
    async with sdk_upstream("sse") as url, aiohttp.ClientSession() as http:
        servers = [server("sdk", url, version={"transport": transport})]
        async with replica(database_url, tmp_path, servers) as running:
            for revision in REVISIONS:
                async with connected(http, running, revision) as speaker:
                    assert (await speaker.call("sdk__add", a=2, b=3))["content"][0]["text"] == "5"
                    read = await speaker.result("resources/read", {"uri": "sdk+memo://notes"})
                    assert read["contents"][0]["text"] == "noted"
            for source, mode in ((running.mcp, NEWEST), (sse_client(f"{running.origin}/sse"), "legacy")):
                progressed: list[float] = []

                async def note(progress: float, total: float | None, message: str | None) -> None:
                    assert (total, message) == (3, None)
                    progressed.append(progress)  # noqa: B023 - called in this round of the loop only

                async with mcp.Client(source, mode=mode) as client:
                    assert [tool.name for tool in (await client.list_tools()).tools] == ["sdk__add", "sdk__climb"]
                    added = await client.call_tool("sdk__add", {"a": 20, "b": 22})
                    assert added.structured_content == {"sum": 42}
                    await client.call_tool("sdk__climb", {}, progress_callback=note)
                    assert progressed == [1, 2, 3]


async def test_an_upstream_of_both_eras_of_the_official_sdk_is_served_to_everybody(
    database_url: str, tmp_path: Path
) -> None:
    async with (
        sdk_upstream("streamable-http") as url,
        aiohttp.ClientSession() as http,
        replica(database_url, tmp_path, [server("sdk", url)]) as running,
    ):
        for revision in REVISIONS:
            async with connected(http, running, revision, capabilities={"elicitation": {}}) as speaker:
                assert (await speaker.call("sdk__add", a=2, b=3))["content"][0]["text"] == "5"


async def test_an_address_of_another_origin_is_refused(database_url: str, tmp_path: Path) -> None:
    """An upstream that names one would have our requests sent there."""

    class Luring(SseUpstream):
        async def _open(self, exchange: Exchange) -> None:
            await exchange.stream()
            await exchange.raw(f"event: endpoint\ndata: {bait.url}\n\n".encode())
            await self._hold(exchange)

    upstreams = {"good": upstream_of(OLDEST), "luring": Luring(tools=[TOOL])}
    async with (
        scripted(upstream_of(NEWEST)) as bait,
        logged() as lines,
        federation(database_url, tmp_path, upstreams, extra={"luring": {"version": {"transport": "sse"}}}) as running,
        running.client(NEWEST) as speaker,
    ):
        assert [tool["name"] for tool in await speaker.all("tools/list", "tools")] == ["good__echo"]
        assert bait.seen == []
    assert any("another origin" in line.get("error", "") for line in lines)


@asynccontextmanager
async def logged() -> AsyncIterator[list[Any]]:
    with structlog.testing.capture_logs() as lines:
        yield lines


async def test_a_channel_that_the_upstream_drops_is_opened_anew(world: Federation) -> None:
    """What was in flight failed with an unknown outcome and was not sent again; the next call works."""
    upstream = world.upstreams["old"]
    assert isinstance(upstream, SseUpstream)
    async with world.client("2025-11-25") as speaker:
        await speaker.call("old__weather")
        channel = upstream.seen[-1].headers["channel"]
        calls = len(upstream.requests("tools/call"))

        async def drop(exchange: Exchange) -> None:
            await upstream.channels[exchange.seen.headers["channel"]]._send(
                {"type": "http.response.body", "body": b"", "more_body": False}
            )

        answer, upstream.acts["tools/call"] = upstream.acts["tools/call"], drop
        try:
            failed = await speaker.call("old__weather")
        finally:
            upstream.acts["tools/call"] = answer
        assert failed["isError"] is True
        assert failed["_meta"]["dev.mcp-gateway/denial"]["reason"] == "outcome_unknown"
        assert len(upstream.requests("tools/call")) == calls + 1
        assert (await speaker.call("old__weather"))["content"][0]["text"] == "sunny"
        assert upstream.seen[-1].headers["channel"] != channel


async def test_a_channel_without_an_address_is_given_up(world: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    """It opens, and then says nothing."""
    upstream = world.upstreams["old"]
    assert isinstance(upstream, SseUpstream)

    async def mute(exchange: Exchange) -> None:
        await exchange.stream()
        await exchange.gone()

    monkeypatch.setattr(http_sse, "_HANDSHAKE_SECONDS", 0.1)
    async with world.client("2025-11-25") as speaker:
        with monkeypatch.context() as meanwhile:
            meanwhile.setattr(upstream, "_open", mute)
            failed = await speaker.call("old__weather")
        assert failed["_meta"]["dev.mcp-gateway/denial"]["reason"] == "upstream_unavailable"
        assert (await speaker.call("old__weather"))["content"][0]["text"] == "sunny"


async def test_a_question_that_belongs_to_no_call_is_refused(world: Federation) -> None:
    """Nobody is shown it; a ping is answered."""
    upstream = world.upstreams["old"]
    answered: dict[str, Any] = {}
    both = asyncio.Event()

    async def take(exchange: Exchange) -> None:
        message = exchange.seen.json
        answered[message["id"]] = message
        if len(answered) == 2:
            both.set()

    upstream.acts[""] = take
    capabilities: dict[str, Any] = {"elicitation": {}}
    async with world.client("2025-11-25", capabilities=capabilities) as speaker:
        await speaker.call("old__weather")
        channel = upstream.listening[-1]
        question = {"message": "Who?", "requestedSchema": {"type": "object"}}
        await channel.event({"jsonrpc": "2.0", "id": "q", "method": "elicitation/create", "params": question})
        await channel.event({"jsonrpc": "2.0", "id": "p", "method": "ping"})
        async with asyncio.timeout(SECONDS):
            await both.wait()
    assert answered["q"]["error"]["code"] == -32601
    assert answered["p"]["result"] == {}
