"""Whole answers of an upstream: which status, media type and body mean what, and what becomes of the connection."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import orjson
import pytest

from catalogue.model import Server
from gateway.calls import Answer
from gateway.errors import UpstreamProtocolError, UpstreamRefused
from gateway.upstream.exchange import Exchange, NotSpoken, SessionLost
from gateway.upstream.response import Response
from gateway.upstream.sse import encode_event
from gateway.upstream.transport import Transport, UnknownOutcome
from tests.support.calls import MemoryOutlet
from tests.support.responses import answered
from tests.support.worlds import TLS

SERVER = Server("one", "1", "http://one.test/mcp", max_event_bytes=2048)
ID = "0123456789abcdef"
RESULT = orjson.dumps({"jsonrpc": "2.0", "id": ID, "result": {"content": []}})


class Heard:
    """An exchange, and what it put aside."""

    def __init__(self) -> None:
        self.aside: list[tuple[str, dict[str, Any]]] = []
        self.exchange = Exchange(
            SERVER, ID, MemoryOutlet(), aside=lambda method, params: self.aside.append((method, params))
        )

    async def read(self, response: Response, *, session: bool = False) -> Answer | None:
        return await self.exchange.read(Transport(SERVER, TLS), response, session=session)


def stream(*messages: bytes, last: bytes = b"") -> Iterable[bytes]:
    return [encode_event(message) for message in messages] + ([last] if last else [])


async def test_a_json_answer_is_read_and_its_connection_given_back() -> None:
    response, source = answered(200, "application/json; charset=utf-8", [RESULT[:5], RESULT[5:]])
    found = await Heard().read(response)
    assert found is not None
    assert found.value == {"content": []}
    assert source.reusable is True


async def test_a_stream_is_read_to_its_result_and_no_further() -> None:
    note = orjson.dumps({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"})
    heard = Heard()
    response, _ = answered(200, "text/event-stream", stream(note, RESULT, note))
    assert await heard.read(response) is not None
    assert len(heard.aside) == 1


async def test_a_stream_that_ends_without_a_result_gives_none_and_remembers_where_it_was() -> None:
    heard = Heard()
    events = [encode_event(b"", id="e1", event=None, retry=25), encode_event(b"", id="e2", event=None)]
    response, _ = answered(200, "text/event-stream", events)
    assert await heard.read(response) is None
    assert (heard.exchange.last_event_id, heard.exchange.retry) == ("e2", 25)


async def test_a_stream_that_breaks_off_is_one_that_ended() -> None:
    response, source = answered(200, "text/event-stream", [b"data: {"], broken=True)
    assert await Heard().read(response) is None
    assert source.reusable is False


@pytest.mark.parametrize("kind", ["application/json", "text/event-stream"])
async def test_more_bytes_than_the_operator_allows_are_the_upstreams_fault(kind: str) -> None:
    body = b'data: {"x":"' + b"a" * 4096
    response, _ = answered(200, kind, [body])
    with pytest.raises(UpstreamProtocolError, match="more than 2048 bytes"):
        await Heard().read(response)


async def test_a_body_that_breaks_off_may_have_been_executed() -> None:
    response, _ = answered(200, "application/json", [RESULT[:9]], broken=True)
    with pytest.raises(UnknownOutcome):
        await Heard().read(response)


REFUSAL = orjson.dumps({"jsonrpc": "2.0", "id": ID, "error": {"code": -32020, "message": "no"}})


@pytest.mark.parametrize(
    ("status", "kind", "body", "session", "error"),
    [
        (404, "application/json", REFUSAL, True, SessionLost),
        (404, "text/plain", b"", True, SessionLost),
        (404, "application/json", REFUSAL, False, UpstreamRefused),
        (400, "application/json", REFUSAL, True, UpstreamRefused),
        (400, "text/html", b"<html>", False, NotSpoken),
        (400, "application/json", b"{}", False, NotSpoken),
        (401, "application/json", REFUSAL, False, NotSpoken),
        (403, "application/json", REFUSAL, False, NotSpoken),
        (429, "application/json", REFUSAL, False, NotSpoken),
        (500, "application/json", REFUSAL, False, NotSpoken),
        (302, "application/json", RESULT, False, NotSpoken),
        (201, "application/json", RESULT, False, NotSpoken),
        (202, "text/event-stream", RESULT, False, NotSpoken),
        (200, "text/html", b"<html>", False, UpstreamProtocolError),
    ],
)
async def test_the_status_says_what_kind_of_failure_it_is(
    status: int, kind: str, body: bytes, session: bool, error: type[Exception]
) -> None:
    response, _ = answered(status, kind, [body])
    with pytest.raises(error) as failure:
        await Heard().read(response, session=session)
    if isinstance(failure.value, NotSpoken):
        assert failure.value.status == status


@pytest.mark.parametrize("theirs", ["server-error", 0, 5, "another-request"])
async def test_a_refusal_under_a_strange_id_is_believed_as_far_as_its_code(theirs: object) -> None:
    body = orjson.dumps({"jsonrpc": "2.0", "id": theirs, "error": {"code": -32600, "message": "secret", "data": 1}})
    with pytest.raises(UpstreamRefused) as refusal:
        await Heard().read(answered(400, "application/json", [body])[0])
    assert (refusal.value.code, refusal.value.data) == (-32600, None)
    assert "secret" not in str(refusal.value)
    with pytest.raises(UpstreamProtocolError):
        await Heard().read(answered(200, "application/json", [body])[0])


async def test_a_refusal_without_an_id_is_this_requests() -> None:
    body = orjson.dumps({"jsonrpc": "2.0", "id": None, "error": {"code": -32600, "message": "its words"}})
    with pytest.raises(UpstreamRefused, match="its words"):
        await Heard().read(answered(400, "application/json", [body])[0])
