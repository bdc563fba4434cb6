"""Clients that ask for much and read little: bounded queues, then disconnected, while everybody else is served."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import orjson
import pytest

from gateway.edge import http
from tests.attack.burden import LONGEST_TURN, Burden
from tests.attack.planes import Planes, planes
from tests.attack.raw import request, tool_call
from tests.attack.raw_upstream import RawUpstream, Wire, raw
from tests.support.gateway import BOTH, modern_headers, modern_message
from tests.support.upstreams import ScriptedUpstream

READERS = 30
MIB = 1024 * 1024
PATIENCE = 0.4
SECONDS = 30
_SOCKETS = Path("/proc/net/tcp")
_ESTABLISHED = "01"
STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
LOUD = orjson.dumps(
    {"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "error", "data": "x" * 60_000}}
)
BIG = "y" * 200_000


@pytest.fixture(scope="module")
async def attacked(
    database_url: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[tuple[Planes, RawUpstream]]:
    """A good upstream, and one that floods for ever or answers with much, as its calls say."""

    async def act(wire: Wire, call: dict[str, Any]) -> None:
        if call["params"]["arguments"].get("big"):
            await wire.answer(call, {"content": [{"type": "text", "text": BIG}]})
            return
        with suppress(ConnectionError):
            await wire.send(STREAM)
            while True:
                await wire.send(b"data: " + LOUD + b"\n\n")

    state = tmp_path_factory.mktemp("state")
    good = ScriptedUpstream(resources=[{"uri": "note:open", "name": "open"}])
    settings = {"raw": {"deadline": SECONDS}}
    async with (
        raw(act) as upstream,
        planes(database_url, state, settings=settings, others={"raw": upstream.url}, one=good) as found,
    ):
        await found.assert_alive()
        yield found, upstream


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "SLOW_READER_SECONDS", PATIENCE)


@asynccontextmanager
async def _connected(port: int, sent: bytes) -> AsyncIterator[socket.socket]:
    """A connection with a small window, on which `sent` was sent and nothing is read."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.setblocking(False)
    loop = asyncio.get_running_loop()
    try:
        await loop.sock_connect(connection, ("127.0.0.1", port))
        await loop.sock_sendall(connection, sent)
        yield connection
    finally:
        connection.close()


async def _sip(connection: socket.socket) -> None:
    """Reads a byte every few milliseconds until the connection is closed."""
    loop = asyncio.get_running_loop()
    with suppress(ConnectionError):
        while await loop.sock_recv(connection, 1):
            due = asyncio.Event()
            loop.call_later(0.02, due.set)
            await due.wait()


def _held(port: int, *readers: socket.socket) -> int:
    """How many of the readers' connections the replica still has open, as the kernel says."""
    theirs = {reader.getsockname()[1] for reader in readers}
    rows = [line.split() for line in _SOCKETS.read_text(encoding="ascii").splitlines()[1:]]
    ours = [(int(row[1][-4:], 16), int(row[2][-4:], 16)) for row in rows if row[3] == _ESTABLISHED]
    return sum(local == port and remote in theirs for local, remote in ours)


async def _until(holds: Callable[[], bool], meanwhile: Callable[[], Awaitable[None]]) -> None:
    """Goes on with something until a condition holds."""
    async with asyncio.timeout(SECONDS):
        while not holds():
            await meanwhile()


@pytest.mark.parametrize("sipping", [False, True], ids=["reading_nothing", "reading_byte_by_byte"])
async def test_readers_that_hardly_read_are_disconnected(attacked: tuple[Planes, RawUpstream], sipping: bool) -> None:
    """A55: thirty streams of calls that never end; each costs its buffers for as long as our patience lasts."""
    found, upstream = attacked
    message = modern_message(
        "tools/call",
        {"name": "raw__echo", "arguments": {}},
        meta={"io.modelcontextprotocol/logLevel": "debug"},
    )
    sent = request(found.port, headers=modern_headers(message), body=orjson.dumps(message))
    since = found.since_now()
    async with AsyncExitStack() as stack, Burden() as burden:
        readers = [await stack.enter_async_context(_connected(found.port, sent)) for _ in range(READERS)]
        sips = [asyncio.create_task(_sip(reader)) for reader in readers] if sipping else []
        await _until(lambda: len(_closed(since)) >= READERS, found.assert_alive)
        await _until(lambda: not _held(found.port, *readers), found.assert_alive)
        for sip in sips:
            sip.cancel()
        await asyncio.gather(*sips, return_exceptions=True)
    assert {line["outcome"] for line in _closed(since)} == {"cancelled"}
    assert burden.grown < 2 * READERS * MIB
    assert burden.longest_turn < LONGEST_TURN
    async with asyncio.timeout(SECONDS):
        for wire in upstream.wires[-READERS:]:
            await wire.gone()
    await found.assert_alive()


