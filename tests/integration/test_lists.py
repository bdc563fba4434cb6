"""Merged lists: order, pages, freshness, who may keep them, and items that reach clients as they were or not at all."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import mcp
import pytest

from catalogue.model import Kind
from gateway.bridge import lists
from tests.support.clients import NEWEST, OLDEST, REVISIONS, Client, ModernClient
from tests.support.federation import Federation, federation
from tests.support.gateway import replica, server
from tests.support.upstream_eras import upstream_of
from tests.support.upstreams import TOOL, Exchange, ScriptedUpstream, scripted

OBJECT = {"type": "object"}
SCHEMA = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "$id": "urn:example:tool",
    "type": "object",
    "$defs": {"size": {"$anchor": "size", "type": "integer", "maximum": 2**60, "multipleOf": 0.5}},
    "properties": {
        "size": {"$ref": "#/$defs/size", "default": None, "x-vendor": {"$ref": "not a reference", "deep": [[], {}]}},
        "either": {"oneOf": [{"const": 1.0}, {"enum": [None, False, "\u00e9"]}], "unevaluatedProperties": False},
    },
    "if": {"required": ["size"]},
    "then": {"dependentSchemas": {"size": True}},
    "x-google-identifier": "kept",
}


def many(slug: str, revision: str = NEWEST) -> ScriptedUpstream:
    """Five items of each kind, listed in an order that no sorting gives."""
    names = [f"{letter}{slug}" for letter in "dbeac"]
    return upstream_of(
        revision,
        tools=[{"name": name, "inputSchema": OBJECT} for name in names],
        prompts=[{"name": name} for name in names],
        resources=[{"uri": f"file:///{name}", "name": name} for name in names],
        templates=[{"uriTemplate": f"file:///{name}/{{x}}", "name": name} for name in names],
    )


@pytest.fixture(scope="module")
async def world(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Federation]:
    upstreams = {"zz": many("z"), "aa": many("a"), "old": many("o", "2025-06-18")}
    state = tmp_path_factory.mktemp("state")
    async with federation(database_url, state, upstreams, page_size=4) as running:
        yield running


def ids(items: list[dict[str, Any]], kind: Kind) -> list[str]:
    return [item[kind.key] for item in items]


@pytest.mark.parametrize("client", REVISIONS)
async def test_following_cursors_yields_each_item_once_in_one_order(world: Federation, client: str) -> None:
    """P29, P31, P32: servers as configured, each server's items as it lists them; one cacheScope on all pages."""
    async with world.client(client) as speaker:
        for kind in Kind:
            scopes: set[str] = set()
            items: list[dict[str, Any]] = []
            sizes: list[int] = []
            params: dict[str, Any] = {"cursor": ""}
            while True:
                page = await speaker.result(kind.method, params)
                sizes.append(len(page[kind.value]))
                items += page[kind.value]
                scopes.add(page.get("cacheScope", "private"))
                if "nextCursor" not in page:
                    break
                params = {"cursor": page["nextCursor"]}
            assert sizes == [4, 4, 4, 3]
            assert scopes == {"private"}
            listed = [name.strip("/{x}").rpartition("/")[2].rpartition("__")[2] for name in ids(items, kind)]
            assert listed == [f"{letter}{slug}" for slug in "zao" for letter in "dbeac"]


async def test_every_listing_has_the_same_order_on_every_replica(world: Federation, tmp_path: Path) -> None:
    """P29: a hundred of them."""
    servers = [server(slug, upstream.url) for slug, upstream in world.upstreams.items()]
    orders: set[tuple[str, ...]] = set()
    async with replica(world.database_url, tmp_path, servers, gateway={"page_size": 4}) as other:
        for running in (world.replica, other):
            speaker = ModernClient(world.http, running.mcp, None, None)
            for _ in range(13):
                orders.add(tuple(ids(await speaker.all("tools/list", "tools"), Kind.TOOL)))
        first = (await ModernClient(world.http, other.mcp, None, None).result("tools/list"))["nextCursor"]
        here = await speaker_at(world).result("tools/list", {"cursor": first})
        assert len(here["tools"]) == 4
    assert len(orders) == 1


def speaker_at(world: Federation, endpoint: str = "", key: str | None = None) -> ModernClient:
    url = world.replica.server(endpoint) if endpoint else world.replica.mcp
    return ModernClient(world.http, url, None, key)


