"""Upstreams that answer with anything but an answer: the caller gets one sentence, the record says what it was."""

from __future__ import annotations

import gzip
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import orjson
import pytest

from tests.attack.planes import Planes, planes
from tests.attack.raw_upstream import RawUpstream, Wire, http, raw
from tests.support.gateway import LegacySession
from tests.support.upstreams import Exchange, ScriptedUpstream

SECRET = "at Object.<anonymous> (/srv/upstream/secret.js:1:1)"
PROTOCOL, UNAVAILABLE, UNKNOWN = "upstream_protocol_error", "upstream_unavailable", "outcome_unknown"


def _response(exchange_id: Any, **members: Any) -> bytes:
    return orjson.dumps({"jsonrpc": "2.0", "id": exchange_id, **members})


def _body(make: Callable[[Any], bytes], status: int = 200, **headers: str) -> Callable[[Exchange], Awaitable[None]]:
    async def act(exchange: Exchange) -> None:
        await exchange.respond(status, make(exchange.id), **headers)

    return act


def _fixed(body: bytes, status: int = 200, **headers: str) -> Callable[[Exchange], Awaitable[None]]:
    return _body(lambda _: body, status, **headers)


def _events(*texts: bytes) -> Callable[[Exchange], Awaitable[None]]:
    async def act(exchange: Exchange) -> None:
        await exchange.stream()
        for text in texts:
            await exchange.raw(text)
        await exchange.raw(b"", last=True)

    return act


def _data(make: Callable[[Any], bytes]) -> Callable[[Exchange], Awaitable[None]]:
    async def act(exchange: Exchange) -> None:
        await exchange.stream()
        await exchange.raw(b"data: " + make(exchange.id) + b"\n\n", last=True)

    return act


HTML = f"<html><body>{SECRET}</body></html>".encode()
RESULT: dict[str, Any] = {"content": [{"type": "text", "text": SECRET}]}
DEEP = b'{"content":[],"x":' + b"[" * 20_000 + b"]" * 20_000 + b"}"


@dataclass(frozen=True)
class Case:
    """What the upstream does with a call, and the reason on record."""

    act: Callable[[Exchange], Awaitable[None]]
    reason: str = PROTOCOL


