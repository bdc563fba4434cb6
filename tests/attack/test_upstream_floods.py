"""Upstreams that send more than anybody asked for: cut off in bounded memory, dropped, or told once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from typing import Any

import orjson
import pytest
from structlog.testing import capture_logs

from tests.attack.burden import LONGEST_TURN, Burden
from tests.attack.planes import Planes, planes
from tests.attack.raw_upstream import RawUpstream, Wire, raw
from tests.support.gateway import LegacySession, messages_of, modern_headers, modern_message
from tests.support.upstreams import TOOL, Exchange, ScriptedUpstream

MIB = 1024 * 1024
CAP = MIB
"""`max_event_bytes` of the upstreams here."""
PIECE = b"x" * 65_536
SECONDS = 30
STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
LONG_STREAM = STREAM.replace(b"\r\n\r\n", b"\r\ncontent-length: 1000000000\r\n\r\n")
JSON = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
CHUNKS = b"transfer-encoding: chunked\r\n\r\n"


def _notification(method: str, **params: Any) -> bytes:
    text = orjson.dumps({"jsonrpc": "2.0", "method": method, "params": params})
    return b"event: message\ndata: " + text + b"\n\n"


FLOODS: dict[str, tuple[bytes, bytes]] = {
    "an_event": (STREAM + b"data: ", PIECE),
    "an_event_of_many_lines": (STREAM, (b"data: " + b"x" * 500 + b"\n") * 128),
    "an_event_of_said_length": (LONG_STREAM + b"data: ", PIECE),
    "an_id": (STREAM + b"id: ", PIECE),
    "a_comment": (STREAM + b":", PIECE),
    "a_body_of_said_length": (JSON + b'content-length: 104857600\r\n\r\n{"a":"', PIECE),
    "a_body_in_chunks": (JSON + CHUNKS, b"10000\r\n" + PIECE + b"\r\n"),
    "a_body_until_the_end": (JSON + b'\r\n{"a":"', PIECE),
    "a_chunk_extension": (JSON + CHUNKS + b"5;", PIECE),
    "a_header": (JSON + b"x: ", PIECE),
    "headers": (JSON, b"x: " + b"y" * 1000 + b"\r\n"),
    "a_reason": (b"HTTP/1.1 200 ", PIECE),
    "interim_answers": (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100),
    "trailers": (JSON + CHUNKS + b"1\r\n{\r\n0\r\nx: ", PIECE),
}


@pytest.fixture(scope="module")
async def flooding(
    database_url: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[tuple[Planes, RawUpstream]]:
    """A good upstream, and one whose calls name the flood they want."""

    async def flood(wire: Wire, request: dict[str, Any]) -> None:
        begin, piece = FLOODS[request["params"]["arguments"]["flood"]]
        with suppress(ConnectionError):
            await wire.send(begin)
            for _ in range(100 * MIB // len(piece)):
                await wire.send(piece)
        wire.writer.close()

    state = tmp_path_factory.mktemp("state")
    settings = {"raw": {"max_event_bytes": CAP, "deadline": 5}}
    async with (
        raw(flood) as upstream,
        planes(database_url, state, settings=settings, others={"raw": upstream.url}, one=ScriptedUpstream()) as found,
    ):
        await found.assert_alive()
        yield found, upstream


@pytest.mark.parametrize("name", FLOODS)
async def test_100_mb_of_anything_are_cut_off(flooding: tuple[Planes, RawUpstream], name: str) -> None:
    """A22, A55: within a few times the cap, while others are served."""
    found, _ = flooding
    since = found.since_now()
    async with asyncio.timeout(SECONDS), Burden() as burden:
        calling = asyncio.create_task(found.call("raw__echo", {"flood": name}))
        await found.assert_alive()
        status, answer = await calling
    assert (status, answer["result"]["isError"]) == (200, True)
    assert [line["outcome"] for line in since.records if line["event"] == "closed"] == ["result", "failed"]
    assert burden.grown < 8 * CAP
    assert burden.longest_turn < LONGEST_TURN
    await found.assert_alive()


async def _flood(exchange: Exchange, notifications: Iterator[bytes]) -> None:
    await exchange.stream()
    for notification in notifications:
        await exchange.raw(notification)
    await exchange.event({"jsonrpc": "2.0", "id": exchange.id, "result": {"content": []}}, last=True)


def _unknown(exchange: Exchange) -> Iterator[bytes]:
    del exchange
    return (_notification("notifications/made/up", n=n) * 500 for n in range(40))


def _list_changed(exchange: Exchange) -> Iterator[bytes]:
    del exchange
    return (_notification("notifications/tools/list_changed") * 500 for _ in range(40))


def _foreign_progress(exchange: Exchange) -> Iterator[bytes]:
    del exchange
    return (_notification("notifications/progress", progressToken=n, progress=1) * 500 for n in range(40))


def _backward_progress(exchange: Exchange) -> Iterator[bytes]:
    return (_notification("notifications/progress", progressToken=exchange.id, progress=1) * 500 for _ in range(40))


def _logs(exchange: Exchange) -> Iterator[bytes]:
    del exchange
    return (_notification("notifications/message", level="debug", data="x") * 500 for _ in range(40))


@pytest.fixture(scope="module")
async def noisy(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Planes]:
    state = tmp_path_factory.mktemp("state")
    async with planes(database_url, state, one=ScriptedUpstream(), loud=ScriptedUpstream()) as found:
        yield found


@pytest.mark.parametrize("flood", [_unknown, _list_changed, _foreign_progress, _backward_progress, _logs])
async def test_20000_notifications_that_nobody_asked_for_go_nowhere(
    noisy: Planes, flood: Callable[[Exchange], Iterator[bytes]]
) -> None:
    """A55: the client sees its answer, and at most one of them; lists are read again a few times, not 20,000."""
    loud = noisy.upstreams["loud"]
    loud.acts["tools/call"] = lambda exchange: _flood(exchange, flood(exchange))
    try:
        message = modern_message("tools/call", {"name": "loud__echo", "arguments": {}}, meta={"progressToken": "p"})
        headers = modern_headers(message)
        async with asyncio.timeout(SECONDS), Burden() as burden:
            request = noisy.http.post(noisy.running.mcp, json=message, headers=headers)
            async with request as response:
                await noisy.assert_alive()
                messages = await messages_of(response)
    finally:
        del loud.acts["tools/call"]
    assert messages[-1]["result"]["content"] == []
    assert len(messages) <= 2
    assert burden.grown < 8 * MIB
    assert burden.longest_turn < LONGEST_TURN
    assert len(loud.requests("tools/list")) < 50
    await noisy.assert_alive()


@pytest.mark.parametrize("client_era", ["modern", "legacy"])
async def test_requests_of_a_server_without_sessions_reach_nobody(noisy: Planes, client_era: str) -> None:
    """The revision has none: dropped and logged, neither shown to a client nor answered."""
    loud = noisy.upstreams["loud"]

    async def asking(exchange: Exchange) -> None:
        await exchange.stream()
        for number, method in enumerate(("sampling/createMessage", "elicitation/create", "roots/list", "ping", "x")):
            await exchange.event({"jsonrpc": "2.0", "id": number, "method": method, "params": {}})
        await exchange.event({"jsonrpc": "2.0", "id": exchange.id, "result": {"content": []}}, last=True)

    loud.acts["tools/call"] = asking
    try:
        since = noisy.since_now()
        params = {"name": "loud__echo", "arguments": {}}
        with capture_logs() as logs:
            if client_era == "modern":
                message = modern_message("tools/call", params, capabilities={"elicitation": {}, "sampling": {}})
                headers = modern_headers(message)
                async with noisy.http.post(noisy.running.mcp, json=message, headers=headers) as response:
                    messages = await messages_of(response)
            else:
                session = await LegacySession(noisy.http, noisy.running.mcp).open({"sampling": {}, "roots": {}})
                body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
                _, messages = await session.send(body)
        assert [message.get("id") for message in messages] == [1]
        assert len([entry for entry in logs if entry["event"] == "server_request_dropped"]) == 5
        assert [seen.json["method"] for seen in since.dispatched] == ["tools/call"]
    finally:
        del loud.acts["tools/call"]


async def test_endless_pages_end(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A list whose cursor always leads on is cut off, and what was read of it is served."""
    pages = iter(range(10**9))

    async def more(exchange: Exchange) -> None:
        number = next(pages)
        tool = {**TOOL, "name": "echo" if number == 0 else f"echo{number}"}
        await exchange.result({"tools": [tool], "nextCursor": str(number), "ttlMs": 60_000, "cacheScope": "public"})

    upstream = ScriptedUpstream(acts={"tools/list": more})
    async with (
        asyncio.timeout(SECONDS),
        planes(database_url, tmp_path_factory.mktemp("state"), one=upstream) as found,
    ):
        while len((await found.ask("tools/list"))[1]["result"]["tools"]) < 100:
            pass
        assert len(upstream.requests("tools/list")) == 100
        await found.assert_alive()
