"""Upstreams of the first revision: all that a holder gets comes down one stream, whatever the upstream puts there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from gateway.upstream import http_sse
from tests.attack.planes import REQUIRED, Planes, bearer, issue_key, planes
from tests.support.gateway import LegacySession, messages_of
from tests.support.upstream_eras import SseUpstream
from tests.support.upstreams import Exchange, ScriptedUpstream, scripted

SECONDS = 10
BROKEN, GONE = "upstream_protocol_error", "outcome_unknown"
SSE = {"one": {"version": {"transport": "sse"}, "deadline": 3, "max_event_bytes": 65_536}}


def _text(text: str) -> dict[str, Any]:
    return {"content": [{"type": "text", "text": text}]}


def _result(request_id: Any, text: str) -> bytes:
    return b"data: " + orjson.dumps({"jsonrpc": "2.0", "id": request_id, "result": _text(text)}) + b"\n\n"


async def _end(exchange: Exchange) -> None:
    await exchange._send({"type": "http.response.body", "body": b""})


def _sends(*pieces: bytes) -> Callable[[Exchange], Awaitable[None]]:
    async def act(exchange: Exchange) -> None:
        for piece in pieces:
            await exchange.raw(piece)

    return act


BREAKS: dict[str, tuple[Callable[[Exchange], Awaitable[None]], str]] = {
    "html": (_sends(b"data: <html></html>\n\n"), BROKEN),
    "an_event_above_the_cap": (_sends(*[b"data: " + b"x" * 20_000 + b"\n"] * 4), BROKEN),
    "a_line_above_the_cap": (_sends(b"data: ", *[b"x" * 20_000] * 4), BROKEN),
    "an_endpoint_of_another_origin": (_sends(b"event: endpoint\ndata: http://127.0.0.1:1/steal\n\n"), BROKEN),
    "params_of_a_list": (_sends(b'data: {"jsonrpc":"2.0","method":"x","params":[1]}\n\n'), BROKEN),
    "a_request_without_a_usable_id": (_sends(b'data: {"jsonrpc":"2.0","method":"x","id":{}}\n\n'), BROKEN),
    "the_end": (_end, GONE),
}


@pytest.fixture(scope="module")
async def attacked(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Planes]:
    async with planes(database_url, tmp_path_factory.mktemp("state"), settings=SSE, one=SseUpstream()) as found:
        yield found


@pytest.mark.parametrize("name", BREAKS)
async def test_a_broken_channel_fails_what_was_in_flight_and_is_opened_anew(attacked: Planes, name: str) -> None:
    """Garbage on the one stream; the next call has another."""
    act, reason = BREAKS[name]
    attacked.upstream.acts["tools/call"] = act
    since = attacked.since_now()
    async with asyncio.timeout(SECONDS):
        _, answer = await attacked.call("one__echo")
    assert answer["result"]["isError"] is True
    assert answer["result"]["_meta"]["dev.mcp-gateway/denial"]["reason"] == reason
    assert [line.get("detail") for line in since.records] == [None, reason]
    attacked.upstream.acts.clear()
    await attacked.assert_alive()


async def test_noise_on_a_channel_is_dropped(attacked: Planes) -> None:
    """A29: answers to nobody, twice, late, to others' ids, requests nobody may make; then the right answer."""

    async def act(exchange: Exchange) -> None:
        for request_id in ("x", 1, None, [exchange.id], exchange.id.upper() + "0"):
            await exchange.raw(_result(request_id, "wrong"))
        for method in ("sampling/createMessage", "roots/list", "elicitation/create", "made/up"):
            await exchange.event({"jsonrpc": "2.0", "id": method, "method": method, "params": {}})
        await exchange.raw(b"data: 7\n\ndata: []\n\n: comment\n\nevent: other\ndata: {}\n\n")
        await exchange.raw(_result(exchange.id, "right") + _result(exchange.id, "twice"))

    attacked.upstream.acts["tools/call"] = act
    for _ in range(3):
        since = attacked.since_now()
        async with asyncio.timeout(SECONDS):
            status, answer = await attacked.call("one__echo")
        assert (status, answer["result"]["content"]) == (200, _text("right")["content"])
        refused = [seen.json for seen in since.dispatched if "error" in seen.json]
        assert [each["error"]["code"] for each in refused] == [-32601] * 4
    attacked.upstream.acts.clear()
    await attacked.assert_alive()