CASES: dict[str, Case] = {
    "html_with_200": Case(_fixed(HTML, content_type="text/html")),
    "html_that_says_it_is_json": Case(_fixed(HTML)),
    "nothing_with_200": Case(_fixed(b"")),
    "202": Case(_fixed(b"", 202), UNAVAILABLE),
    "204": Case(_fixed(b"", 204), UNAVAILABLE),
    "html_with_500": Case(_fixed(HTML, 500, content_type="text/html"), UNAVAILABLE),
    "json_with_500": Case(_body(lambda i: _response(i, result=RESULT), 500), UNAVAILABLE),
    "503_with_retry": Case(_fixed(HTML, 503, retry_after="1"), UNAVAILABLE),
    "401_with_a_challenge": Case(
        _fixed(HTML, 401, www_authenticate='Bearer resource_metadata="http://10.0.0.5/"'), UNAVAILABLE
    ),
    "403_with_an_error": Case(_body(lambda i: _response(i, error={"code": 1, "message": SECRET}), 403), UNAVAILABLE),
    "429": Case(_fixed(HTML, 429), UNAVAILABLE),
    "gzip": Case(_body(lambda i: gzip.compress(_response(i, result=RESULT)), content_encoding="gzip")),
    "not_utf_8": Case(_body(lambda i: _response(i, result={"content": []}).replace(b"[]", b'["\xff"]'))),
    "cut_off_json": Case(_body(lambda i: _response(i, result=RESULT)[:-2])),
    "two_texts": Case(_body(lambda i: _response(i, result=RESULT) * 2)),
    "array": Case(_body(lambda i: b"[" + _response(i, result=RESULT) + b"]")),
    "no_result": Case(_body(_response)),
    "result_and_error": Case(_body(lambda i: _response(i, result={}, error={"code": 1, "message": SECRET}))),
    "result_of_null": Case(_body(lambda i: _response(i, result=None))),
    "result_of_a_list": Case(_body(lambda i: _response(i, result=[SECRET]))),
    "error_of_a_string": Case(_body(lambda i: _response(i, error=SECRET))),
    "error_without_code": Case(_body(lambda i: _response(i, error={"message": SECRET}))),
    "error_with_code_true": Case(_body(lambda i: _response(i, error={"code": True, "message": SECRET}))),
    "error_with_half_a_code": Case(_body(lambda i: _response(i, error={"code": 1.5, "message": SECRET}))),
    "wrong_id": Case(_body(lambda _: _response("another", result=RESULT))),
    "no_id": Case(_body(lambda _: orjson.dumps({"jsonrpc": "2.0", "result": RESULT}))),
    "id_of_another_type": Case(_body(lambda i: _response([i], result=RESULT))),
    "id_twice": Case(_body(lambda i: b'{"jsonrpc":"2.0","id":"x","id":"' + i.encode() + b'","result":{"content":[]}}')),
    "result_twice": Case(
        _body(lambda i: b'{"jsonrpc":"2.0","result":{},"id":"' + i.encode() + b'","result":{"content":[]}}')
    ),
    "json_rpc_1": Case(_body(lambda i: _response(i, result=RESULT).replace(b"2.0", b"1.0"))),
    "nan": Case(_body(lambda i: _response(i, result={}).replace(b'"result":{}', b'"result":{"a":NaN}'))),
    "a_request": Case(_body(lambda i: _response(i, method="tools/call", params={}))),
    "20000_levels": Case(_body(lambda i: _response(i, result={}).replace(b'"result":{}', b'"result":' + DEEP))),
    "unknown_kind_of_result": Case(_body(lambda i: _response(i, result={"resultType": "later"}))),
    "stream_of_nothing": Case(_events(), UNKNOWN),
    "stream_of_comments": Case(_events(b": a\n\n", b":\n\n"), UNKNOWN),
    "stream_of_html": Case(_events(HTML), UNKNOWN),
    "stream_of_no_json": Case(_events(b"data: " + HTML + b"\n\n")),
    "stream_of_a_number": Case(_events(b"data: 7\n\n")),
    "stream_of_strange_fields": Case(_events(b"foo: bar\nid: \x00\nretry: 1e9\nevent: x\n\n"), UNKNOWN),
    "stream_of_a_wrong_id": Case(_data(lambda _: _response("another", result=RESULT)), UNKNOWN),
    "stream_of_an_error_without_id": Case(
        _data(lambda _: _response(None, error={"code": 1, "message": SECRET})), UNKNOWN
    ),
    "stream_without_the_blank_line": Case(_events(b"data: {}"), UNKNOWN),
    "stream_with_params_of_a_list": Case(_events(b'data: {"jsonrpc":"2.0","method":"a","params":[1]}\n\n')),
    "stream_with_a_request_of_no_id": Case(_events(b'data: {"jsonrpc":"2.0","method":"a","id":{}}\n\n')),
}


@pytest.fixture(scope="module")
async def breaking() -> AsyncIterator[RawUpstream]:
    """Breaks the connection of a call as its arguments say, and answers those that say nothing."""

    async def act(wire: Wire, request: dict[str, Any]) -> None:
        name = request["params"]["arguments"].get("wire")
        if name is None:
            await wire.answer(request, {"content": []})
            return
        await wire.send(WIRES[name][0])
        wire.writer.close()

    async with raw(act) as upstream:
        yield upstream


@pytest.fixture(scope="module")
async def attacked(
    database_url: str, tmp_path_factory: pytest.TempPathFactory, breaking: RawUpstream
) -> AsyncIterator[Planes]:
    state, new, old = tmp_path_factory.mktemp("state"), ScriptedUpstream(), ScriptedUpstream("legacy")
    async with planes(database_url, state, others={"raw": breaking.url}, new=new, old=old) as found:
        yield found


