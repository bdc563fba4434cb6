"""What HTTP headers say must be what the body says, on the way in and on the way out."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import structlog.testing

from tests.support.clients import NEWEST, ModernClient
from tests.support.federation import Federation, federation
from tests.support.gateway import messages_of, modern_headers, modern_message
from tests.support.upstream_eras import upstream_of
from tests.support.upstreams import Exchange, ScriptedUpstream

SCHEMA = {
    "type": "object",
    "properties": {
        "region": {"type": "string", "x-mcp-header": "Region"},
        "count": {"type": "integer", "x-mcp-header": "Count"},
        "dry": {"type": "boolean", "x-mcp-header": "Dry-Run"},
        "where": {"type": "object", "properties": {"zone": {"type": "string", "x-mcp-header": "Zone"}}},
        "free": {"type": "string"},
    },
}
TOOLS = [{"name": "run", "inputSchema": SCHEMA}, {"name": "söök", "inputSchema": {"type": "object"}}]
EVIL = "https://evil.example"


def sentinel(text: str) -> str:
    return f"=?base64?{base64.b64encode(text.encode()).decode()}?="


@pytest.fixture(scope="module")
async def world(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Federation]:
    upstreams = {"new": upstream_of(NEWEST, tools=TOOLS), "old": upstream_of("2025-11-25", tools=TOOLS)}
    settings: dict[str, Any] = {"allowed_origins": ["https://app.example"]}
    async with federation(database_url, tmp_path_factory.mktemp("state"), upstreams, **settings) as running:
        yield running


async def post(world: Federation, message: dict[str, Any], changed: dict[str, str | None]) -> tuple[int, Any]:
    """Sends a modern message whose headers are changed (None: left out); returns status and JSON-RPC message."""
    headers = {**modern_headers(message), **changed}
    sent = {name: value for name, value in headers.items() if value is not None}
    async with world.http.post(world.replica.mcp, data=orjson.dumps(message), headers=sent) as response:
        return response.status, (await messages_of(response))[-1]


@pytest.mark.parametrize("path", ["/mcp", "/servers/new/mcp", "/servers/unknown/mcp", "/sse"])
@pytest.mark.parametrize("method", ["POST", "GET", "DELETE"])
async def test_a_foreign_origin_is_refused(world: Federation, method: str, path: str) -> None:
    """P11."""
    for origin in (EVIL, "null", "http://127.0.0.1.evil.example", "http://localhost:1"):
        async with world.http.request(method, world.replica.origin + path, headers={"origin": origin}) as response:
            assert response.status == 403, origin


async def test_an_origin_of_ours_and_one_that_is_listed_are_accepted(world: Federation) -> None:
    message = modern_message("tools/list")
    port = world.replica.origin.rpartition(":")[2]
    for origin in (world.replica.origin, f"http://localhost:{port}", "https://app.example", None):
        status, _ = await post(world, message, {"origin": origin})
        assert status == 200, origin


MISMATCHED: dict[str, dict[str, str | None]] = {
    "no method": {"mcp-method": None},
    "another method": {"mcp-method": "tools/list"},
    "method in another case": {"mcp-method": "Tools/Call"},
    "no name": {"mcp-name": None},
    "another name": {"mcp-name": "new__other"},
    "the upstream's name": {"mcp-name": "run"},
    "name in another case": {"mcp-name": "new__Run"},
    "another name, encoded": {"mcp-name": sentinel("new__other")},
    "name that cannot be decoded": {"mcp-name": "=?base64?bmV3X19ydW4?="},
    "no version": {"mcp-protocol-version": None},
    "another version": {"mcp-protocol-version": "2026-07-29"},
    "a version with sessions": {"mcp-protocol-version": "2025-11-25"},
}


@pytest.mark.parametrize("changed", MISMATCHED.values(), ids=MISMATCHED)
async def test_a_header_unlike_the_body_is_refused(world: Federation, changed: dict[str, str | None]) -> None:
    """P12."""
    before = len(world.upstreams["new"].seen)
    message = modern_message("tools/call", {"name": "new__run", "arguments": {}})
    status, answer = await post(world, message, changed)
    assert (status, answer["error"]["code"]) == (400, -32020)
    assert len(world.upstreams["new"].seen) == before


async def test_an_encoded_name_is_decoded_before_it_is_compared(world: Federation) -> None:
    """P12."""
    message = modern_message("tools/call", {"name": "new__run", "arguments": {}})
    status, answer = await post(world, message, {"mcp-name": sentinel("new__run")})
    assert (status, answer["result"]["resultType"]) == (200, "complete")


async def test_a_repeated_header_is_refused(world: Federation) -> None:
    """P12: whoever reads the first copy and whoever reads the last would disagree."""
    message = modern_message("tools/call", {"name": "new__run", "arguments": {"region": "eu"}})
    for name, value in (("mcp-name", "new__run"), ("mcp-method", "tools/call"), ("mcp-param-region", "eu")):
        lines = [*{**modern_headers(message), "mcp-param-region": "eu"}.items(), (name, value)]
        async with world.http.post(world.replica.mcp, data=orjson.dumps(message), headers=lines) as response:
            assert response.status == 400, name
            assert (await messages_of(response))[-1]["error"]["code"] == -32020


FITTING: list[tuple[dict[str, Any], dict[str, str | None]]] = [
    ({}, {}),
    ({"region": None, "free": "x"}, {}),
    ({"region": "eu"}, {"mcp-param-region": "eu"}),
    ({"region": "Zürich "}, {"mcp-param-region": sentinel("Zürich ")}),
    ({"count": 7}, {"mcp-param-count": "7"}),
    ({"count": 7}, {"mcp-param-count": "7.0"}),
    ({"count": 2**60 + 1}, {"mcp-param-count": str(2**60 + 1)}),
    ({"dry": True}, {"mcp-param-dry-run": "true"}),
    ({"where": {"zone": "a"}}, {"mcp-param-zone": "a"}),
    ({"where": {}}, {}),
]
UNFIT: list[tuple[dict[str, Any], dict[str, str | None]]] = [
    ({"region": "eu"}, {}),
    ({"region": "eu"}, {"mcp-param-region": "us"}),
    ({"region": "eu"}, {"mcp-param-region": "EU"}),
    ({"region": "eu"}, {"mcp-param-region": "=?base64?ZXV?="}),
    ({}, {"mcp-param-region": "eu"}),
    ({"region": None}, {"mcp-param-region": "null"}),
    ({"count": 7}, {"mcp-param-count": "8"}),
    ({"dry": False}, {"mcp-param-dry-run": "true"}),
    ({"where": {"zone": "a"}}, {"mcp-param-zone": "b"}),
]


@pytest.mark.parametrize("slug", ["new", "old"])
async def test_parameter_headers_are_compared_with_the_arguments(world: Federation, slug: str) -> None:
    """P13: whatever era the upstream has, the schema that the client was listed says which headers it sends."""
    upstream = world.upstreams[slug]
    for arguments, headers in FITTING:
        message = modern_message("tools/call", {"name": f"{slug}__run", "arguments": arguments})
        status, answer = await post(world, message, headers)
        assert status == 200, (arguments, answer)
        assert upstream.requests("tools/call")[-1]["params"]["arguments"] == arguments
    before = len(upstream.seen)
    for arguments, headers in UNFIT:
        message = modern_message("tools/call", {"name": f"{slug}__run", "arguments": arguments})
        status, answer = await post(world, message, headers)
        assert (status, answer["error"]["code"]) == (400, -32020), (arguments, headers)
    assert len(upstream.seen) == before


@pytest.mark.parametrize("client", ["2024-11-05", "2025-11-25", NEWEST])
async def test_headers_to_the_upstream_are_made_from_what_is_sent_there(world: Federation, client: str) -> None:
    """P14: nothing of the client's headers goes on; a legacy client's call gets the headers that its body implies."""
    arguments = {"region": "Zürich", "count": 3, "dry": False, "where": {"zone": " a"}, "free": "x"}
    params = {
        "mcp-param-region": sentinel("Zürich"),
        "mcp-param-count": "3",
        "mcp-param-dry-run": "false",
        "mcp-param-zone": sentinel(" a"),
    }
    unwanted = {"cookie": "a=b", "x-secret": "s", "mcp-param-free": "x", "traceparent": "00-0-0-00", "forwarded": "f"}
    if client == NEWEST:
        message = modern_message("tools/call", {"name": "new__run", "arguments": arguments})
        status, _ = await post(world, message, {**params, **unwanted, "mcp-session-id": "mine", "last-event-id": "1"})
        assert status == 200
    else:
        async with world.client(client) as speaker:
            await speaker.call("new__run", **arguments)
    seen = world.upstreams["new"].seen[-1]
    assert seen.json["params"]["arguments"] == arguments
    expected = {
        "mcp-method": "tools/call",
        "mcp-name": "run",
        "mcp-protocol-version": NEWEST,
        "content-type": "application/json",
        "accept": "application/json, text/event-stream",
        **params,
    }
    transport = {"host", "content-length", "accept-encoding"}
    assert {name: value for name, value in seen.headers.items() if name not in transport} == expected


async def test_a_name_that_no_header_can_hold_is_encoded_upstream(world: Federation) -> None:
    """P14."""
    async with world.client(NEWEST) as speaker:
        tools = await speaker.all("tools/list", "tools")
        [name] = [tool["name"] for tool in tools if tool["name"].startswith("new__s")]
        await speaker.call(name)
    assert world.upstreams["new"].seen[-1].headers["mcp-name"] == sentinel("söök")


async def test_new_parameter_headers_of_a_tool_are_learned_from_the_upstreams_refusal(
    database_url: str, tmp_path: Path
) -> None:
    """P14: -32020 is never relayed; the list is read again and the call, which did not run, sent once more."""
    upstream = upstream_of(NEWEST, tools=[{"name": "run", "inputSchema": {"type": "object"}}])
    expecting = True

    async def call(exchange: Exchange) -> None:
        if not expecting or exchange.seen.headers.get("mcp-param-region") != "eu":
            await exchange.error(-32020, "Mcp-Param-Region header is missing", status=400)
        else:
            await exchange.result({"content": []})

    upstream.acts["tools/call"] = call
    async with (
        federation(database_url, tmp_path, {"new": upstream}) as running,
        running.client("2025-11-25") as speaker,
    ):
        upstream.tools = [{"name": "run", "inputSchema": SCHEMA}]
        lists = len(upstream.requests("tools/list"))
        assert (await speaker.call("new__run", region="eu"))["content"] == []
        assert len(upstream.requests("tools/list")) == lists + 1
        assert len(upstream.requests("tools/call")) == 2
        expecting = False
        answer = await speaker.ask("tools/call", {"name": "new__run", "arguments": {"region": "eu"}})
        assert answer["error"]["code"] == -32603
        assert len(upstream.requests("tools/call")) == 4


INVALID: dict[str, Any] = {
    "number": {"a": {"type": "number", "x-mcp-header": "A"}},
    "twice": {"a": {"type": "string", "x-mcp-header": "A"}, "b": {"type": "string", "x-mcp-header": "a"}},
    "space": {"a": {"type": "string", "x-mcp-header": "A B"}},
    "empty": {"a": {"type": "string", "x-mcp-header": ""}},
    "items": {"a": {"type": "array", "items": {"type": "string", "x-mcp-header": "A"}}},
}


async def test_a_tool_with_an_invalid_header_annotation_is_left_out(database_url: str, tmp_path: Path) -> None:
    """P15: with a warning that says which and why; the other tools stay."""
    bad = [{"name": name, "inputSchema": {"type": "object", "properties": each}} for name, each in INVALID.items()]
    upstream = ScriptedUpstream("modern", tools=[TOOLS[0], *bad, TOOLS[1]])
    with structlog.testing.capture_logs() as logs:
        async with federation(database_url, tmp_path, {"new": upstream}) as running, running.client(NEWEST) as speaker:
            assert isinstance(speaker, ModernClient)
            speaker.url = running.replica.server("new")
            assert [tool["name"] for tool in await speaker.all("tools/list", "tools")] == ["run", "söök"]
            for name in INVALID:
                assert (await speaker.ask("tools/call", {"name": name}))["error"]["code"] == -32602
    warned = {line["item"]: line["reason"] for line in logs if line["event"] == "item_left_out"}
    assert warned.keys() == INVALID.keys()
    assert all("x-mcp-header" in reason for reason in warned.values())
    assert all(line["log_level"] == "warning" for line in logs if line["event"] == "item_left_out")