async def test_principals_never_share_a_channel(database_url: str, tmp_path: Path) -> None:
    """A29: answered crosswise on each other's channel, both are dropped."""
    held: list[Exchange] = []
    crossed = asyncio.Event()

    async def act(exchange: Exchange) -> None:
        held.append(exchange)
        if len(held) < 2:
            return
        one, two = held
        await one.raw(_result(two.id, "of two"))
        await two.raw(_result(one.id, "of one"))
        crossed.set()

    upstream = SseUpstream(acts={"tools/call": act})
    settings = {"one": {**SSE["one"], "deadline": 0.5}}
    key = await issue_key(database_url)
    async with (
        asyncio.timeout(SECONDS),
        planes(database_url, tmp_path, gateway=REQUIRED, key=key, settings=settings, one=upstream) as found,
    ):
        keys = [key, await issue_key(database_url)]
        answers = await asyncio.gather(*(found.call("one__echo", id=1, headers=bearer(each)) for each in keys))
        assert crossed.is_set()
        assert len({exchange.seen.headers["channel"] for exchange in held}) == 2
        for _, answer in answers:
            assert answer["result"]["_meta"]["dev.mcp-gateway/denial"]["reason"] == "upstream_timeout"
            assert "of " not in orjson.dumps(answer["result"]["content"]).decode()


async def test_an_answer_after_cancellation_is_dropped_on_a_channel(attacked: Planes) -> None:
    """A29: the late answer carries a real id, and comes down a stream that is in use."""
    begun = asyncio.Event()
    late: list[Exchange] = []

    async def act(exchange: Exchange) -> None:
        if not late:
            late.append(exchange)
            begun.set()
            return
        await exchange.raw(_result(late[0].id, "late") + _result(exchange.id, "prompt"))

    attacked.upstream.acts["tools/call"] = act
    async with asyncio.timeout(SECONDS):
        session = await LegacySession(attacked.http, attacked.running.mcp).open()
        params = {"name": "one__echo", "arguments": {}}
        first = asyncio.create_task(_post(attacked, session, {"id": 1, "method": "tools/call", "params": params}))
        await begun.wait()
        await _post(attacked, session, {"method": "notifications/cancelled", "params": {"requestId": 1}})
        assert await first == []
        (answer,) = await _post(attacked, session, {"id": 1, "method": "tools/call", "params": params})
        assert answer["result"]["content"] == _text("prompt")["content"]


async def _post(found: Planes, session: LegacySession, message: dict[str, Any]) -> list[dict[str, Any]]:
    body = {"jsonrpc": "2.0", **message}
    async with found.http.post(found.running.mcp, json=body, headers=session.headers) as response:
        return [] if response.status == 202 else await messages_of(response)


ADDRESSES = ("{stranger}", "//127.0.0.1:{port}/mcp", "http://127.0.0.1:{port}@evil.example/", "ftp://x/", None)


async def test_an_upstream_cannot_name_an_address_elsewhere(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A20: requests go to the origin the operator wrote down, or nowhere; one that names none is given up."""
    monkeypatch.setattr(http_sse, "_HANDSHAKE_SECONDS", 0.3)
    stranger = ScriptedUpstream("legacy")
    asked: set[str | None] = set()

    def liar(address: str | None) -> ScriptedUpstream:
        async def opening(exchange: Exchange) -> None:
            asked.add(address)
            await exchange.stream()
            if address is not None:
                port = stranger.url.rpartition(":")[2].partition("/")[0]
                named = address.format(stranger=stranger.url, port=port)
                await exchange.raw(f"event: endpoint\ndata: {named}\n\n".encode())
            await exchange.gone()

        return ScriptedUpstream("legacy", acts={"GET": opening})

    a, b, c, d, e = map(liar, ADDRESSES)
    settings = {slug: {"version": {"transport": "sse"}} for slug in "abcde"}
    async with (
        asyncio.timeout(SECONDS),
        scripted(stranger),
        planes(database_url, tmp_path, settings=settings, one=ScriptedUpstream(), a=a, b=b, c=c, d=d, e=e) as found,
    ):
        _, answer = await found.ask("tools/list")
        assert [tool["name"] for tool in answer["result"]["tools"]] == ["one__echo"]
        assert asked == set(ADDRESSES)
        assert stranger.seen == []
        assert [seen for each in (a, b, c, d, e) for seen in each.seen if seen.method == "POST"] == []
        await found.assert_alive()
