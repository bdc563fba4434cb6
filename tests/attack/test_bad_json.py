"""Bodies that two parsers would read differently, or none should: refused with the right code, and nobody else notices.

Each body goes to every door: a modern POST, a POST on a legacy session, a server's own endpoint, an HTTP+SSE channel.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

import aiohttp
import orjson
import pytest

from tests.attack.planes import Planes, planes
from tests.support.gateway import BOTH, LegacySession, modern_headers, modern_message
from tests.support.upstreams import ScriptedUpstream

PARSE_ERROR, INVALID_REQUEST = -32700, -32600
GOOD = orjson.dumps(modern_message("tools/call", {"name": "one__echo", "arguments": {"a": 0}}))


def _argument(text: bytes) -> bytes:
    return GOOD.replace(b'{"a":0}', b'{"a":' + text + b"}")


BODIES: dict[str, tuple[bytes, int]] = {
    # A33: not JSON at all, or JSON that not every parser reads alike.
    "nothing": (b"", PARSE_ERROR),
    "spaces": (b"  \n", PARSE_ERROR),
    "cut_off": (GOOD[:-1], PARSE_ERROR),
    "text_behind": (GOOD + b"x", PARSE_ERROR),
    "two_messages": (GOOD + b"\n" + GOOD, PARSE_ERROR),
    "single_quotes": (GOOD.replace(b'"', b"'"), PARSE_ERROR),
    "trailing_comma": (GOOD[:-1] + b",}", PARSE_ERROR),
    "comment": (b"/* */" + GOOD, PARSE_ERROR),
    "byte_order_mark": (b"\xef\xbb\xbf" + GOOD, PARSE_ERROR),
    "utf_16": (GOOD.decode().encode("utf-16"), PARSE_ERROR),
    "no_break_space": (b"\xc2\xa0" + GOOD, PARSE_ERROR),
    "nan": (_argument(b"NaN"), PARSE_ERROR),
    "infinity": (_argument(b"-Infinity"), PARSE_ERROR),
    "1e400": (_argument(b"1e400"), PARSE_ERROR),
    "minus_1e400": (_argument(b"-1e400"), PARSE_ERROR),
    "5000_digits": (_argument(b"1" * 5000), PARSE_ERROR),
    "leading_zero": (_argument(b"01"), PARSE_ERROR),
    "hexadecimal": (_argument(b"0x1"), PARSE_ERROR),
    "lone_high_surrogate": (_argument(rb'"\ud83d"'), PARSE_ERROR),
    "lone_low_surrogate": (_argument(rb'"\uDE00 x"'), PARSE_ERROR),
    "surrogates_the_wrong_way_round": (_argument(rb'"\ude00\ud83d"'), PARSE_ERROR),
    "lone_surrogate_in_a_name": (GOOD.replace(b'"a":0', rb'"\ud800":0'), PARSE_ERROR),
    "encoded_surrogate": (_argument(b'"\xed\xa0\x80"'), PARSE_ERROR),
    "invalid_utf_8": (_argument(b'"\xff\xfe"'), PARSE_ERROR),
    "overlong_utf_8": (_argument(b'"\xc0\xaf"'), PARSE_ERROR),
    "cut_off_utf_8": (_argument(b'"\xf0\x9f"'), PARSE_ERROR),
    "control_character": (_argument(b'"a\x00b"'), PARSE_ERROR),
    "line_end_in_a_string": (_argument(b'"a\r\nb"'), PARSE_ERROR),
    "65_levels": (_argument(b"[" * 65 + b"]" * 65), PARSE_ERROR),
    "10000_levels": (b"[" * 10_000 + b"]" * 10_000, PARSE_ERROR),
    "10000_objects": (b'{"a":' * 10_000 + b"0" + b"}" * 10_000, PARSE_ERROR),
    "10000_levels_never_closed": (_argument(b"[" * 10_000), PARSE_ERROR),
    "10000_levels_behind_a_string_of_brackets": (
        _argument(b'["' + b"]" * 10_000 + b'",' + b"[" * 10_000 + b"]" * 10_001),
        PARSE_ERROR,
    ),
    # A31: a member twice, or in another case.
    "method_twice": (GOOD.replace(b'"method"', b'"method":"tools/list","method"'), INVALID_REQUEST),
    "method_twice_escaped": (GOOD.replace(b'"method"', rb'"\u006dethod":"tools/list","method"'), INVALID_REQUEST),
    "id_twice": (GOOD.replace(b'"id":1', b'"id":1,"id":2'), INVALID_REQUEST),
    "params_twice": (GOOD[:-1] + b',"params":{}}', INVALID_REQUEST),
    "name_twice": (GOOD.replace(b'"name":', b'"name":"one__safe","name":'), INVALID_REQUEST),
    "argument_twice": (GOOD.replace(b'"a":0', b'"a":0,"a":1'), INVALID_REQUEST),
    "deep_argument_twice": (_argument(b'[{"b":{"c":1,"c":2}}]'), INVALID_REQUEST),
    "meta_twice": (GOOD.replace(b'"_meta"', b'"_meta":{},"_meta"'), INVALID_REQUEST),
    "Method_beside_method": (GOOD[:-1] + b',"Method":"tools/list"}', INVALID_REQUEST),
    "Params_beside_params": (GOOD[:-1] + b',"Params":{"name":"one__other"}}', INVALID_REQUEST),
    "METHOD_alone": (GOOD.replace(b'"method"', b'"METHOD"'), INVALID_REQUEST),
    "Name_beside_name": (GOOD.replace(b'"name":', b'"Name":"one__other","name":'), INVALID_REQUEST),
    "kelvin_sign": (GOOD.replace(b'"_meta":{', '"_meta":{"progressTo\u212aen":0,'.encode()), INVALID_REQUEST),
    "Arguments": (GOOD.replace(b'"arguments"', b'"Arguments"'), INVALID_REQUEST),
    # Not one JSON-RPC message.
    "number": (b"1", INVALID_REQUEST),
    "null": (b"null", INVALID_REQUEST),
    "string": (b'"tools/call"', INVALID_REQUEST),
    "empty_object": (b"{}", INVALID_REQUEST),
    "json_rpc_1": (GOOD.replace(b'"2.0"', b'"1.0"'), INVALID_REQUEST),
    "json_rpc_number": (GOOD.replace(b'"2.0"', b"2.0"), INVALID_REQUEST),
    "id_null": (GOOD.replace(b'"id":1', b'"id":null'), INVALID_REQUEST),
    "id_true": (GOOD.replace(b'"id":1', b'"id":true'), INVALID_REQUEST),
    "id_fraction": (GOOD.replace(b'"id":1', b'"id":1.5'), INVALID_REQUEST),
    "id_object": (GOOD.replace(b'"id":1', b'"id":{}'), INVALID_REQUEST),
    "method_number": (GOOD.replace(b'"tools/call"', b"7"), INVALID_REQUEST),
    "params_array": (b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":["one__echo"]}', INVALID_REQUEST),
    "params_null": (b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":null}', INVALID_REQUEST),
    "neither_request_nor_answer": (b'{"jsonrpc":"2.0","id":1}', INVALID_REQUEST),
    "request_and_answer": (b'{"jsonrpc":"2.0","id":1,"method":"ping","result":{}}', INVALID_REQUEST),
    "result_and_error": (b'{"jsonrpc":"2.0","id":1,"result":{},"error":{}}', INVALID_REQUEST),
    "answer_without_id": (b'{"jsonrpc":"2.0","result":{}}', INVALID_REQUEST),
    "answer_of_a_number": (b'{"jsonrpc":"2.0","id":1,"result":1}', INVALID_REQUEST),
    # Batches, which these doors do not have.
    "batch": (b"[" + GOOD + b"]", INVALID_REQUEST),
    "empty_batch": (b"[]", INVALID_REQUEST),
    "batch_in_a_batch": (b"[[" + GOOD + b"]]", INVALID_REQUEST),
}


@dataclass(slots=True)
class Doors:
    """Every way in, as URL and headers."""

    planes: Planes
    by_name: dict[str, tuple[str, dict[str, str]]]


@pytest.fixture(scope="module")
async def doors(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Doors]:
    async with planes(database_url, tmp_path_factory.mktemp("state"), one=ScriptedUpstream()) as found:
        running = found.running
        modern = modern_headers(orjson.loads(GOOD))
        session = await LegacySession(found.http, running.mcp).open()
        plain = {"content-type": "application/json", "accept": BOTH}
        async with found.http.get(f"{running.origin}/sse", headers={"accept": "text/event-stream"}) as channel:
            await channel.content.readuntil(b"event: endpoint\n")
            address = (await channel.content.readline()).removeprefix(b"data: ").decode().strip()
            doors = {
                "modern": (running.mcp, modern),
                "own_endpoint": (running.server("one"), modern),
                "session": (running.mcp, session.headers),
                "initialize": (running.mcp, plain),
                "channel": (running.origin + address, plain),
            }
            yield Doors(found, doors)


@pytest.mark.parametrize("name", BODIES)
async def test_a_malformed_body_is_refused_on_every_door_and_goes_no_further(doors: Doors, name: str) -> None:
    """A31, A33."""
    body, code = BODIES[name]
    since = doors.planes.since_now()
    for door, (url, headers) in doors.by_name.items():
        async with doors.planes.http.post(url, data=body, headers=headers) as response:
            answer = orjson.loads(await response.read())
            assert (response.status, answer["error"]["code"]) == (400, code), door
        assert "id" not in answer, door
        assert answer.keys() == {"jsonrpc", "error"}, door
        for secret in ("Traceback", "gateway/", "one__", "echo"):  # neither our insides nor the sender's text
            assert secret not in answer["error"]["message"], door
    assert since.nothing_happened()
    await doors.planes.assert_alive()


@pytest.mark.parametrize("kind", [None, "text/plain", "application/json-rpc", "application/x-www-form-urlencoded"])
async def test_a_body_of_another_media_type_is_refused(doors: Doors, kind: str | None) -> None:
    """A33: what a web page may send without asking first never reaches a parser."""
    since = doors.planes.since_now()
    for door, (url, headers) in doors.by_name.items():
        sent = {**headers, "content-type": kind or ""}
        async with doors.planes.http.post(url, data=GOOD, headers=sent) as response:
            assert response.status == 415, door
            assert orjson.loads(await response.read())["error"]["code"] == INVALID_REQUEST
    assert since.nothing_happened()


async def test_a_batch_only_works_where_the_revision_has_batches(doors: Doors) -> None:
    """2025-03-26 alone has them: not with `initialize` inside, and not without bounds."""
    found = doors.planes
    url = found.running.mcp
    old = await LegacySession(found.http, url, "2025-03-26").open()
    new = await LegacySession(found.http, url, "2025-06-18").open()
    ping = b'{"jsonrpc":"2.0","id":%d,"method":"ping"}'
    two = b"[" + ping % 1 + b"," + ping % 2 + b"]"
    assert await _posted(found.http, url, two, old.headers) == (200, None)
    assert await _posted(found.http, url, two, new.headers) == (400, INVALID_REQUEST)
    hello = orjson.dumps([{"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {}}])
    assert await _posted(found.http, url, hello, old.headers) == (400, INVALID_REQUEST)
    assert await _posted(found.http, url, b"[" + ping % 1 + b",1]", old.headers) == (400, INVALID_REQUEST)
    many = b"[" + b",".join(ping % number for number in range(10_000)) + b"]"
    assert await _posted(found.http, url, many, old.headers) == (413, INVALID_REQUEST)
    await found.assert_alive()


async def _posted(
    http: aiohttp.ClientSession, url: str, body: bytes, headers: dict[str, str]
) -> tuple[int, int | None]:
    async with http.post(url, data=body, headers=headers) as response:
        answer = orjson.loads(await response.read())
        return response.status, answer["error"]["code"] if isinstance(answer, dict) else None
