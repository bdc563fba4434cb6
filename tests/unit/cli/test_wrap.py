"""What `mcp-gateway wrap` is made of: messages as bytes, streams that can be read again, names that may enter."""

import asyncio
import json
from typing import Any

import pytest
from anyio.lowlevel import checkpoint
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.cli.stdio import stream as stream_module
from gateway.cli.stdio.calls import Call, Calls
from gateway.cli.stdio.message import ID, PROGRESS_TOKEN, Message, from_client, from_server, key
from gateway.cli.stdio.replies import accepts, host_name
from gateway.cli.stdio.stream import Stream
from gateway.jsonrpc import InvalidMessage, Kind

QUICK = settings(deadline=None, max_examples=150)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=10,
)
ids = st.integers(-(2**53), 2**53) | st.text(max_size=10)


# Messages


@QUICK
@given(st.dictionaries(st.text(max_size=6), values, max_size=4), ids, ids, st.sampled_from([None, 2]))
def test_only_the_id_and_the_token_of_a_message_change(
    arguments: dict[str, Any], request_id: int | str, token: int | str, indent: int | None
) -> None:
    meta = {"progressToken": token, "other": arguments}
    body = {"method": "tools/call", "id": request_id, "params": {"x": arguments, "_meta": meta}, "jsonrpc": "2.0"}
    message = from_client(json.dumps(body, indent=indent).encode())
    assert json.loads(message.bytes_of(ID) or b"") == request_id
    there = message.replaced({ID: b"7", PROGRESS_TOKEN: b"8"})
    assert b"\n" not in there
    assert json.loads(there) == {
        **body,
        "id": 7,
        "params": {"x": arguments, "_meta": {"progressToken": 8, "other": arguments}},
    }
    back = from_client(there).replaced(
        {ID: json.dumps(request_id).encode(), PROGRESS_TOKEN: json.dumps(token).encode()}
    )
    assert json.loads(back) == body


@pytest.mark.parametrize(
    "text",
    [
        b'{"a":1.10}',
        b'{"a":1e400}',
        b'{"a":-0}',
        b'{"a":123456789012345678901234567890}',
        rb'{"a":"\ud83d"}',
        rb'{"a":"\u00e9\/"}',
        b'{ "a" : [ 1 , { } ] }',
    ],
)
def test_what_is_not_replaced_keeps_its_spelling(text: bytes) -> None:
    message = from_server(b'{"jsonrpc":"2.0","id":4,"result":' + text + b"}")
    assert message.replaced({ID: b'"x"'}) == b'{"jsonrpc":"2.0","id":"x","result":' + text + b"}"


@pytest.mark.parametrize("params", [b"[]", b"null", b"{}", b'{"_meta":null}', b'{"_meta":{}}', b'{"_meta":[1]}'])
def test_a_path_that_does_not_exist_is_left_out(params: bytes) -> None:
    line = b'{"jsonrpc":"2.0","id":4,"method":"m","params":' + params + b"}"
    assert from_server(line).replaced({PROGRESS_TOKEN: b"1"}) == line
    assert from_server(line).value(PROGRESS_TOKEN) is None


@pytest.mark.parametrize("line", [b"", b"x", b"[]", b"3", b"{}", b'{"jsonrpc":"2.0"}', b"\xff{}", b'{"id":1,"method"'])
def test_a_line_that_is_no_message_is_told_from_one(line: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 the words are the JSON library's
        from_server(line)


def test_a_body_that_can_be_read_in_two_ways_is_refused() -> None:
    with pytest.raises(InvalidMessage):
        from_client(b'{"jsonrpc":"2.0","id":1,"method":"tools/call","method":"tools/list"}')


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        (b'{"id":1,"method":"m"}', Kind.REQUEST),
        (b'{"method":"m"}', Kind.NOTIFICATION),
        (b'{"id":1,"result":null}', Kind.RESPONSE),
        (b'{"id":null,"error":{}}', Kind.RESPONSE),
    ],
)
def test_a_servers_message_is_known_by_its_members(line: bytes, kind: Kind) -> None:
    assert from_server(line).kind is kind


def test_ids_of_different_types_are_different() -> None:
    assert len({key(1), key("1"), key(None), key("null")}) == 4


