"""The one road to an upstream: what happens in which order, and what stops it."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable
from enum import StrEnum

import pytest

from catalogue.model import Kind
from gateway.calls import Answer, Call, Message, MessageKind, Outcome, Outlet
from gateway.errors import (
    Denied,
    SessionGone,
    StorageUnavailable,
    UnknownName,
    UpstreamRefused,
    UpstreamTimeout,
)
from gateway.policy.decision import ALLOW, Decision, Deny, Rewrite
from gateway.policy.pipeline import CallPermit, Pipeline
from gateway.policy.stage import RequestStage, ResultStage
from tests.support.calls import MemoryOutlet, MemoryRecorder, call, item

RESULT = Answer({"content": []})
CLOSED = ("closed", "call-1")


class Reason(StrEnum):
    NO = "no"


class Path:
    """A pipeline of scripted stages, and a note of everything that was touched, in order."""

    def __init__(self, *, refusing: tuple[str, ...] = ()) -> None:
        self.order: list[str] = []
        self.forwarded: list[CallPermit] = []
        self.outlet = MemoryOutlet()
        self.recorder = MemoryRecorder(refusing=refusing)
        self.request_stages: list[RequestStage] = []
        self.result_stages: list[ResultStage] = []

    def on_request(self, name: str, decide: Callable[[Call], Decision[Call]] = lambda _: ALLOW) -> None:
        self.request_stages.append(OnRequest(self, name, decide))

    def on_message(self, name: str, decide: Callable[[Message], Decision[Message]] = lambda _: ALLOW) -> None:
        self.result_stages.append(OnMessage(self, name, decide))

    async def enforce(
        self, forward: Callable[[CallPermit, Outlet], Awaitable[Answer]] | None = None, of: Call | None = None
    ) -> Answer:
        async def answer(permit: CallPermit, _: Outlet) -> Answer:
            self.order.append("forward")
            self.forwarded.append(permit)
            return RESULT

        pipeline = Pipeline(self.request_stages, self.result_stages, Noting(self))
        return await pipeline.enforce(of or call(), self.outlet, forward or answer)


class OnRequest:
    def __init__(self, path: Path, name: str, decide: Callable[[Call], Decision[Call]]) -> None:
        self.name = name
        self._path, self._decide = path, decide

    async def on_request(self, call: Call) -> Decision[Call]:
        self._path.order.append(self.name)
        return self._decide(call)


class OnMessage:
    def __init__(self, path: Path, name: str, decide: Callable[[Message], Decision[Message]]) -> None:
        self.name = name
        self._path, self._decide = path, decide

    async def on_message(self, call: Call, message: Message) -> Decision[Message]:
        self._path.order.append(f"{self.name}:{message.kind}")
        return self._decide(message)


class Noting:
    def __init__(self, path: Path) -> None:
        self._path = path

    async def opened(self, call: Call) -> None:
        self._path.order.append("opened")
        await self._path.recorder.opened(call)

    async def closed(self, call: Call, outcome: Outcome, detail: str) -> None:
        self._path.order.append("closed")
        await self._path.recorder.closed(call, outcome, detail)


def deny(_: object) -> Deny:
    return Deny(Reason.NO, "Not now.", retry_after_ms=250)


def fail(_: object) -> Decision[Call]:
    raise RuntimeError("a bug")


async def test_a_call_is_recorded_admitted_forwarded_released_and_recorded_in_this_order() -> None:
    path = Path()
    path.on_request("first")
    path.on_request("second")
    path.on_message("third")
    path.on_message("fourth")
    assert await path.enforce() is RESULT
    assert path.order == ["opened", "first", "second", "forward", "third:result", "fourth:result", "closed"]
    assert path.recorder.lines == [("opened", "call-1"), (*CLOSED, "result", "")]


async def test_a_denied_call_is_never_forwarded_and_no_later_stage_sees_it() -> None:
    path = Path()
    path.on_request("first", deny)
    path.on_request("second")
    with pytest.raises(Denied) as refusal:
        await path.enforce()
    denied = refusal.value
    assert (denied.stage, denied.reason, str(denied), denied.retry_after_ms) == ("first", "no", "Not now.", 250)
    assert denied.answered_as is None
    assert path.order == ["opened", "first", "closed"]
    assert path.recorder.lines[-1] == (*CLOSED, "denied", "first:no")


async def test_a_denial_carries_what_it_is_answered_as() -> None:
    absent = UnknownName("tool")
    path = Path()
    path.on_request("first", lambda _: Deny(Reason.NO, "Unknown tool", answered_as=absent))
    with pytest.raises(Denied) as refusal:
        await path.enforce()
    assert refusal.value.answered_as is absent


async def test_a_request_stage_that_raises_denies() -> None:
    path = Path()
    path.on_request("broken", fail)
    with pytest.raises(Denied) as refusal:
        await path.enforce()
    assert (refusal.value.stage, refusal.value.reason) == ("broken", "stage_failed")
    assert path.forwarded == []
    assert path.recorder.lines[-1] == (*CLOSED, "denied", "broken:stage_failed")


async def test_a_result_stage_that_raises_denies_and_the_answer_does_not_leave() -> None:
    path = Path()
    path.on_message("broken", lambda _: 1 / 0)  # type: ignore[arg-type, return-value]
    with pytest.raises(Denied) as refusal:
        await path.enforce()
    assert (refusal.value.stage, refusal.value.reason) == ("broken", "stage_failed")
    assert "division" not in str(refusal.value)
    assert path.recorder.lines[-1] == (*CLOSED, "denied", "broken:stage_failed")


async def test_a_rewritten_call_is_what_later_stages_see_and_what_is_forwarded() -> None:
    rewritten = call(params={"name": "echo", "arguments": {"masked": True}})
    seen: list[Call] = []
    path = Path()
    path.on_request("rewriting", lambda _: Rewrite(rewritten))
    path.on_request("looking", lambda it: seen.append(it) or ALLOW)  # type: ignore[func-returns-value]
    await path.enforce()
    assert seen == [rewritten]
    assert path.forwarded[0].call is rewritten


async def test_a_rewritten_result_is_what_later_stages_see_and_what_leaves() -> None:
    rewritten = Answer({"content": [{"type": "text", "text": "***"}]})
    seen: list[Answer] = []
    path = Path()
    path.on_message("rewriting", lambda message: Rewrite(dataclasses.replace(message, answer=rewritten)))
    path.on_message("looking", lambda it: seen.append(it.answer) or ALLOW)  # type: ignore[func-returns-value]
    assert await path.enforce() is rewritten
    assert seen == [rewritten]


async def test_a_call_that_cannot_be_recorded_does_not_begin() -> None:
    path = Path(refusing=("opened",))
    path.on_request("first")
    with pytest.raises(StorageUnavailable):
        await path.enforce()
    assert path.order == ["opened"]


async def test_an_answer_whose_end_cannot_be_recorded_does_not_leave() -> None:
    path = Path(refusing=("closed",))
    with pytest.raises(StorageUnavailable):
        await path.enforce()
    assert path.forwarded


async def test_a_cancelled_call_is_closed_as_cancelled() -> None:
    path = Path()
    entered = asyncio.Event()

    async def forward(permit: CallPermit, outlet: Outlet) -> Answer:
        entered.set()
        await asyncio.Event().wait()
        return RESULT

    task = asyncio.create_task(path.enforce(forward))
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert path.recorder.lines == [("opened", "call-1"), (*CLOSED, "cancelled", "")]


@pytest.mark.parametrize(
    ("error", "outcome", "detail"),
    [
        (UpstreamTimeout("one", "late"), "failed", "upstream_timeout"),
        (UpstreamRefused("one", -32000, "no"), "failed", "upstream_refused"),
        (SessionGone("gone"), "failed", "SessionGone"),
        (KeyError("a caller's text"), "failed", "internal"),
    ],
)
async def test_a_call_that_fails_is_closed_with_a_code_and_never_with_a_text(
    error: Exception, outcome: str, detail: str
) -> None:
    path = Path()

    async def forward(permit: CallPermit, outlet: Outlet) -> Answer:
        raise error

    with pytest.raises(type(error)):
        await path.enforce(forward)
    assert path.recorder.lines[-1] == (*CLOSED, outcome, detail)


@pytest.mark.parametrize(
    ("value", "outcome"),
    [
        ({"content": []}, "result"),
        ({"content": [], "isError": False}, "result"),
        ({"content": [], "isError": "true"}, "result"),
        ({"content": [], "isError": True}, "tool_error"),
        ({"resultType": "complete"}, "result"),
        ({"resultType": "input_required"}, "input_required"),
    ],
)
async def test_the_record_says_what_became_of_the_call(value: dict[str, object], outcome: str) -> None:
    path = Path()

    async def forward(permit: CallPermit, outlet: Outlet) -> Answer:
        return Answer(value)

    await path.enforce(forward)
    assert path.recorder.lines[-1] == (*CLOSED, outcome, "")


async def test_every_message_of_a_call_passes_the_result_stages_before_the_client_gets_it() -> None:
    path = Path()
    path.on_message("marking", lambda message: Rewrite(dataclasses.replace(message, method="marked")))
    notification = Message(MessageKind.NOTIFICATION, "notifications/message", Answer({}))

    async def forward(permit: CallPermit, outlet: Outlet) -> Answer:
        outlet.opened()
        await outlet.send(notification)
        return RESULT

    await path.enforce(forward)
    assert path.outlet.is_open
    assert [message.method for message in path.outlet.sent] == ["marked"]
    assert path.order == ["opened", "marking:notification", "marking:result", "closed"]


async def test_a_denied_message_ends_the_call_where_it_is() -> None:
    path = Path()
    path.on_message("guarding", lambda message: ALLOW if message.kind is MessageKind.RESULT else deny(message))
    later: list[str] = []

    async def forward(permit: CallPermit, outlet: Outlet) -> Answer:
        await outlet.send(Message(MessageKind.REQUEST, "elicitation/create", Answer({}), "u1", "one@1"))
        later.append("went on")
        return RESULT

    with pytest.raises(Denied):
        await path.enforce(forward)
    assert not path.outlet.sent
    assert not later
    assert path.recorder.lines[-1] == (*CLOSED, "denied", "guarding:no")


async def test_a_permit_takes_a_newer_header_map_and_nothing_else() -> None:
    path = Path()
    await path.enforce()
    permit = path.forwarded[0]
    newer = dataclasses.replace(item(name="other"), header_map={("region",): "Mcp-Param-Region"})
    renewed = permit.with_headers_of(newer)
    assert renewed.call.item is not None
    assert renewed.call.item.header_map == newer.header_map
    assert dataclasses.replace(renewed.call, item=permit.call.item) == permit.call
    assert renewed.call.item.upstream_name == "echo"


async def test_a_permit_of_a_call_without_an_item_stays_the_same() -> None:
    path = Path()
    await path.enforce(of=dataclasses.replace(call(), item=None))
    permit = path.forwarded[0]
    assert permit.with_headers_of(item(Kind.RESOURCE)) is permit
