"""The little of HTTP that the edge needs: bodies within their bounds, streams, media types."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.edge import http
from gateway.edge.http import ClientGone, Request, TooLarge, accepts
from tests.support.asgi import FakeHttp


async def test_a_body_is_joined_from_its_parts() -> None:
    assert await FakeHttp(body=[b"a", b"", b"bc"]).request.body(3) == b"abc"


@pytest.mark.parametrize("parts", [[b"abcd"], [b"ab", b"cd"], [b"", b"abcd", b"e"]])
async def test_one_byte_too_many_is_too_large_however_it_arrives(parts: list[bytes]) -> None:
    with pytest.raises(TooLarge):
        await FakeHttp(body=parts).request.body(3)


@pytest.mark.parametrize("declared", ["4", "99999999999999999999", "-1", "x", "\xb2", ""])
async def test_a_declared_length_that_is_too_large_or_none_is_refused_before_the_body_is_read(declared: str) -> None:
    fake = FakeHttp(headers={"content-length": declared}, body=[b"abc"])
    with pytest.raises(TooLarge):
        await fake.request.body(3)


async def test_a_declared_length_within_bounds_is_no_proof() -> None:
    with pytest.raises(TooLarge):
        await FakeHttp(headers={"content-length": "3"}, body=[b"abcd"]).request.body(3)


@pytest.mark.parametrize("parts", [[], [b"a", b"b"]])
async def test_a_client_that_leaves_in_the_middle_of_its_body_is_gone(parts: list[bytes]) -> None:
    fake = FakeHttp(body=parts)
    if parts:
        first = await fake.receive()
        second = await fake.receive()
        assert (first["more_body"], second["more_body"]) == (True, False)
        fake = FakeHttp(body=[])
        fake._incoming.put_nowait(first)
    fake.disconnect()
    with pytest.raises(ClientGone):
        await fake.request.body(10)


async def test_gone_returns_with_the_disconnect_and_not_before() -> None:
    fake = FakeHttp(body=[b"x"])
    task = asyncio.create_task(fake.request.gone())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not task.done()
    fake.disconnect()
    await asyncio.wait_for(task, 5)


async def test_a_response_says_its_length_and_that_it_is_json_if_it_has_a_body() -> None:
    full, empty = FakeHttp(), FakeHttp()
    await full.request.respond(200, b"{}", [(b"x", b"y")])
    assert (full.status, full.body, full.ended) == (200, b"{}", True)
    assert full.headers == {"content-type": "application/json", "x": "y", "content-length": "2"}
    await empty.request.respond(202)
    assert empty.headers == {"content-length": "0"}


async def test_a_stream_is_not_to_be_cached_nor_buffered() -> None:
    fake = FakeHttp()
    request = fake.request
    await request.start_stream([(b"x", b"y")])
    await request.write(b"a")
    assert not fake.ended
    await request.end_stream(b"b")
    assert (fake.body, fake.ended) == (b"ab", True)
    assert fake.headers["content-type"] == "text/event-stream"
    assert fake.headers["cache-control"] == "no-cache, no-transform"
    assert fake.headers["x-accel-buffering"] == "no"


@pytest.mark.parametrize("last", [False, True])
async def test_a_client_that_does_not_read_is_gone_after_a_while(last: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "SLOW_READER_SECONDS", 0.01)
    fake = FakeHttp()
    await fake.request.start_stream()
    fake.block()
    with pytest.raises(ClientGone):
        await (fake.request.end_stream() if last else fake.request.write(b"a"))


async def test_the_first_of_repeated_headers_counts_and_repetition_is_noticed() -> None:
    fake = FakeHttp(headers=[("host", " a "), ("host", "b")])
    assert fake.request.headers["host"] == "a"
    assert fake.request.has_repeated_headers
    assert [value for _, value in fake.request.raw_headers] == [" a ", "b"]
    assert not FakeHttp(headers={"host": "a"}).request.has_repeated_headers


@given(st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), st.text(st.characters(max_codepoint=255), max_size=5))))
def test_header_bytes_survive_in_order(lines: list[tuple[str, str]]) -> None:
    scope = {"method": "GET", "path": "/", "headers": [(n.encode(), v.encode("latin-1")) for n, v in lines]}

    async def never() -> dict[str, object]:
        raise AssertionError("nothing is read")

    async def nowhere(_: object) -> None:
        raise AssertionError("nothing is sent")

    assert Request(scope, never, nowhere).raw_headers == lines


@pytest.mark.parametrize(
    ("header", "kinds", "takes"),
    [
        (None, ("a/b",), False),
        ("a/b", ("a/b",), True),
        ("a/b", ("a/b", "c/d"), False),
        ("c/d, a/b;q=1", ("a/b", "c/d"), True),
        ("a/*", ("a/b",), True),
        ("*/*", ("a/b", "c/d"), True),
        ("A/B", ("a/b",), True),
        ("a/bc", ("a/b",), False),
        (",", ("a/b",), False),
    ],
)
def test_an_accept_header_takes_what_it_lists(header: str | None, kinds: tuple[str, ...], takes: bool) -> None:
    assert accepts(header, *kinds) == takes
