"""What goes to an upstream is built from nothing: no header, cookie or credential of a client, no line break of its."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest

from tests.attack.planes import REQUIRED, Planes, bearer, issue_key, planes
from tests.attack.raw import request, send
from tests.support.gateway import LegacySession, modern_headers, modern_message
from tests.support.upstreams import TOOL, ScriptedUpstream, Seen

SCHEMA = {
    "type": "object",
    "properties": {
        "region": {"type": "string", "x-mcp-header": "Region"},
        "deep": {"type": "object", "properties": {"n": {"type": "integer", "x-mcp-header": "Depth"}}},
    },
}
# All that an upstream may see: what HTTP needs, and what the revisions of MCP name.
HTTP = {"host", "content-length", "content-type", "accept", "accept-encoding"}
MODERN = HTTP | {"mcp-protocol-version", "mcp-method", "mcp-name"}
LEGACY = HTTP | {"mcp-protocol-version", "mcp-session-id"}
FORGED = {
    "x-upstream-authorization": "Bearer stolen-0123456789abcdef",
    "x-forwarded-user": "admin-0123456789abcdef",
    "x-forwarded-for": "10.9.8.7",
    "x-forwarded-host": "evil-0123456789abcdef.example",
    "x-api-key": "api-0123456789abcdef",
    "x-internal-key": "router-0123456789abcdef",
    "x-request-id": "request-0123456789abcdef",
    "proxy-authorization": "Basic cHJveHktMDEyMzQ1Njc4OWFiY2RlZg==",
    "cookie": "session=cookie-0123456789abcdef",
    "forwarded": "for=10.9.8.7;host=forwarded-0123456789abcdef",
    "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "baggage": "user=baggage-0123456789abcdef",
    "user-agent": "agent-0123456789abcdef",
    "accept-language": "xx-0123456789abcdef",
    "accept-encoding": "gzip, zstd",
    "origin-agent-cluster": "cluster-0123456789abcdef",
    "mcp-init-host": "init-0123456789abcdef",
    "mcp-param-region": "smuggled-0123456789abcdef",
    "connection": "keep-alive, x-forwarded-user",
    "te": "trailers",
}


def _upstream(era: str) -> ScriptedUpstream:
    return ScriptedUpstream(
        era,
        tools=[TOOL, {**TOOL, "name": "move", "inputSchema": SCHEMA}, {**TOOL, "name": "delete_all"}],
        prompts=[{"name": "echo"}],
        resources=[{"uri": "note:open", "name": "open"}],
    )


@pytest.fixture(scope="module")
async def attacked(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Planes]:
    key = await issue_key(database_url)
    state = tmp_path_factory.mktemp("state")
    modern, legacy = _upstream("modern"), _upstream("legacy")
    async with planes(database_url, state, gateway=REQUIRED, key=key, new=modern, old=legacy) as found:
        yield found


def _pieces(*texts: str) -> list[bytes]:
    """Every 16 characters in a row of each text."""
    return [text[at : at + 16].encode() for text in texts for at in range(len(text) - 15)]


def _assert_clean(arrived: list[Seen], secrets: list[bytes]) -> None:
    assert arrived
    for seen in arrived:
        everything = orjson.dumps(seen.headers).lower() + seen.body.lower()
        assert [secret for secret in secrets if secret.lower() in everything] == []
        assert seen.headers["accept"] == "application/json, text/event-stream"
        assert seen.headers["accept-encoding"] == "identity"


async def test_nothing_of_a_clients_headers_reaches_an_upstream(attacked: Planes) -> None:
    """A01, A02, CVE-2026-110279: calls, prompts and reads of both eras at upstreams of both."""
    assert attacked.key is not None
    secrets = _pieces(attacked.key, *FORGED.values())
    since = attacked.since_now()
    asked: list[tuple[str, dict[str, Any]]] = []
    for slug in ("new", "old"):
        asked += [
            ("tools/call", {"name": f"{slug}__echo", "arguments": {}}),
            ("prompts/get", {"name": f"{slug}__echo"}),
        ]
        asked.append(("resources/read", {"uri": f"{slug}+note:open"}))
    session = LegacySession(attacked.http, attacked.running.mcp)
    await session.open(None, **bearer(attacked.key), **FORGED)
    for method, params in asked:
        await attacked.ask(method, params, headers=FORGED)
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        headers = {**session.headers, **bearer(attacked.key), **FORGED}
        async with attacked.http.post(attacked.running.mcp, json=body, headers=headers) as response:
            assert response.status == 200
    assert len([seen for seen in since.dispatched if seen.json["method"] in {method for method, _ in asked}]) == 12
    _assert_clean(since.arrived, secrets)
    assert {name for seen in since.arrived for name in seen.headers} <= MODERN | LEGACY
    assert session.session_id not in {seen.headers.get("mcp-session-id") for seen in since.arrived}


async def test_nothing_of_a_clients_meta_reaches_an_upstream_but_the_trace(attacked: Planes) -> None:
    """A01: neither its name, nor members nobody knows, nor a progress token that a stranger could guess."""
    meta = {
        "io.modelcontextprotocol/clientInfo": {"name": "client-0123456789abcdef", "version": "1"},
        "progressToken": "token-0123456789abcdef",
        "com.example/secret": "secret-0123456789abcdef",
        "authorization": "Bearer meta-0123456789abcdef",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    }
    secrets = [b"0123456789abcdef", b"b7ad6b7169203331"]
    since = attacked.since_now()
    for slug in ("new", "old"):
        status, _ = await attacked.call(f"{slug}__echo", {}, meta=meta)
        assert status == 200
    _assert_clean(since.arrived, secrets)
    for seen in since.dispatched:
        if seen.json["method"] == "tools/call":  # the trace goes on under a span of our own
            assert seen.json["params"]["_meta"]["traceparent"].startswith("00-0af7651916cd43dd8448eb211c80319c-")


MISMATCHES: dict[str, dict[str, str | None]] = {
    "name_of_a_safe_tool": {"mcp-name": "new__echo"},
    "name_in_base64": {"mcp-name": "=?base64?" + base64.b64encode(b"new__echo").decode() + "?="},
    "name_in_broken_base64": {"mcp-name": "=?base64?bmV3X19kZWxldGVfYWxs=?="},
    "name_in_sloppy_base64": {"mcp-name": "=?base64?bmV3X19kZWxldGVfYWxz?="},
    "name_with_another_case": {"mcp-name": "NEW__delete_all"},
    "name_with_a_suffix": {"mcp-name": "new__delete_all, new__echo"},
    "name_of_the_upstream": {"mcp-name": "delete_all"},
    "no_name": {"mcp-name": None},
    "empty_name": {"mcp-name": ""},
    "another_method": {"mcp-method": "tools/list"},
    "no_method": {"mcp-method": None},
    "another_revision": {"mcp-protocol-version": "2025-11-25"},
    "no_revision": {"mcp-protocol-version": None},
}


@pytest.mark.parametrize("name", MISMATCHES)
async def test_headers_that_say_something_else_than_the_body_stop_the_request(attacked: Planes, name: str) -> None:
    """A30: what a proxy in front decided on would not be what runs."""
    message = modern_message("tools/call", {"name": "new__delete_all", "arguments": {}})
    given = {**modern_headers(message), **MISMATCHES[name], **bearer(attacked.key)}
    headers = {key: value for key, value in given.items() if value is not None}
    since = attacked.since_now()
    async with attacked.http.post(attacked.running.mcp, json=message, headers=headers) as response:
        answer = await response.json()
    assert (response.status, answer["error"]["code"]) == (400, -32020)
    assert since.nothing_happened()


@pytest.mark.parametrize("header", ["mcp-name", "mcp-method", "mcp-protocol-version", "mcp-param-region"])
async def test_a_routing_header_twice_stops_the_request(attacked: Planes, header: str) -> None:
    """A30: also when both say the same."""
    message = modern_message("tools/call", {"name": "new__move", "arguments": {"region": "eu"}})
    headers = {**modern_headers(message), "mcp-param-region": "eu", **bearer(attacked.key)}
    since = attacked.since_now()
    for value in (headers[header], "other"):
        sent = request(
            attacked.port, headers=headers, more=f"{header}: {value}\r\n".encode(), body=orjson.dumps(message)
        )
        assert (await send(attacked.port, sent)).error == (400, -32020)
    assert since.nothing_happened()


async def test_legacy_headers_decide_nothing_but_session_and_revision(attacked: Planes) -> None:
    """A30: routing headers of the newer revision on an older session are not believed; policy reads the body."""
    session = await LegacySession(attacked.http, attacked.running.mcp).open(None, **bearer(attacked.key))
    since = attacked.since_now()
    headers = {**session.headers, **bearer(attacked.key), "mcp-name": "new__echo", "mcp-method": "tools/list"}
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "new__delete_all", "arguments": {}}}
    async with attacked.http.post(attacked.running.mcp, json=body, headers=headers) as response:
        assert response.status == 200
    (seen,) = since.dispatched
    assert (seen.json["params"]["name"], seen.headers["mcp-name"]) == ("delete_all", "delete_all")
    assert [line["name"] for line in since.records if line["event"] == "opened"] == ["new__delete_all"]


INJECTIONS = (
    "a\r\nX-Evil: 1",
    "a\nX-Evil: 1",
    "a\rX-Evil: 1",
    "\r\n\r\nPOST /mcp HTTP/1.1",
    "a\x00b",
    "=?base64?YQ==?=",
)


def _encoded(value: str) -> str:
    return "=?base64?" + base64.b64encode(value.encode()).decode() + "?="


@pytest.mark.parametrize("value", INJECTIONS)
async def test_an_argument_that_goes_into_a_header_cannot_leave_it(attacked: Planes, value: str) -> None:
    """A32: what the client's base64 holds is encoded again; on the wire to the upstream there is one harmless line."""
    message = modern_message("tools/call", {"name": "new__move", "arguments": {"region": value}})
    headers = {**modern_headers(message), **bearer(attacked.key)}
    since = attacked.since_now()
    async with attacked.http.post(
        attacked.running.mcp, json=message, headers={**headers, "mcp-param-region": _encoded(value)}
    ) as response:
        assert response.status == 200
    (seen,) = since.dispatched
    assert seen.headers["mcp-param-region"] == _encoded(value)
    assert seen.json["params"]["arguments"] == {"region": value}
    assert set(seen.headers) <= MODERN | {"mcp-param-region"}

    since = attacked.since_now()
    for other in (_encoded(value + "x"), _encoded("eu"), "eu", "", "=?base64?AAAA=?="):
        async with attacked.http.post(
            attacked.running.mcp, json=message, headers={**headers, "mcp-param-region": other}
        ) as response:
            answer = await response.json()
        assert (response.status, answer["error"]["code"]) == (400, -32020), other
    assert since.nothing_happened()


@pytest.mark.parametrize("value", INJECTIONS)
async def test_an_uri_that_goes_into_a_header_cannot_leave_it(attacked: Planes, value: str) -> None:
    """A32: `Mcp-Name` of a read is the client's text."""
    uri = f"note:{value}"
    message = modern_message("resources/read", {"uri": uri})
    headers = {**modern_headers(message), "mcp-name": _encoded(uri), **bearer(attacked.key)}
    since = attacked.since_now()
    async with attacked.http.post(attacked.running.server("new"), json=message, headers=headers) as response:
        await response.read()
    for seen in since.dispatched:
        assert set(seen.headers) <= MODERN
        assert seen.headers["mcp-name"] in {uri, _encoded(uri)}
        assert seen.json["params"]["uri"] == uri
    assert len(since.dispatched) <= 1
    await attacked.assert_alive()
