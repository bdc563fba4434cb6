"""Bodies made to cost more than they are worth: refused early, in bounded memory, while everybody else is served."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import orjson
import pytest

from tests.attack.burden import LONGEST_TURN, Burden
from tests.attack.planes import Planes, planes
from tests.attack.raw import request, send, tool_call
from tests.support.gateway import BOTH, LegacySession
from tests.support.upstreams import ScriptedUpstream

MIB = 1024 * 1024
SIZE = 50 * MIB
PIECE = b"x" * 65_536
ROOM = 8 * MIB
"""Twice the largest accepted body: what was read of it, and once more while it is looked at."""


@pytest.fixture(scope="module")
async def attacked(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Planes]:
    async with planes(database_url, tmp_path_factory.mktemp("state"), one=ScriptedUpstream()) as found:
        await found.assert_alive()
        yield found


async def _heads(attacked: Planes) -> dict[str, bytes]:
    """The head of a request without its length, for every door that reads bodies."""
    modern, _ = tool_call()
    session = await LegacySession(attacked.http, attacked.running.mcp).open()
    plain = {"content-type": "application/json", "accept": BOTH}
    doors = {"/mcp": modern, "/servers/one/mcp": modern, "/mcp?session": session.headers, "/sse?channel=none": plain}
    return {
        path: request(attacked.port, line=f"POST {path} HTTP/1.1".encode(), headers=headers, length=False).removesuffix(
            b"\r\n"
        )
        for path, headers in doors.items()
    }


async def test_50_mib_are_refused_before_they_are_read(attacked: Planes) -> None:
    """A33: the length that is declared is enough."""
    for path, head in (await _heads(attacked)).items():
        since = attacked.since_now()
        async with Burden() as burden:
            answer = await send(attacked.port, head + b"content-length: %d\r\n\r\n" % SIZE)
        assert answer.error == (413, -32600), path
        assert burden.longest_turn < LONGEST_TURN, path
        assert since.nothing_happened()
    await attacked.assert_alive()


@pytest.mark.parametrize("declared", [True, False], ids=["with_length", "in_chunks"])
async def test_50_mib_that_are_sent_all_the_same_are_not_kept(attacked: Planes, declared: bool) -> None:
    """A33."""
    for path, head in (await _heads(attacked)).items():
        framing = b"content-length: %d\r\n\r\n" % SIZE if declared else b"transfer-encoding: chunked\r\n\r\n"
        piece = PIECE if declared else b"10000\r\n" + PIECE + b"\r\n"
        since = attacked.since_now()
        async with Burden() as burden:
            answer = await send(attacked.port, head + framing, (piece for _ in range(SIZE // len(PIECE))))
        assert answer.error == (413, -32600), path
        assert burden.grown < ROOM, path
        assert burden.longest_turn < LONGEST_TURN, path
        assert since.nothing_happened()
    await attacked.assert_alive()


DEEP: dict[str, bytes] = {
    "arrays": b"[" * 10_000 + b"]" * 10_000,
    "objects": b'{"a":' * 10_000 + b"0" + b"}" * 10_000,
    "arrays_never_closed": b"[" * 10_000,
    "4_mib_of_arrays": b"[" * (2 * MIB - 300) + b"]" * (2 * MIB - 300),
    "4_mib_of_opening_brackets": b"[" * (4 * MIB - 300),
    "4_mib_of_closing_brackets": b"]" * (4 * MIB - 300),
    "4_mib_of_quotes": b'"' * (4 * MIB - 300),
    "4_mib_of_backslashes": b'"' + b"\\" * (4 * MIB - 300),
    "4_mib_of_one_number": b"1" * (4 * MIB - 300),
    "4_mib_of_spaces": b" " * (4 * MIB - 300),
}


@pytest.mark.parametrize("name", DEEP)
async def test_a_deep_or_senseless_body_holds_nobody_up(attacked: Planes, name: str) -> None:
    """A33: within one turn of the event loop and a bound of memory."""
    headers, call = tool_call(arguments={"a": 0})
    text = DEEP[name]
    inside = call.replace(b'{"a":0}', b'{"a":' + text + b"}")
    for body in [inside] if len(text) > MIB else [text, inside]:
        since = attacked.since_now()
        pieces = [body[at : at + len(PIECE)] for at in range(0, len(body), len(PIECE))]
        async with Burden() as burden:
            answer = await send(
                attacked.port,
                request(attacked.port, headers=headers, more=b"content-length: %d\r\n" % len(body), length=False),
                pieces,
            )
        assert answer.status == 400
        assert orjson.loads(answer.body)["error"]["code"] == -32700
        assert burden.longest_turn < LONGEST_TURN
        assert burden.grown < 8 * ROOM
        assert since.nothing_happened()
    await attacked.assert_alive()


async def test_a_body_that_ends_early_is_no_request(attacked: Planes) -> None:
    """A33: the connection closes in the middle of the body."""
    headers, call = tool_call()
    since = attacked.since_now()
    sent = request(attacked.port, headers=headers, more=b"content-length: %d\r\n" % len(call), length=False)
    _, writer = await asyncio.open_connection("127.0.0.1", attacked.port)
    writer.write(sent + call[:-1])
    await writer.drain()
    writer.transport.abort()
    await attacked.assert_alive()
    assert [seen.json["params"]["arguments"].keys() for seen in since.dispatched] == [{"nonce"}]
