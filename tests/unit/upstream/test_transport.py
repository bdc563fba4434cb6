"""Bodies of answers within their bounds, and what becomes of the connection they came on."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalogue.model import Server
from gateway.errors import UpstreamProtocolError
from gateway.upstream.response import BUFFERED, BrokenOff, Response
from gateway.upstream.transport import Transport, UnknownOutcome, target_of
from tests.support.calls import until
from tests.support.responses import FakeSource, answered
from tests.support.worlds import TLS

CAP = 100
TRANSPORT = Transport(Server("one", "1", "http://one.test/mcp?a=b", max_event_bytes=CAP), TLS)


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("http://h", "/"),
        ("http://h/", "/"),
        ("http://h:1/mcp", "/mcp"),
        ("http://h/a/b?c=d&e", "/a/b?c=d&e"),
        ("http://h?x", "/?x"),
        ("http://h/a#part", "/a"),
    ],
)
def test_a_request_line_has_path_and_query_of_the_url_and_never_its_fragment(url: str, target: str) -> None:
    assert target_of(url) == target


async def read(body: list[bytes]) -> bytes:
    return await TRANSPORT.read(answered(200, "application/json", body)[0])


@pytest.mark.parametrize("body", [[b""], [b"a"], [b"a" * CAP], [b"a"] * CAP])
async def test_a_body_up_to_the_cap_is_read(body: list[bytes]) -> None:
    assert await read(body) == b"".join(body)


@pytest.mark.parametrize("body", [[b"a" * (CAP + 1)], [b"a"] * (CAP + 1), [b"a" * CAP, b"b"]])
async def test_one_byte_more_is_too_much(body: list[bytes]) -> None:
    with pytest.raises(UpstreamProtocolError, match="more than 100 bytes"):
        await read(body)


async def test_a_body_that_says_it_is_too_large_is_not_read() -> None:
    response, source = answered(200, "application/json", [b"a"], content_length=str(CAP + 1))
    with pytest.raises(UpstreamProtocolError):
        await TRANSPORT.read(response)
    assert source.reusable is False


async def test_a_body_that_breaks_off_may_have_been_executed() -> None:
    response, _ = answered(200, "application/json", [b"a"], broken=True)
    with pytest.raises(UnknownOutcome):
        await TRANSPORT.read(response)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.binary(max_size=60), max_size=6))
def test_the_cap_does_not_depend_on_how_a_body_arrives(body: list[bytes]) -> None:
    whole = b"".join(body)
    reading = read(body)
    expected = StopIteration if len(whole) <= CAP else UpstreamProtocolError
    with pytest.raises(expected) as ended:  # the whole answer is here: there is nothing to wait for
        reading.send(None)
    if isinstance(ended.value, StopIteration):
        assert ended.value.value == whole


async def test_a_stream_comes_as_it_arrives_and_ends_quietly_when_it_breaks() -> None:
    source = FakeSource()
    response = Response(200, {"content-type": "text/event-stream"}, source)
    seen: list[bytes] = []

    async def follow() -> None:
        seen.extend([chunk async for chunk in TRANSPORT.chunks(response)])
        seen.append(b"end")

    following = asyncio.create_task(follow())
    response.feed(b"a")
    response.feed(b"b")
    await asyncio.sleep(0)
    assert not following.done()
    response.end(BrokenOff("gone"))
    await until(following.done)
    assert b"".join(seen) == b"abend"


async def test_a_reader_that_is_behind_makes_the_socket_rest_and_catching_up_wakes_it() -> None:
    source = FakeSource()
    response = Response(200, {}, source)
    assert not response.feed(b"a" * BUFFERED)
    assert response.feed(b"b")
    assert source.resumed == 0
    assert len(await response.chunk()) == BUFFERED + 1
    assert source.resumed == 1


async def test_an_answer_that_was_not_read_takes_its_connection_with_it() -> None:
    response, source = answered(200, "application/json", [b"unread"])
    response.settle()
    assert source.reusable is False
    response.settle()
    assert source.reusable is False


@pytest.mark.parametrize(
    ("header", "kind"),
    [("Application/JSON; charset=utf-8", "application/json"), ("", ""), (" text/event-stream ", "text/event-stream")],
)
def test_the_media_type_is_without_parameters_and_in_lower_case(header: str, kind: str) -> None:
    assert Response(200, {"content-type": header}, FakeSource()).content_type == kind


@pytest.mark.parametrize(("declared", "length"), [("5", 5), ("", None), ("-1", None), ("x", None), ("1.5", None)])
def test_a_length_that_is_none_is_not_known(declared: str, length: int | None) -> None:
    assert Response(200, {"content-length": declared}, FakeSource()).content_length == length
