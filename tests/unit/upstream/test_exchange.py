"""One request at an upstream: what of its answer is passed on, what is refused, and what is never a result."""

from __future__ import annotations

import itertools
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalogue.model import Server
from gateway.errors import UpstreamProtocolError, UpstreamRefused
from gateway.upstream.exchange import Exchange
from tests.support.calls import MemoryOutlet

SERVER = Server("one", "1", "http://one.test/mcp", max_event_bytes=2048)
ID = "0123456789abcdef"
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


# --- progress


async def test_progress_goes_to_the_client_under_its_own_token() -> None:
    for token in (0, "", "abc"):
        heard = Heard(progress_token=token)
        await heard.tell("notifications/progress", {"progressToken": ID, "progress": 1, "total": 2})
        assert heard.passed == [{"progressToken": token, "progress": 1, "total": 2}]


async def test_progress_that_nobody_asked_for_is_dropped() -> None:
    heard = Heard()
    await heard.tell("notifications/progress", {"progressToken": ID, "progress": 1})
    assert not heard.passed
    assert not heard.aside


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
    assert all(later > earlier for earlier, later in itertools.pairwise(passed))
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
    assert not heard.passed
    assert not heard.aside


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
    assert heard.aside == [
        ("notifications/tools/list_changed", {}),
        ("notifications/resources/updated", {"uri": "a:b"}),
    ]
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
    assert not heard.asked
    assert not heard.passed


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
    assert not heard.passed
    assert not heard.aside


GARBAGE = [
    b"",
    b"x",
    b"[]",
    b"5",
    b"null",
    b'"x"',
    b"\xff",
    b"{" * 1000,
    b'{"jsonrpc":"2.0","method":"x","params":[1]}',
]
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