async def test_a_cursor_of_something_else_is_refused(world: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    """P31: another list's, another endpoint's, another principal's, an expired or a damaged one."""
    speaker = speaker_at(world)
    good = (await speaker.result("tools/list"))["nextCursor"]
    foreign = [
        (await speaker.result("prompts/list"))["nextCursor"],
        (await speaker_at(world, "zz").result("tools/list"))["nextCursor"],
        (await speaker_at(world, key=await world.key("*")).result("tools/list"))["nextCursor"],
        good[:-1],
        good[:-2] + ("AA" if good[-2:] != "AA" else "BB"),
        "x",
        7,
    ]
    monkeypatch.setattr(lists, "CURSOR_SECONDS", -1)
    foreign.append((await speaker.result("tools/list"))["nextCursor"])
    async with world.client("2025-11-25") as legacy:
        for each in foreign:
            for client in (speaker, legacy):
                answer = await client.ask("tools/list", {"cursor": each})
                assert answer["error"]["code"] == -32602, each
        assert len((await legacy.result("tools/list", {"cursor": good}))["tools"]) == 4


async def test_what_one_principal_sees_is_never_shown_to_another(world: Federation) -> None:
    """P32, P33: whoever asks first fills no cache for the others, and nobody in between may keep the answer."""
    keys = {grant: await world.key(grant) for grant in ("zz__*", "old__*", "*", "nothing")}
    for _ in range(2):
        for grant, key in keys.items():
            for kind in Kind:
                items = await speaker_at(world, key=key).all(kind.method, kind.value)
                slugs = {item[kind.key][:2] for item in items}
                assert slugs == {"zz__*": {"zz"}, "old__*": {"ol"}, "*": {"zz", "aa", "ol"}, "nothing": set()}[grant]
            found = await speaker_at(world, key=key).result("server/discover")
            assert found["cacheScope"] == "private"
            assert ("tools" in found["capabilities"]) == (grant != "nothing")


def with_hints(ttl: int, scope: str) -> ScriptedUpstream:
    """A modern upstream with these hints on its list of tools, in two pages of which the second is the stricter."""
    upstream = ScriptedUpstream("modern")

    async def listed(exchange: Exchange) -> None:
        first = "cursor" not in exchange.params
        hints = {"ttlMs": 50_000, "cacheScope": "public"} if first else {"ttlMs": ttl, "cacheScope": scope}
        tools = [TOOL] if first else [{**TOOL, "name": "second"}]
        more = {"nextCursor": "2"} if first else {}
        await exchange.result({"resultType": "complete", "tools": tools, **hints, **more})

    upstream.acts["tools/list"] = listed
    return upstream


async def test_hints_are_those_of_the_strictest_part(database_url: str, tmp_path: Path) -> None:
    """P32, P35: of every upstream and of every page; what has been kept for a while is fresh for less."""
    began = time.monotonic()
    upstreams = {"one": with_hints(40_000, "public"), "two": with_hints(30_000, "private")}
    async with federation(database_url, tmp_path, upstreams) as running:
        for endpoint, ttl, scope in (("one", 40_000, "public"), ("two", 30_000, "private"), ("", 30_000, "private")):
            found = await speaker_at(running, endpoint).result("tools/list")
            assert found["cacheScope"] == scope, endpoint
            assert ttl - (time.monotonic() - began) * 1000 - 1 <= found["ttlMs"] <= ttl, endpoint
        named = await speaker_at(running, "one", key=await running.key("*")).result("tools/list")
        assert named["cacheScope"] == "private"


ODD_HINTS: list[dict[str, Any]] = [
    {"ttlMs": 0},
    {"ttlMs": -5, "cacheScope": "private"},
    {"ttlMs": "soon"},
    {"ttlMs": None},
    {"ttlMs": True, "cacheScope": None},
    {"cacheScope": "x"},
]


async def test_odd_hints_are_read_as_the_strictest(database_url: str, tmp_path: Path) -> None:
    """P35."""

    def odd(hints: dict[str, Any]) -> ScriptedUpstream:
        async def listed(exchange: Exchange) -> None:
            await exchange.result({"resultType": "complete", "tools": [TOOL], **hints})

        return ScriptedUpstream("modern", acts={"tools/list": listed})

    upstreams = {f"odd{number}": odd(hints) for number, hints in enumerate(ODD_HINTS)}
    async with federation(database_url, tmp_path, upstreams) as running:
        for slug in upstreams:
            found = await speaker_at(running, slug).result("tools/list")
            assert (found["ttlMs"], found["cacheScope"]) == (0, "private")


async def test_schemas_arrive_as_equal_json(database_url: str, tmp_path: Path) -> None:
    """P40: at modern clients whole, at either endpoint, whatever era the upstream has."""
    tool = {"name": "t", "inputSchema": SCHEMA, "outputSchema": {"type": "array", "items": SCHEMA}, "x-vendor": SCHEMA}
    upstreams = {"new": upstream_of(NEWEST, tools=[tool]), "older": upstream_of("2025-11-25", tools=[tool])}
    async with federation(database_url, tmp_path, upstreams) as running:
        merged = await speaker_at(running).result("tools/list")
        assert merged["tools"] == [{**tool, "name": "new__t"}, {**tool, "name": "older__t"}]
        for slug in upstreams:
            assert (await speaker_at(running, slug).result("tools/list"))["tools"] == [tool]


async def test_a_reference_into_the_network_is_not_followed(database_url: str, tmp_path: Path) -> None:
    """P41: neither when the tool is listed nor when it is called."""
    upstream = ScriptedUpstream("modern")
    async with scripted(ScriptedUpstream("modern")) as schemas:
        for member, reference in (("inputSchema", "$ref"), ("outputSchema", "$ref"), ("inputSchema", "$dynamicRef")):
            schema = {"type": "object", "properties": {"a": {reference: f"{schemas.url}/schema.json"}}}
            upstream.tools.append({"name": f"{member}{reference[1:]}", "inputSchema": OBJECT, member: schema})
        async with federation(database_url, tmp_path, {"up": upstream}) as running:
            assert ids((await speaker_at(running).result("tools/list"))["tools"], Kind.TOOL) == ["up__echo"]
            for tool in upstream.tools:
                await speaker_at(running).ask("tools/call", {"name": f"up__{tool['name']}", "arguments": {"a": 1}})
        assert len(upstream.requests("tools/call")) == 1
        assert schemas.seen == []


async def test_a_tool_with_an_array_for_output_is_usable_by_everybody(database_url: str, tmp_path: Path) -> None:
    """P42: with the official client too, which validates all it gets."""
    rows = [{"n": 1}, {"n": 2}]
    array = {"type": "array", "items": OBJECT}
    upstream = upstream_of(NEWEST, tools=[{**TOOL, "outputSchema": array}, {**TOOL, "name": "plain"}])

    async def call(exchange: Exchange) -> None:
        await exchange.result({"content": [], "structuredContent": rows})

    upstream.acts["tools/call"] = call
    async with federation(database_url, tmp_path, {"up": upstream}) as running:
        for client in REVISIONS:
            async with running.client(client) as speaker:
                await check_array(speaker, rows)
        for mode in (NEWEST, "legacy"):
            async with mcp.Client(running.replica.mcp, mode=mode) as official:
                assert [tool.name for tool in (await official.list_tools()).tools] == ["up__echo", "up__plain"]
                result = await official.call_tool("up__echo", {})
                assert (result.structured_content == rows) == (mode == NEWEST)


async def check_array(speaker: Client, rows: list[dict[str, int]]) -> None:
    tool = (await speaker.result("tools/list"))["tools"][0]
    result = await speaker.call("up__echo")
    if speaker.modern:
        assert (tool["outputSchema"]["type"], result["structuredContent"]) == ("array", rows)
    else:
        assert "outputSchema" not in tool
        assert "structuredContent" not in result
        assert [block["text"] for block in result["content"]] == ['[{"n":1},{"n":2}]']


MALFORMED: list[Any] = [
    {"name": "no-schema"},
    {"name": "array-schema", "inputSchema": {"type": "array"}},
    {"name": "untyped-schema", "inputSchema": {}},
    {"name": 7, "inputSchema": OBJECT},
    {"inputSchema": OBJECT},
    {"name": "", "inputSchema": OBJECT},
    {"name": "bad-output", "inputSchema": OBJECT, "outputSchema": 5},
    {"name": "bad-properties", "inputSchema": {"type": "object", "properties": []}},
    {"name": "bad-description", "inputSchema": OBJECT, "description": {"a": 1}},
    "text",
    None,
]


async def test_a_malformed_item_removes_itself_only(database_url: str, tmp_path: Path) -> None:
    """P43."""
    upstreams = {"oldest": many("x", OLDEST), "older": many("x", "2025-11-25"), "newest": many("x")}
    for upstream in upstreams.values():
        upstream.tools = [upstream.tools[0], *MALFORMED, *upstream.tools[1:]]
        upstream.prompts = [{"name": 5}, *upstream.prompts]
        upstream.resources = [*upstream.resources, {"name": "no uri"}, {"uri": 5, "name": "x"}]
        upstream.templates = [{"name": "no template"}, *upstream.templates]
    async with federation(database_url, tmp_path, upstreams) as running:
        for client in (OLDEST, "2025-06-18", NEWEST):
            async with running.client(client) as speaker:
                for kind in Kind:
                    assert len((await speaker.result(kind.method))[kind.value]) == 15
        async with mcp.Client(running.replica.mcp, mode="legacy") as official:
            assert len((await official.list_tools()).tools) == 15