def _closed(since: Any) -> list[dict[str, Any]]:
    """Ends of the attackers' calls on record."""
    opened = {line["record"] for line in since.records if line["event"] == "opened" and line["name"] == "raw__echo"}
    return [line for line in since.records if line["event"] == "closed" and line["record"] in opened]


async def test_answers_that_nobody_takes_are_not_piled_up(attacked: tuple[Planes, RawUpstream]) -> None:
    """A55: a hundred pipelined requests for 200 kB each; the connection ends after the first ones."""
    found, upstream = attacked
    headers, body = tool_call("raw__echo", {"big": True})
    sent = request(found.port, headers=headers, body=body) * 100
    calls = len(upstream.calls)
    async with Burden() as burden, _connected(found.port, sent) as reader:
        await _until(lambda: len(upstream.calls) > calls, found.assert_alive)
        await _until(lambda: not _held(found.port, reader), found.assert_alive)
    assert len(upstream.calls) - calls < 100
    assert burden.grown < 16 * MIB


async def test_a_channel_that_is_not_read_is_closed(
    attacked: tuple[Planes, RawUpstream], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A55: five hundred answers of 200 kB for a client that posts and never looks, long before patience ends."""
    monkeypatch.setattr(http, "SLOW_READER_SECONDS", 10 * SECONDS)
    found, upstream = attacked
    opening = request(found.port, line=b"GET /sse HTTP/1.1", headers={"accept": "text/event-stream"}, length=False)
    plain = {"content-type": "application/json", "accept": BOTH}
    hello = {"protocolVersion": "2024-11-05", "capabilities": {}, "clientInfo": {"name": "a", "version": "1"}}
    loop = asyncio.get_running_loop()
    calls = len(upstream.calls)
    async with Burden() as burden, _connected(found.port, opening) as reader:
        head = b""
        while b"channel=" not in head or not head.endswith(b"\n\n\r\n"):
            head += await loop.sock_recv(reader, 1)
        address = head.partition(b"data: ")[2].partition(b"\n")[0].decode()

        async def post(method: str, params: dict[str, Any]) -> int:
            message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
            url = found.running.origin + address
            async with found.http.post(url, json=message, headers=plain) as response:
                return response.status

        async with asyncio.timeout(SECONDS):
            assert await post("initialize", hello) == 202
            statuses = {202}
            while 404 not in statuses and len(upstream.calls) - calls < 500:
                params = {"name": "raw__echo", "arguments": {"big": True}}
                statuses = set(await asyncio.gather(*(post("tools/call", params) for _ in range(20))))
    assert len(upstream.calls) - calls < 500
    assert burden.grown < 32 * MIB
    await found.assert_alive()


async def test_a_listen_that_is_not_read_is_closed(attacked: tuple[Planes, RawUpstream]) -> None:
    """A55: an upstream that tells of ever new resources, to a client that wanted to hear of them and does not look."""
    found, _ = attacked
    upstream = found.upstream
    wanted = {"notifications": {"resourceSubscriptions": ["one+note:open"]}}
    message = modern_message("subscriptions/listen", wanted)
    sent = request(found.port, headers=modern_headers(message), body=orjson.dumps(message))
    count = len(upstream.listening)
    async with Burden() as burden, _connected(found.port, sent) as reader:
        await _until(lambda: len(upstream.listening) > count, found.assert_alive)
        telling = upstream.listening[-1]
        number = 0

        async def tell() -> None:
            nonlocal number
            for _ in range(50):
                number += 1
                params = {"uri": f"note:open/{number}/{'z' * 4000}"}
                await telling.notify("notifications/resources/updated", params)
            await found.assert_alive()

        await _until(lambda: len(upstream.listening) == count, tell)
        await _until(lambda: not _held(found.port, reader), found.assert_alive)
    assert burden.grown < 32 * MIB
    assert burden.longest_turn < LONGEST_TURN
    await found.assert_alive()