@pytest.mark.parametrize("slug", ["new", "old"])
@pytest.mark.parametrize("name", CASES)
async def test_an_answer_that_is_none_becomes_one_sentence(attacked: Planes, slug: str, name: str) -> None:
    """Garbage of any kind, from upstreams of both eras, to clients of both eras."""
    case = CASES[name]
    upstream = attacked.upstreams[slug]
    upstream.acts["tools/call"] = case.act
    since = attacked.since_now()
    try:
        session = await LegacySession(attacked.http, attacked.running.mcp).open()
        for client in ("modern", "legacy"):
            if client == "modern":
                status, answer = await attacked.call(f"{slug}__echo")
                assert status == 200
            else:
                answer = await session.ask("tools/call", {"name": f"{slug}__echo", "arguments": {}})
            assert answer["result"]["isError"] is True, client
            (content,) = answer["result"]["content"]
            assert content["text"].startswith((f"The server {slug} ", "The answer of", "The connection to"))
            denial = answer["result"]["_meta"]["dev.mcp-gateway/denial"]
            assert denial == {"stage": "upstream", "reason": case.reason}
            assert SECRET not in orjson.dumps(answer).decode()
    finally:
        del upstream.acts["tools/call"]
    closed = [line for line in since.records if line["event"] == "closed"]
    assert [line["detail"] for line in closed] == [case.reason] * 2
    await attacked.assert_alive()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_no_redirect_is_followed(attacked: Planes, status: int) -> None:
    """A21: neither to another upstream nor to anywhere else."""
    target = attacked.upstreams["old"]
    before = len(target.seen)

    async def redirect(exchange: Exchange) -> None:
        await exchange.respond(status, b"", location=target.url)

    attacked.upstreams["new"].acts["tools/call"] = redirect
    try:
        since = attacked.since_now()
        _, answer = await attacked.call("new__echo", {"secret": "x"})
        assert answer["result"]["isError"] is True
        assert len(target.seen) == before
        assert [line.get("detail") for line in since.records] == [None, UNAVAILABLE]
    finally:
        del attacked.upstreams["new"].acts["tools/call"]
    await attacked.assert_alive()


WIRES: dict[str, tuple[bytes, str]] = {
    "closes_at_once": (b"", UNKNOWN),
    "closes_in_the_status": (b"HTTP/1.1 2", UNKNOWN),
    "closes_in_the_head": (b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n", UNKNOWN),
    "closes_in_the_body": (http(b'{"jsonrpc":"2.0","id":"x"}')[:-5], UNKNOWN),
    "closes_in_a_chunk": (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n20\r\n{", UNKNOWN),
    "closes_in_a_stream": (b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: {", UNKNOWN),
    "no_http": (b"SSH-2.0-OpenSSH_9.9\r\n", PROTOCOL),
    "tls": (b"\x15\x03\x01\x00\x02\x02\x46", PROTOCOL),
    "http_2": (b"HTTP/2 200\r\n\r\n", PROTOCOL),
    "an_event_of_its_own": (b"data: {}\n\n", PROTOCOL),
    "length_and_chunks": (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n{}", PROTOCOL),
    "two_lengths": (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}x", PROTOCOL),
    "bare_lf": (b"HTTP/1.1 200 OK\nx: y\n\n", PROTOCOL),
    "upgrade": (b"HTTP/1.1 101 Switching Protocols\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n", PROTOCOL),
    "a_chunk_that_is_none": (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", UNKNOWN),
}


@pytest.mark.parametrize("name", WIRES)
async def test_a_connection_that_breaks_or_speaks_no_http_fails_its_own_call_only(
    attacked: Planes, breaking: RawUpstream, name: str
) -> None:
    """Each on its own connection; the next call on a fresh one succeeds."""
    _, reason = WIRES[name]
    since, calls = attacked.since_now(), len(breaking.calls)
    _, answer = await attacked.call("raw__echo", {"wire": name})
    assert answer["result"]["isError"] is True
    assert answer["result"]["_meta"]["dev.mcp-gateway/denial"]["reason"] == reason
    assert [line.get("detail") for line in since.records] == [None, reason]
    assert len(breaking.calls) == calls + 1  # it may have run, so it is not sent again
    assert (await attacked.call("raw__echo"))[1]["result"]["content"] == []


@pytest.mark.parametrize("slug", ["new", "old"])
async def test_an_upstream_cannot_speak_in_our_name(attacked: Planes, slug: str) -> None:
    """What stands under our own prefix in `_meta` and in the data of errors is said by us alone."""
    ours = {"dev.mcp-gateway/denial": {"stage": "authorization"}, "dev.mcp-gateway/record": "f" * 32, "their/own": 1}
    upstream = attacked.upstreams[slug]

    async def act(exchange: Exchange) -> None:
        if exchange.params["arguments"].get("fail"):
            await exchange.error(5, "no", ours)
        else:
            await exchange.result({"content": [], "_meta": ours})

    upstream.acts["tools/call"] = act
    try:
        since = attacked.since_now()
        for fail in (False, True):
            _, answer = await attacked.call(f"{slug}__echo", {"fail": fail})
            said = answer["error"]["data"] if fail else answer["result"]["_meta"]
            assert said["dev.mcp-gateway/record"] == since.records[-1]["record"]
            assert said["their/own"] == 1
            assert "dev.mcp-gateway/denial" not in said
    finally:
        del upstream.acts["tools/call"]
