"""A transport over real connections: which failure is which, and streams that leave their connection behind."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from catalogue.model import Server
from gateway.errors import UpstreamProtocolError, UpstreamUnavailable
from gateway.upstream import http1
from gateway.upstream.exchange import Exchange
from gateway.upstream.transport import Transport, UnknownOutcome
from tests.support.calls import MemoryOutlet, until
from tests.support.peer import LOOPS, SECONDS, TLS, Act, Side, chunked, ok, peer

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


@pytest.fixture(params=LOOPS, ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


def transport_to(url: str, **fields: Any) -> Transport:
    return Transport(Server("one", "1", url, **fields), TLS)


async def test_where_nobody_listens_nothing_was_sent() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        transport = transport_to(f"http://127.0.0.1:{bound.getsockname()[1]}/mcp")
        with pytest.raises(UpstreamUnavailable) as raised:
            await transport.request("POST", "/mcp", {}, b"{}")
    assert raised.value.reason == "upstream_unavailable"


@pytest.mark.parametrize(
    ("sent", "error"),
    [(b"", UnknownOutcome), (b"HTTP/1.1 200 OK\r\n", UnknownOutcome), (b"SSH-2.0-x\r\n", UpstreamProtocolError)],
)
async def test_what_ended_after_it_was_sent_is_told_from_what_is_no_answer(sent: bytes, error: type[Exception]) -> None:
    async def act(side: Side) -> None:
        await side.request()
        await side.send(sent)

    async with peer(act) as server:
        transport = transport_to(server.url)
        with pytest.raises(error, match="one"):
            await transport.request("POST", "/mcp", {}, b"{}")
        transport.close()


async def test_a_header_that_cannot_be_written_is_the_upstreams_fault_and_nothing_is_sent() -> None:
    async with peer(Side.gone) as server:
        with pytest.raises(UpstreamProtocolError, match="no header can hold"):
            await transport_to(server.url).request("POST", "/mcp", {"mcp-session-id": "caf\xe9"}, b"{}")
        assert not server.sides


@pytest.mark.parametrize("body", [ok(b"x" * 101), chunked(b"x" * 60, b"x" * 41)])
async def test_a_body_above_the_cap_closes_its_connection(body: bytes) -> None:
    async def act(side: Side) -> None:
        await side.serve(body)

    async with peer(act) as server:
        transport = transport_to(server.url, max_event_bytes=100)
        response = await transport.request("POST", "/mcp", {}, b"{}")
        with pytest.raises(UpstreamProtocolError, match="more than 100 bytes"):
            await transport.read(response)
        async with asyncio.timeout(SECONDS):
            await server.sides[0].ended.wait()


def event(request_id: str) -> bytes:
    data = b'data: {"jsonrpc":"2.0","id":"%s","result":{}}\n\n' % request_id.encode()
    return b"%x\r\n%b\r\n" % (len(data), data)


async def exchanged(transport: Transport, request_id: str) -> dict[str, Any]:
    exchange = Exchange(Server("one", "1", "http://one.test/mcp"), request_id, MemoryOutlet(), aside=lambda *_: None)
    response = await transport.request("POST", "/mcp", {}, b"{}")
    async with asyncio.timeout(SECONDS):
        answer = await exchange.read(transport, response, session=False)
    assert answer is not None
    return answer.value


def streaming(ends: bool) -> tuple[Act, asyncio.Event]:
    """Answers with an event stream whose end comes after its result was taken, or never."""
    taken = asyncio.Event()

    async def act(side: Side) -> None:
        while await side.request():
            await side.send(HEAD + event(str(len(side.requests))))
            await taken.wait()
            taken.clear()
            if not ends:
                await side.gone()
            await side.send(b"0\r\n\r\n")

    return act, taken


async def test_an_event_stream_that_ends_after_its_result_leaves_its_connection_to_the_next_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http1, "LINGER_SECONDS", float(SECONDS))
    act, taken = streaming(ends=True)
    async with peer(act) as server:
        transport = transport_to(server.url)
        for number in range(1, 4):
            assert await exchanged(transport, str(number)) == {}
            taken.set()
            await until(lambda: transport._origin._idle)
        assert len(server.sides) == 1
        transport.close()


async def test_an_event_stream_that_does_not_end_after_its_result_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http1, "LINGER_SECONDS", 0.05)
    act, taken = streaming(ends=False)
    async with peer(act) as server:
        transport = transport_to(server.url)
        assert await exchanged(transport, "1") == {}
        taken.set()
        async with asyncio.timeout(SECONDS):
            await server.sides[0].ended.wait()
        transport.close()


async def test_a_cancelled_stream_is_closed_at_once_and_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http1, "LINGER_SECONDS", 60.0)

    async def act(side: Side) -> None:
        await side.request()
        await side.send(HEAD + event("another"))
        await side.gone()

    async with peer(act) as server:
        transport = transport_to(server.url)
        calling = asyncio.create_task(exchanged(transport, "1"))
        await until(lambda: server.requests)
        for _ in range(20):
            await asyncio.sleep(0)
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling
        async with asyncio.timeout(SECONDS):
            await server.sides[0].ended.wait()
