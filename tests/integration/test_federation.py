"""Every revision of client to every revision of upstream through one endpoint, and what federating must not change."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.support.clients import NEWEST, REVISIONS, ModernClient, SessionClient
from tests.support.federation import Federation, acting, federation
from tests.support.upstream_eras import (
    FAILURE,
    IMAGE,
    INLINE,
    LINK,
    RESULT,
    STRUCTURE,
    TEXT,
    of_each_revision,
    slug_of,
    upstream_of,
)
from tests.support.upstreams import Exchange

MODERN_MEMBERS = {"resultType", "ttlMs", "cacheScope"}
HANDSHAKE = {"initialize", "notifications/initialized"}
ODD = b'"content":[],"big":123456789012345678901234567890,"over":1e400,"half":"\\ud800","float":1.0,"same":[{"a":1}]'


@pytest.fixture(scope="module")
async def world(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Federation]:
    async with federation(database_url, tmp_path_factory.mktemp("state"), of_each_revision()) as running:
        yield running


@pytest.mark.parametrize("upstream", REVISIONS)
@pytest.mark.parametrize("client", REVISIONS)
async def test_a_result_means_the_same_for_every_pair_of_revisions(
    world: Federation, client: str, upstream: str
) -> None:
    """P6, P14, P36: all kinds of content, structure, unknown fields; nothing of a revision the client does not know.

    No list is asked for on behalf of a call: what the gateway knows it knows from discovery.
    """
    slug = slug_of(upstream)
    before = len(world.upstreams[slug].seen)
    async with world.client(client) as speaker:
        result = await speaker.call(f"{slug}__weather", city="Oslo")
    asked = [seen.json for seen in world.upstreams[slug].seen[before:] if seen.method == "POST"]
    assert {message["method"] for message in asked[:-1]} <= HANDSHAKE
    sent = asked[-1]["params"]
    assert (sent["name"], sent["arguments"]) == ("weather", {"city": "Oslo"})
    text, image, link, embedded, *more = result["content"]
    assert (text, image) == (TEXT, IMAGE)
    assert embedded == {"type": "resource", "resource": {**INLINE, "uri": f"{slug}+file:///inline"}}
    if client >= "2025-06-18":
        assert link == {**LINK, "uri": f"{slug}+file:///report"}
        assert (result["structuredContent"], more) == (STRUCTURE, [])
    else:
        assert link["type"] == "text"
        assert f"{slug}+file:///report" in link["text"]
        assert "structuredContent" not in result
        assert [orjson.loads(block["text"]) for block in more] == [STRUCTURE]
    assert result["x-vendor"] == RESULT["x-vendor"]
    assert result["_meta"]["com.example/of-theirs"] == {"kept": True}
    assert MODERN_MEMBERS & result.keys() == ({"resultType"} if client == NEWEST else set())


@pytest.mark.parametrize("upstream", REVISIONS)
@pytest.mark.parametrize("client", REVISIONS)
async def test_a_tool_that_fails_is_a_result_and_an_unknown_tool_an_error(
    world: Federation, client: str, upstream: str
) -> None:
    """P56."""
    slug = slug_of(upstream)
    async with world.client(client) as speaker:
        failed = await speaker.call(f"{slug}__fail")
        before = len(world.upstreams[slug].seen)
        unknown = await speaker.ask("tools/call", {"name": f"{slug}__nothing", "arguments": {}})
    assert (failed["isError"], failed["content"]) == (True, FAILURE["content"])
    assert unknown["error"]["code"] == -32602
    assert len(world.upstreams[slug].seen) == before


async def test_a_forbidden_tool_is_answered_like_an_unknown_one(world: Federation) -> None:
    """P56: hidden and absent are the same bytes, in either era."""
    slug = slug_of(NEWEST)
    key = await world.key(f"{slug}__fail")
    for revision in (NEWEST, "2025-11-25"):
        async with world.client(revision, key=key) as speaker:
            before = len(world.upstreams[slug].seen)
            hidden = await speaker.ask("tools/call", {"name": f"{slug}__weather"})
            absent = await speaker.ask("tools/call", {"name": f"{slug}__nothing"})
            assert hidden["error"] == absent["error"] == {"code": -32602, "message": "Unknown tool"}
            assert len(world.upstreams[slug].seen) == before
            assert [tool["name"] for tool in await speaker.all("tools/list", "tools")] == [f"{slug}__fail"]


async def test_both_eras_are_served_on_one_endpoint_at_the_same_time(world: Federation) -> None:
    """P5: the answer to one client is held back until the other has got its own."""
    slug = slug_of("2025-11-25")
    upstream = world.upstreams[slug]
    async with world.client(NEWEST) as modern, world.client("2025-06-18") as legacy:
        inner: dict[str, Any] = {}
        answer = upstream.acts["tools/call"]

        async def call(exchange: Exchange) -> None:
            if exchange.params.get("arguments") == {"city": "outer"}:
                inner.update(await legacy.call(f"{slug}__weather", city="inner"))
            await answer(exchange)

        with acting(upstream, "tools/call", call):
            outer = await modern.call(f"{slug}__weather", city="outer")
    assert outer["resultType"] == "complete"
    assert inner["structuredContent"] == outer["structuredContent"]
    assert "resultType" not in inner


@pytest.mark.parametrize("streamed", [False, True], ids=["json", "stream"])
@pytest.mark.parametrize("client", ["2025-11-25", NEWEST])
async def test_what_is_not_rewritten_arrives_as_the_bytes_received(
    world: Federation, client: str, *, streamed: bool
) -> None:
    """Numbers beyond 64 bits or a double, half a surrogate pair, `1.0`: nothing is decoded and written again."""
    slug = slug_of(client)
    upstream = world.upstreams[slug]

    async def call(exchange: Exchange) -> None:
        body = b'{"jsonrpc":"2.0","id":"%s","result":{%s}}' % (exchange.id.encode(), ODD)
        if streamed:
            await exchange.stream()
            await exchange.raw(b"data: " + body + b"\n\n", last=True)
        else:
            await exchange.respond(200, body)

    with acting(upstream, "tools/call", call):
        for endpoint, name in (("", f"{slug}__weather"), (slug, "weather")):
            async with world.client(client, endpoint=endpoint) as speaker:
                assert isinstance(speaker, ModernClient | SessionClient)
                async with speaker.post("tools/call", {"name": name, "arguments": {"n": 2**70}}) as response:
                    assert ODD in await response.read()
            assert upstream.requests("tools/call")[-1]["params"]["arguments"] == {"n": 2**70}


async def test_numbers_stay_exact_where_a_result_is_rewritten(world: Federation) -> None:
    """A link makes the gateway write the result anew; integers are the same afterwards."""
    slug = slug_of(NEWEST)
    result = b'{"content":[%s],"big":%d,"half":"\\ud800"}' % (orjson.dumps(LINK), 2**90)

    async def call(exchange: Exchange) -> None:
        await exchange.respond(200, b'{"jsonrpc":"2.0","id":"%s","result":%s}' % (exchange.id.encode(), result))

    with acting(world.upstreams[slug], "tools/call", call):
        async with world.client(NEWEST) as speaker:
            assert isinstance(speaker, ModernClient)
            async with speaker.post("tools/call", {"name": f"{slug}__weather"}) as response:
                body = await response.read()
    assert f'"uri":"{slug}+file:///report"'.encode() in body
    assert str(2**90).encode() in body
    assert b"\\ud800" in body


async def test_tools_of_one_name_at_two_upstreams_are_both_listed_and_called(database_url: str, tmp_path: Path) -> None:
    """P27, P28, P38: names are distinct, well formed, and made of slugs, not of what servers call themselves."""
    names = ["search", "two__search", "s\u00f6\u00f6k \U0001f50e", "x" * 200, "x" * 201, "a b", "a_b"]
    tools = [{"name": name, "inputSchema": {"type": "object"}} for name in names]
    upstreams = {"one": upstream_of("2025-11-25", tools=tools), "two": upstream_of("2025-06-18", tools=tools)}
    async with federation(database_url, tmp_path, upstreams) as running, running.client(NEWEST) as speaker:
        exposed = [tool["name"] for tool in await speaker.all("tools/list", "tools")]
        assert len(set(exposed)) == 2 * len(names)
        assert all(re.fullmatch(r"(one|two)__[A-Za-z0-9_.-]{1,123}", name) for name in exposed)
        assert {"one__search", "two__search", "one__two__search", "two__two__search"} <= set(exposed)
        for name in exposed:
            await speaker.call(name)
        for slug, upstream in upstreams.items():
            assert [call["params"]["name"] for call in upstream.requests("tools/call")] == names, slug


async def test_calling_a_tool_does_not_change_what_the_caller_is_listed(database_url: str, tmp_path: Path) -> None:
    """P30: an upstream lists more to a session that has connected; no client of the gateway sees that."""
    upstream = upstream_of("2025-11-25", tools=[{"name": "connect", "inputSchema": {"type": "object"}}])
    more = {"name": "query", "inputSchema": {"type": "object"}}
    connected: set[str] = set()

    async def call(exchange: Exchange) -> None:
        connected.add(exchange.seen.headers["mcp-session-id"])
        await exchange.result({"content": []})

    async def listing(exchange: Exchange) -> None:
        known = exchange.seen.headers["mcp-session-id"] in connected
        await exchange.result({"tools": [*upstream.tools, more] if known else upstream.tools})

    upstream.acts |= {"tools/call": call, "tools/list": listing}
    async with federation(database_url, tmp_path, {"db": upstream}) as running:
        for revision in (NEWEST, "2025-11-25"):
            async with running.client(revision) as speaker:
                before = await speaker.result("tools/list")
                await speaker.call("db__connect")
                after = await speaker.result("tools/list")
                assert [tool["name"] for tool in after["tools"]] == ["db__connect"]
                assert after["tools"] == before["tools"]
        assert len(connected) == 2
