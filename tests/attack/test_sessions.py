"""Gateway sessions that are not the caller's: unknown, malformed, deleted, somebody else's, of another door."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.attack.planes import REQUIRED, Planes, bearer, issue_key, planes
from tests.attack.raw import request, send
from tests.support.gateway import BOTH, LegacySession
from tests.support.upstreams import ScriptedUpstream

CALL = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "one__echo", "arguments": {}}}
GONE = {"jsonrpc": "2.0", "error": {"code": -32600, "message": "Session not found"}}


@pytest.fixture(scope="module")
async def attacked(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Planes]:
    key = await issue_key(database_url)
    state = tmp_path_factory.mktemp("state")
    upstream = ScriptedUpstream("legacy")
    async with planes(database_url, state, gateway=REQUIRED, key=key, one=upstream) as found:
        yield found


async def _everything(found: Planes, url: str, headers: dict[str, str]) -> list[tuple[str, int, Any]]:
    """POST of a request, a notification and an answer, GET, replay, DELETE: verb, status and JSON body of each."""
    messages: list[dict[str, Any]] = [
        CALL,
        {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}},
        {"jsonrpc": "2.0", "id": "x", "result": {}},
    ]
    answers = []
    for message in messages:
        async with found.http.post(url, json=message, headers=headers) as response:
            answers.append(("POST", response.status, await response.json()))
    replay = {**headers, "last-event-id": f"{'0' * 24}-0"}
    for method, sent in (("GET", headers), ("GET", replay), ("DELETE", headers)):
        async with found.http.request(method, url, headers=sent) as response:
            answers.append((method, response.status, await response.json()))
    return answers


async def test_a_session_belongs_to_one_principal_and_one_endpoint(database_url: str, attacked: Planes) -> None:
    """A26, CVE-2026-52869: 404 to everybody else, word for word the same as for one that never was."""
    own = LegacySession(attacked.http, attacked.running.mcp)
    await own.open(None, **bearer(attacked.key))
    deleted = await LegacySession(attacked.http, attacked.running.mcp).open(None, **bearer(attacked.key))
    async with attacked.http.delete(deleted.url, headers={**deleted.headers, **bearer(attacked.key)}) as response:
        assert response.status == 200
    stranger = await issue_key(database_url)
    since = attacked.since_now()
    mcp, server = attacked.running.mcp, attacked.running.server("one")
    foreign = {
        "another principal": (mcp, own.session_id, stranger),
        "another principal, once more": (mcp, own.session_id, stranger),
        "another endpoint": (server, own.session_id, attacked.key),
        "another version": (f"{attacked.running.origin}/servers/one@1/mcp", own.session_id, attacked.key),
        "deleted": (mcp, deleted.session_id, attacked.key),
        "deleted, another principal": (mcp, deleted.session_id, stranger),
        "unknown": (mcp, "A" * 43, attacked.key),
    }
    for name, (url, session_id, key) in foreign.items():
        headers = {**own.headers, **bearer(key), "mcp-session-id": session_id}
        assert await _everything(attacked, url, headers) == [
            *([("POST", 404, GONE)] * 3),
            *([("GET", 404, GONE)] * 2),
            ("DELETE", 404, GONE),
        ], name
    assert since.nothing_happened()
    headers = {**own.headers, **bearer(attacked.key)}
    async with attacked.http.post(mcp, json=CALL, headers=headers) as response:  # it lives, whoever tried to end it
        assert response.status == 200
    await attacked.assert_alive()


async def test_what_is_no_session_id_is_not_looked_up(attacked: Planes) -> None:
    """A26: any bytes at all in the header."""
    since = attacked.since_now()
    own = await LegacySession(attacked.http, attacked.running.mcp).open(None, **bearer(attacked.key))
    malformed = [
        *(b" ", b"x", b"null", b"0", b"A" * 42, b"A" * 44, b"A" * 10_000, b"../../etc/passwd", b"' OR '1'='1", b"%00"),
        *(b"A" * 42 + b"\xff", b"\xc3\xa4" * 20, b"A" * 42 + b"=", own.session_id.encode() + b", x"),
        *(own.session_id.swapcase().encode(), own.session_id.encode()[:-1] + b"\xb2"),
    ]
    plain = {"content-type": "application/json", "accept": BOTH, **bearer(attacked.key)}
    for value in malformed:
        for method in ("POST", "GET", "DELETE"):
            body = b'{"jsonrpc":"2.0","id":1,"method":"ping"}' if method == "POST" else b""
            line = f"{method} /mcp HTTP/1.1".encode()
            more = b"mcp-session-id: " + value + b"\r\n"
            answer = await send(attacked.port, request(attacked.port, line=line, headers=plain, more=more, body=body))
            assert (answer.status, answer.json) == (404, GONE), (method, value)
    assert since.nothing_happened()
    await attacked.assert_alive()


async def test_two_session_headers_are_none(attacked: Planes) -> None:
    """A26: which of them counts is not left to the reader."""
    one = await LegacySession(attacked.http, attacked.running.mcp).open(None, **bearer(attacked.key))
    two = await LegacySession(attacked.http, attacked.running.mcp).open(None, **bearer(attacked.key))
    plain = {"content-type": "application/json", "accept": BOTH}
    credential = f"authorization: Bearer {attacked.key}\r\n".encode()
    lines = [b"mcp-session-id: " + session.session_id.encode() + b"\r\n" for session in (one, two)]
    body = b'{"jsonrpc":"2.0","id":1,"method":"ping"}'
    for more in (credential + lines[0] + lines[1], credential + lines[0] + lines[0], credential * 2 + lines[0]):
        answer = await send(attacked.port, request(attacked.port, headers=plain, more=more, body=body))
        assert answer.error == (400, -32600)


async def test_a_session_header_is_required_after_initialize(attacked: Planes) -> None:
    """A26: 400, so that a client does not take it for a session that ended; and no revision that is not one."""
    own = await LegacySession(attacked.http, attacked.running.mcp).open(None, **bearer(attacked.key))
    headers = {**own.headers, **bearer(attacked.key)}
    without = {name: value for name, value in headers.items() if name != "mcp-session-id"}
    since = attacked.since_now()
    for sent in (without, {**headers, "mcp-protocol-version": "1999-01-01"}, {**headers, "mcp-protocol-version": ""}):
        answers = await _everything(attacked, attacked.running.mcp, sent)
        assert [(status, body["error"]["code"]) for _, status, body in answers] == [(400, -32600)] * 6
    assert since.nothing_happened()


async def test_a_session_of_somebody_else_stays_theirs_on_another_replica(
    database_url: str, tmp_path: Path, attacked: Planes
) -> None:
    """A26: a second replica, which has just started, tells the two apart as well."""
    own = await LegacySession(attacked.http, attacked.running.mcp).open(None, **bearer(attacked.key))
    stranger = await issue_key(database_url)
    async with planes(database_url, tmp_path, gateway=REQUIRED, key=attacked.key, one=attacked.upstream) as second:
        since = second.since_now()
        headers = {**own.headers, **bearer(stranger)}
        assert {status for _, status, _ in await _everything(second, second.running.mcp, headers)} == {404}
        assert since.nothing_happened()
        headers = {**own.headers, **bearer(second.key)}
        async with second.http.post(second.running.mcp, json=CALL, headers=headers) as response:
            assert response.status == 200


async def test_a_channel_takes_no_messages_of_others(database_url: str, attacked: Planes) -> None:
    """A26: the address of an HTTP+SSE channel is of use to its owner only, and to nobody after it closed."""
    origin = attacked.running.origin
    sent = {"content-type": "application/json", "accept": BOTH}
    stranger = await issue_key(database_url)
    ping = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    since = attacked.since_now()

    async def post(address: str, key: str | None) -> tuple[int, Any]:
        async with attacked.http.post(origin + address, json=ping, headers={**sent, **bearer(key)}) as response:
            return response.status, await response.json(content_type=None) if response.status != 202 else None

    async with attacked.http.get(f"{origin}/sse", headers={**sent, **bearer(attacked.key)}) as channel:
        await channel.content.readuntil(b"event: endpoint\n")
        address = (await channel.content.readline()).removeprefix(b"data: ").decode().strip()
        assert await post(address, stranger) == (404, GONE)
        assert (await post(address, None))[0] == 401
        for unknown in (
            "/sse",
            "/sse?channel=",
            f"{address}x",
            address[:13] + address[13:].swapcase(),
            f"/sse?Channel={address[13:]}",
        ):
            assert await post(unknown, attacked.key) == (404, GONE), unknown
        assert await post(address, attacked.key) == (202, None)
        first = await asyncio.wait_for(channel.content.readuntil(b"\n\n"), 10)
        while b"data:" not in first:
            first = await asyncio.wait_for(channel.content.readuntil(b"\n\n"), 10)
        assert first.count(b"initialize first") == 1  # the owner's message alone was answered
    async with asyncio.timeout(10):
        while await post(address, attacked.key) != (404, GONE):
            pass
    assert since.nothing_happened()


async def test_session_ids_cannot_be_guessed(attacked: Planes) -> None:
    """A28: 256 bits each, of which every position takes every value about equally often."""
    ids = []
    for _ in range(60):
        session = await LegacySession(attacked.http, attacked.running.mcp).open(None, **bearer(attacked.key))
        ids.append(session.session_id)
    assert len(set(ids)) == len(ids)
    assert {len(each) for each in ids} == {43}  # 43 characters of 6 bits hold 256
    counts = Counter("".join(each[:-1] for each in ids))
    assert len(counts) == 64
    expected = 60 * 42 / 64
    # Chi squared of 63 degrees of freedom: above 130 once in a million.
    assert sum((count - expected) ** 2 / expected for count in counts.values()) < 130
