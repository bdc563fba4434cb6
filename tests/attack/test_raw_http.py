"""Bytes on which two HTTP parsers would not agree where a request ends, or whom it is for."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.attack.burden import LONGEST_TURN, Burden
from tests.attack.planes import Planes, planes
from tests.attack.raw import request, send, tool_call
from tests.support.upstreams import ScriptedUpstream

PIECE = b"x" * 65_536
MIB = 1024 * 1024
SMUGGLED = b"0\r\n\r\nPOST /mcp HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 0\r\n\r\n"


@pytest.fixture(scope="module")
async def attacked(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Planes]:
    async with planes(database_url, tmp_path_factory.mktemp("state"), one=ScriptedUpstream()) as found:
        yield found


FRAMINGS: dict[str, tuple[bytes, bytes, bool]] = {
    # name: further header lines, body, with our own Content-Length in front
    "length_and_chunks": (b"transfer-encoding: chunked\r\n", SMUGGLED, True),
    "chunks_and_length": (b"transfer-encoding: chunked\r\ncontent-length: 5\r\n", SMUGGLED, False),
    "chunks_in_capitals_and_length": (b"Transfer-Encoding: Chunked\r\n", SMUGGLED, True),
    "chunks_then_identity": (b"transfer-encoding: chunked, identity\r\n", SMUGGLED, False),
    "chunks_twice": (b"transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n", SMUGGLED, False),
    "unknown_coding": (b"transfer-encoding: xchunked\r\n", SMUGGLED, False),
    "coding_behind_a_vertical_tab": (b"transfer-encoding: \x0bchunked\r\n", SMUGGLED, False),
    "space_before_the_colon": (b"transfer-encoding : chunked\r\n", SMUGGLED, True),
    "two_lengths": (b"content-length: 3\r\n", b"", True),
    "length_with_sign": (b"content-length: +5\r\n", b"hello", False),
    "negative_length": (b"content-length: -5\r\n", b"hello", False),
    "list_of_lengths": (b"content-length: 5, 5\r\n", b"hello", False),
    "hexadecimal_length": (b"content-length: 0x5\r\n", b"hello", False),
    "length_beyond_64_bits": (b"content-length: 99999999999999999999999\r\n", b"hello", False),
    "chunk_of_no_size": (b"transfer-encoding: chunked\r\n", b"zz\r\n", False),
    "chunk_of_negative_size": (b"transfer-encoding: chunked\r\n", b"-5\r\n", False),
    "chunk_beyond_64_bits": (b"transfer-encoding: chunked\r\n", b"ffffffffffffffffff\r\n", False),
    "chunk_ended_by_lf": (b"transfer-encoding: chunked\r\n", b"5\nhello\r\n0\r\n\r\n", False),
    "chunk_longer_than_said": (b"transfer-encoding: chunked\r\n", b"2\r\nhello\r\n0\r\n\r\n", False),
    "folded_line": (b"x-a: b\r\n c: d\r\n", b"", True),
    "folded_by_tab": (b"x-a: b\r\n\tc: d\r\n", b"", True),
    "bare_lf": (b"x-a: b\nx-c: d\r\n", b"", True),
    "bare_cr": (b"x-a: b\rx-c: d\r\n", b"", True),
    "nul": (b"x-a: b\x00c\r\n", b"", True),
    "space_in_a_name": (b"x a: b\r\n", b"", True),
    "empty_name": (b": b\r\n", b"", True),
    "no_colon": (b"xa\r\n", b"", True),
    "two_hosts": (b"host: evil.example\r\n", b"", True),
}


@pytest.mark.parametrize("name", FRAMINGS)
async def test_a_request_whose_end_is_open_to_reading_is_refused_and_nothing_behind_it_runs(
    attacked: Planes, name: str
) -> None:
    """A32."""
    more, body, length = FRAMINGS[name]
    headers, call = tool_call()
    since = attacked.since_now()
    sent = request(attacked.port, headers=headers, more=more, body=call if length and not body else body, length=length)
    answer = await send(attacked.port, sent)
    assert answer.status == 400
    assert b"connection: close" in answer.head.lower()
    assert since.nothing_happened()
    await attacked.assert_alive()


LINES: dict[str, tuple[bytes, int]] = {
    "all_bare_lf": (b"POST /mcp HTTP/1.1\n\n", 400),
    "not_http": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    "json_without_http": (b'{"jsonrpc":"2.0","id":1,"method":"ping"}\r\n\r\n', 400),
    "http_2_preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "tunnel": (b"CONNECT evil.example:443 HTTP/1.1\r\nhost: evil.example\r\n\r\n", 400),
    "version_9": (b"POST /mcp HTTP/9.9\r\n\r\n", 400),
    "target_without_slash": (b"POST mcp HTTP/1.1\r\n\r\n", 400),
    "tab_in_the_target": (b"POST /mcp\t HTTP/1.1\r\n\r\n", 400),
    "utf_8_in_the_target": ("POST /mcp/é HTTP/1.1\r\n\r\n".encode(), 400),
    "no_host": (b"POST /mcp HTTP/1.1\r\ncontent-length: 0\r\n\r\n", 421),
    "old_http_without_host": (b"POST /mcp HTTP/1.0\r\n\r\n", 421),
    "no_version": (b"GET /mcp\r\n\r\n", 421),
}


@pytest.mark.parametrize("name", LINES)
async def test_what_is_not_a_request_for_us_is_refused(attacked: Planes, name: str) -> None:
    """A23, A32."""
    sent, status = LINES[name]
    since = attacked.since_now()
    assert (await send(attacked.port, sent)).status == status
    assert since.nothing_happened()
    await attacked.assert_alive()


async def test_an_absolute_target_takes_the_place_of_host(attacked: Planes) -> None:
    """A23: the authority in the target is judged, as RFC 9112 says, and not a good Host beside it."""
    headers, call = tool_call()
    own = b"127.0.0.1:%d" % attacked.port
    statuses = {
        b"http://evil.example/mcp": 421,
        b"HTTP://evil.example/mcp": 421,
        b"http://evil.example:%d/mcp" % attacked.port: 421,
        b"http://" + own + b"@evil.example/mcp": 421,
        b"http://user@" + own + b"/mcp": 421,
        b"http://" + own + b".evil.example/mcp": 400,
        b"ftp://" + own + b"/mcp": 421,
        b"http:///mcp": 400,
        b"http://" + own + b"/mcp": 200,
    }
    for target, status in statuses.items():
        since = attacked.since_now()
        answer = await send(
            attacked.port, request(attacked.port, line=b"POST " + target + b" HTTP/1.1", headers=headers, body=call)
        )
        assert answer.status == status, target
        assert since.nothing_happened() is (status != 200)
    foreign = request(
        attacked.port, line=b"POST http://" + own + b"/mcp HTTP/1.1", headers=headers, body=call, host=b"evil.example"
    )
    assert (await send(attacked.port, foreign)).status == 200


async def test_what_follows_the_body_is_no_header(attacked: Planes) -> None:
    """A32: trailers come after all was decided, so they name no tool, no session and no credential."""
    headers, call = tool_call()
    del headers["mcp-name"]
    body = b"%x\r\n%b\r\n0\r\nmcp-name: one__echo\r\n\r\n" % (len(call), call)
    more = b"transfer-encoding: chunked\r\n"
    since = attacked.since_now()
    sent = request(attacked.port, headers=headers, more=more, body=body, length=False)
    assert (await send(attacked.port, sent)).error == (400, -32020)
    assert since.nothing_happened()


@pytest.mark.parametrize("part", ["target", "header", "headers"])
async def test_a_head_without_end_is_cut_off(attacked: Planes, part: str) -> None:
    """A33: 50 MiB before any body, which no limit on bodies sees."""
    begins = {
        "target": (b"POST /mcp?", PIECE),
        "header": (request(attacked.port).removesuffix(b"\r\n") + b"x-a: ", PIECE),
        "headers": (request(attacked.port).removesuffix(b"\r\n"), b"x-a: " + b"y" * 1017 + b"\r\n"),
    }
    begin, piece = begins[part]
    async with Burden() as burden:
        answer = await send(attacked.port, begin, (piece for _ in range(50 * MIB // len(piece))))
    assert answer.status in (431, 0)  # 0: the refusal may be lost where more arrives for a connection that is closed
    assert burden.grown < 8 * MIB
    assert burden.longest_turn < LONGEST_TURN
    await attacked.assert_alive()