# Calls


def call(text: bytes) -> Call:
    return Call(from_client(text), Stream(1, replayable=False), lambda _: None)


def test_the_id_of_another_calls_response_is_not_taken_for_ones_own() -> None:
    sent: list[Message] = []
    calls = Calls(lambda message: sent.append(from_client(message)))
    one, two = call(b'{"jsonrpc":"2.0","id":"a","method":"m"}'), call(b'{"jsonrpc":"2.0","id":"a","method":"m"}')
    calls.start(one)
    calls.start(two)
    assert sent[0].id_key != sent[1].id_key
    calls.respond(from_server(sent[1].replaced({("method",): b'"m"'}).replace(b'"method"', b'"result"')))
    assert two.stream.ended
    assert not one.stream.ended
    for stray in (b'{"id":99,"result":{}}', b'{"id":"1","result":{}}', b'{"id":null,"error":{}}'):
        calls.respond(from_server(stray))
    assert not one.stream.ended


# Streams


async def read(stream: Stream, position: int) -> list[bytes]:
    with stream.followed_by() as reader:
        events = await asyncio.wait_for(stream.after(position, reader), 5)
        return [] if events is None else [event.message for event in events]


async def test_what_was_read_can_be_read_again_from_any_position() -> None:
    stream = Stream(1, replayable=True)
    for message in (b"a", b"b", b"c"):
        stream.append(message)
    assert await read(stream, 0) == [b"a", b"b", b"c"]
    stream.end(b"d")
    assert await read(stream, 1) == [b"b", b"c", b"d"]
    assert await read(stream, 4) == []


async def test_a_new_reader_takes_the_place_of_the_one_before() -> None:
    stream = Stream(1, replayable=True)
    with stream.followed_by() as first:
        waiting = asyncio.create_task(stream.after(0, first))
        await checkpoint()  # so that it waits
        with stream.followed_by() as second:
            assert await asyncio.wait_for(waiting, 5) is None
            stream.append(b"a")
            events = await stream.after(0, second)
            assert events is not None
    assert not stream.followed


async def test_a_stream_that_nobody_reads_drops_notifications_but_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "MAX_EVENTS", 3)
    stream = Stream(1, replayable=True)
    stream.append(b"question")
    for number in range(10):
        stream.append(b"%d" % number, droppable=True)
    stream.end(b"answer")
    assert await read(stream, 0) == [b"question", b"9", b"answer"]


async def test_a_stream_keeps_a_message_that_alone_is_over_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "MAX_BYTES", 3)
    stream = Stream(1, replayable=True)
    stream.append(b"much longer", droppable=True)
    assert await read(stream, 0) == [b"much longer"]


async def test_a_stream_that_is_not_replayable_forgets_what_was_read() -> None:
    stream = Stream(1, replayable=False)
    for number in range(5):
        stream.append(b"%d" % number)
    with stream.followed_by() as reader:
        await stream.after(0, reader)
        stream.append(b"5")
        assert [event.message for event in await stream.after(3, reader) or []] == [b"3", b"4", b"5"]
    assert stream.bytes_kept == 3


# Headers


@pytest.mark.parametrize(
    ("authority", "name"),
    [
        ("localhost", "localhost"),
        ("LOCALHOST:80", "localhost"),
        ("127.0.0.1:9001", "127.0.0.1"),
        ("[::1]:9001", "::1"),
        ("http://localhost:3000", "localhost"),
        ("null", "null"),
        ("", None),
        ("[::1", None),
        ("localhost@evil.example", "evil.example"),
        ("127.0.0.1, evil.example", "127.0.0.1, evil.example"),
    ],
)
def test_a_host_is_read_out_of_host_and_origin(authority: str, name: str | None) -> None:
    assert host_name(authority) == name


def test_media_types_are_accepted_by_name_and_by_wildcard() -> None:
    assert accepts({"accept": "text/event-stream; q=1, application/*"}, "application/json", "text/event-stream")
    assert accepts({"accept": "*/*"}, "application/json", "text/event-stream")
    assert not accepts({"accept": "application/json"}, "application/json", "text/event-stream")
    assert not accepts({}, "application/json")
