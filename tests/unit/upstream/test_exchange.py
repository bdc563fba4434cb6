"""One request at an upstream: what of its answer is passed on, what is refused, and what is never a result."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
LEVELS = ["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"]


class Heard:
    """An exchange, and everything it passed on."""

    def __init__(self, *, asks: bool = True, **more: Any) -> None:
        self.outlet = MemoryOutlet()
        self.aside: list[tuple[str, dict[str, Any]]] = []
        self.asked: list[tuple[str, dict[str, Any], object]] = []
        self.exchange = Exchange(
            SERVER,
            ID,
            self.outlet,
            aside=lambda method, params: self.aside.append((method, params)),
            asked=self._asked if asks else None,
            **more,
        )

    async def _asked(self, method: str, params: dict[str, Any], upstream_id: str | int) -> None:
        self.asked.append((method, params, upstream_id))

    async def tell(self, method: str, params: Any = None, **more: Any) -> None:
        message = {"jsonrpc": "2.0", "method": method, **more}
        if params is not None:
            message["params"] = params
        assert await self.exchange.message(orjson.dumps(message)) is None

    @property
    def passed(self) -> list[dict[str, Any]]:
        return [message.answer.value for message in self.outlet.sent]

    async def read(self, response: Response, *, session: bool = False) -> Answer | None:
        return await self.exchange.read(Transport(SERVER, TLS), response, session=session)


# --- progress


async def test_progress_goes_to_the_client_under_its_own_token() -> None:
    for token in (0, "", "abc"):
        heard = Heard(progress_token=token)
        await heard.tell("notifications/progress", {"progressToken": ID, "progress": 1, "total": 2})
        assert heard.passed == [{"progressToken": token, "progress": 1, "total": 2}]


async def test_progress_that_nobody_asked_for_is_dropped() -> None:
    heard = Heard()
    await heard.tell("notifications/progress", {"progressToken": ID, "progress": 1})
    assert heard.passed == heard.aside == []


@pytest.mark.parametrize("token", ["other", None, 5, ID.upper()])
async def test_progress_of_another_request_is_dropped(token: Any) -> None:
    heard = Heard(progress_token="t")
    await heard.tell("notifications/progress", {"progressToken": token, "progress": 1})
    assert heard.passed == []


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(-5, 5) | st.sampled_from([0.5, 1.5, -0.5])))
def test_progress_only_ever_grows(told: list[float]) -> None:
    heard = Heard(progress_token="t")
    for progress in told:
        step = heard.tell("notifications/progress", {"progressToken": ID, "progress": progress})
        with pytest.raises(StopIteration):
            step.send(None)
    passed = [params["progress"] for params in heard.passed]
    assert all(later > earlier for earlier, later in zip(passed, passed[1:], strict=False))
    assert not told or passed[0] == told[0]
    assert not told or passed[-1] == max(told)


@pytest.mark.parametrize("progress", [None, "1", [], {}])
async def test_progress_that_is_no_number_is_dropped(progress: Any) -> None:
    heard = Heard(progress_token="t")
    await heard.tell("notifications/progress", {"progressToken": ID, "progress": progress})
    assert heard.passed == []


# --- log messages


@pytest.mark.parametrize("wanted", LEVELS)
async def test_log_messages_below_the_wanted_level_are_dropped(wanted: str) -> None:
    heard = Heard(log_level=wanted)
    for level in LEVELS:
        await heard.tell("notifications/message", {"level": level, "data": 1})
    assert [params["level"] for params in heard.passed] == LEVELS[LEVELS.index(wanted) :]


async def test_a_client_that_wants_no_log_messages_gets_none() -> None:
    heard = Heard(log_level=None)
    await heard.tell("notifications/message", {"level": "emergency", "data": 1})
    assert heard.passed == heard.aside == []


@pytest.mark.parametrize("level", [None, "loud", 5, [], {}])
async def test_a_log_message_of_an_unknown_level_is_never_lost_to_the_filter(level: Any) -> None:
    heard = Heard(log_level="emergency")
    await heard.tell("notifications/message", {"level": level, "data": 1})
    assert len(heard.passed) == 1


# --- what belongs to no request


async def test_other_notifications_are_put_aside_and_not_sent_to_this_client() -> None:
    heard = Heard(progress_token="t", log_level="debug")
    await heard.tell("notifications/tools/list_changed")
    await heard.tell("notifications/resources/updated", {"uri": "a:b"})
    assert heard.aside == [("notifications/tools/list_changed", {}), ("notifications/resources/updated", {"uri": "a:b"})]
    assert heard.passed == []


@pytest.mark.parametrize("upstream_id", [0, -1, "", "x"])
async def test_a_request_of_the_server_keeps_its_id_and_its_type(upstream_id: str | int) -> None:
    heard = Heard()
    await heard.tell("roots/list", {}, id=upstream_id)
    assert heard.asked == [("roots/list", {}, upstream_id)]
    assert type(heard.asked[0][2]) is type(upstream_id)


@pytest.mark.parametrize("upstream_id", [None, True, 1.5, [], {}])
async def test_a_request_of_the_server_without_a_usable_id_is_its_fault(upstream_id: Any) -> None:
    with pytest.raises(UpstreamProtocolError):
        await Heard().tell("roots/list", {}, id=upstream_id)


async def test_where_nobody_can_be_asked_a_request_of_the_server_is_dropped() -> None:
    heard = Heard(asks=False)
    await heard.tell("roots/list", {}, id=1)
    assert heard.asked == heard.passed == []


# --- results


async def test_the_result_is_the_bytes_that_came() -> None:
    raw = b'{ "content":[ ],"n":12345678901234567890123, "x":1.50}'
    found = await Heard().exchange.message(b'{"jsonrpc":"2.0","id":"' + ID.encode() + b'","result":' + raw + b"}")
    assert found is not None
    assert found.raw == raw


@pytest.mark.parametrize(
    "response",
    [
        {"id": "other", "result": {}},
        {"id": None, "result": {}},
        {"id": 5, "error": {"code": 1, "message": "x"}},
        {"result": {}},
        {"id": ID.upper(), "result": {"stolen": True}},
    ],
)
async def test_a_response_to_another_request_is_never_this_ones_result(response: dict[str, Any]) -> None:
    heard = Heard()
    assert await heard.exchange.message(orjson.dumps({"jsonrpc": "2.0", **response})) is None
    assert heard.passed == heard.aside == []


GARBAGE = [b"", b"x", b"[]", b"5", b"null", b'"x"', b"\xff", b"{" * 1000, b'{"jsonrpc":"2.0","method":"x","params":[1]}']
GARBAGE += [
    b'{"jsonrpc":"2.0","id":"' + ID.encode() + b'"' + rest + b"}"
    for rest in (b"", b',"result":5', b',"result":null', b',"result":{},"error":{}', b',"error":5', b',"error":{}')
]
GARBAGE += [b'{"id":"' + ID.encode() + b'","result":{}}', b'{"jsonrpc":"1.0","id":"' + ID.encode() + b'","result":{}}']


@pytest.mark.parametrize("data", GARBAGE, ids=lambda data: repr(data[:40]))
async def test_garbage_is_the_upstreams_fault_and_its_text_is_not_repeated(data: bytes) -> None:
    with pytest.raises(UpstreamProtocolError) as fault:
        await Heard().exchange.message(data)
    assert str(fault.value).startswith("The server one ")
    assert ID not in str(fault.value)


async def test_an_error_of_the_upstream_keeps_code_text_and_data() -> None:
    message = {"jsonrpc": "2.0", "id": ID, "error": {"code": -32602, "message": "no", "data": [1]}}
    with pytest.raises(UpstreamRefused) as refusal:
        await Heard().exchange.message(orjson.dumps(message))
    assert (refusal.value.code, str(refusal.value), refusal.value.data) == (-32602, "no", [1])


@pytest.mark.parametrize("code", [None, "1", 1.5, True])
async def test_an_error_without_a_code_is_no_error_of_the_protocol(code: Any) -> None:
    message = {"jsonrpc": "2.0", "id": ID, "error": {"code": code, "message": "no"}}
    with pytest.raises(UpstreamProtocolError):
        await Heard().exchange.message(orjson.dumps(message))


# --- whole answers


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
