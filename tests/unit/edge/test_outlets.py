"""The response to one POST: JSON or a stream, and what a lost connection does to either."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
import pytest

from gateway.calls import Answer, Message, MessageKind
from gateway.edge.http import ClientGone
from gateway.edge.outlets import Plain, PostOutlet, message_text
from tests.support.asgi import FakeHttp
from tests.support.calls import until

NEVER = 3600.0
LOG = Message(MessageKind.NOTIFICATION, "notifications/message", Answer({"level": "info", "data": 1}))
QUESTION = Message(MessageKind.REQUEST, "elicitation/create", Answer({"message": "?"}), "u1", "one@1")
RESULT = b'{"jsonrpc":"2.0","id":1,"result":{}}'


class Kept:
    """A framing that notes what is done with it."""

    def __init__(self) -> None:
        self.steps: list[str] = []

    async def start(self) -> bytes:
        self.steps.append("start")
        return b": begin\n\n"

    async def event(self, data: bytes) -> bytes:
        self.steps.append("event")
        return b"data: " + data + b"\n\n"

    async def end(self) -> None:
        self.steps.append("end")


def outlet(fake: FakeHttp, framing: Kept | Plain | None = None, **more: Any) -> PostOutlet:
    fields: dict[str, Any] = {"grace": NEVER, "keep_alive": NEVER, **more}
    return PostOutlet(fake.request, framing or Kept(), **fields)


async def test_an_answer_that_comes_soon_is_json_with_its_status_and_headers() -> None:
    fake, kept = FakeHttp(), Kept()
    made = outlet(fake, kept, headers=[(b"a", b"1")])
    await made.finish(404, b"{}", [(b"b", b"2")])
    await made.close()
    assert (fake.status, fake.body, fake.ended) == (404, b"{}", True)
    assert (fake.headers["content-type"], fake.headers["a"], fake.headers["b"]) == ("application/json", "1", "2")
    assert kept.steps == []
    assert not made.streaming


async def test_the_first_message_makes_the_response_a_stream_and_the_answer_is_its_last_event() -> None:
    fake, kept = FakeHttp(), Kept()
    made = outlet(fake, kept, headers=[(b"a", b"1")])
    await made.send(LOG)
    assert made.streaming
    await made.finish(200, RESULT)
    assert (fake.status, fake.headers["content-type"], fake.headers["a"]) == (200, "text/event-stream", "1")
    assert [event.get("method", "result") for event in fake.events] == ["notifications/message", "result"]
    assert fake.ended
    assert kept.steps == ["start", "event", "event", "end"]


async def test_a_stream_is_opened_when_the_grace_has_passed() -> None:
    fake = FakeHttp()
    made = outlet(fake, grace=0)
    await until(lambda: fake.body == b": begin\n\n")
    await made.finish(200, RESULT)
    assert fake.chunks == [b": begin\n\n", b"data: " + RESULT + b"\n\n", b""]


async def test_an_upstream_that_will_take_its_time_opens_the_stream_at_once() -> None:
    fake = FakeHttp()
    made = outlet(fake)
    made.opened()
    made.opened()
    await until(lambda: fake.status == 200)
    await made.finish(200, RESULT)
    assert sum(message["type"] == "http.response.start" for message in fake.sent) == 1


async def test_after_a_json_answer_the_grace_opens_nothing() -> None:
    fake = FakeHttp()
    made = outlet(fake, grace=0)
    await made.finish(200, RESULT)
    for _ in range(5):
        await asyncio.sleep(0)
    assert not made.streaming
    assert len(fake.sent) == 2


async def test_a_stream_without_an_answer_ends_too() -> None:
    fake, kept = FakeHttp(), Kept()
    made = outlet(fake, kept)
    made.opened()
    await made.close()
    assert fake.ended
    assert kept.steps == ["start", "end"]


async def test_closing_twice_ends_the_response_once() -> None:
    fake, kept = FakeHttp(), Kept()
    made = outlet(fake, kept)
    await made.send(LOG)
    await made.finish(200, RESULT)
    await made.close()
    await made.close()
    assert kept.steps.count("end") == 1
    assert [message.get("more_body", False) for message in fake.sent[1:]].count(False) == 1


async def test_closing_before_anything_was_said_says_nothing() -> None:
    fake = FakeHttp()
    await outlet(fake).close()
    assert fake.sent == []


async def test_in_silence_a_comment_keeps_the_connection() -> None:
    fake = FakeHttp()
    made = outlet(fake, keep_alive=0.001)
    made.opened()
    await until(lambda: fake.body.count(b": keep-alive\n\n") > 2)
    await made.close()
    written = len(fake.sent)
    for _ in range(5):
        await asyncio.sleep(0)
    assert len(fake.sent) == written, "nothing follows the end"


async def answering(fake: FakeHttp, survives: bool, act: Callable[[PostOutlet], Awaitable[None]]) -> PostOutlet:
    """As the edge answers: an outlet owned by this task, closed whatever happens."""
    made = outlet(fake, survives=survives)
    try:
        await act(made)
    except asyncio.CancelledError:
        task = asyncio.current_task()
        assert task is not None
        assert made.cancelled
        task.uncancel()
    finally:
        await made.close()
    return made


async def test_in_stateless_revisions_a_client_that_leaves_cancels_its_request() -> None:
    fake = FakeHttp()
    reached: list[str] = []

    async def act(made: PostOutlet) -> None:
        made.opened()
        await asyncio.Event().wait()
        reached.append("answer")

    task = asyncio.create_task(answering(fake, False, act))
    await until(lambda: fake.body)
    fake.disconnect()
    made = await asyncio.wait_for(task, 5)
    assert made.cancelled
    assert reached == []


async def test_in_sessions_a_client_that_leaves_does_not_and_what_follows_is_kept_for_its_return() -> None:
    fake, kept = FakeHttp(), Kept()
    made = outlet(fake, kept, survives=True)
    made.opened()
    await until(lambda: fake.body)
    written = len(fake.sent)
    fake.disconnect()
    await until(lambda: made._gone)
    await made.send(LOG)
    await made.finish(200, RESULT)
    assert kept.steps == ["start", "event", "event", "end"]
    assert len(fake.sent) == written, "nothing is written to a lost connection"
    assert not made.cancelled


async def test_a_client_that_does_not_read_is_one_that_left(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeHttp()

    async def broken(_: bytes) -> None:
        raise ClientGone

    async def act(made: PostOutlet) -> None:
        made.opened()
        await until(lambda: fake.body)
        monkeypatch.setattr(type(made._request), "write", lambda self, chunk: broken(chunk))
        await made.send(LOG)
        await asyncio.Event().wait()

    made = await asyncio.wait_for(asyncio.create_task(answering(fake, False, act)), 5)
    assert made.cancelled


async def test_messages_sent_at_once_are_whole_and_in_order() -> None:
    fake = FakeHttp()
    made = outlet(fake)
    numbered = [Message(MessageKind.NOTIFICATION, "n", Answer({"n": number})) for number in range(20)]
    await asyncio.gather(*(made.send(message) for message in numbered))
    await made.finish(200, RESULT)
    assert [event["params"]["n"] for event in fake.events[:-1]] == list(range(20))


async def test_every_message_waits_until_the_stream_has_begun() -> None:
    fake = FakeHttp()
    fake.block()
    made = outlet(fake)
    sending = asyncio.create_task(made.send(LOG))
    await until(lambda: made.streaming)
    assert fake.sent == []
    fake.unblock()
    await sending
    assert fake.chunks[0] == b": begin\n\n"
    await made.finish(200, RESULT)


# --- texts


def test_a_notification_is_the_bytes_that_came() -> None:
    raw = b'{"a": 1.50, "b":12345678901234567890123}'
    text = message_text(Message(MessageKind.NOTIFICATION, "notifications/\u00e9", Answer({}, raw)), None)
    assert text == b'{"jsonrpc":"2.0","method":"notifications/\xc3\xa9","params":' + raw + b"}"


def test_a_question_goes_out_under_the_name_it_is_given() -> None:
    named: list[Message] = []

    def naming(message: Message) -> str:
        named.append(message)
        return 'sealed"id'

    decoded = orjson.loads(message_text(QUESTION, naming))
    assert decoded == {"jsonrpc": "2.0", "id": 'sealed"id', "method": "elicitation/create", "params": {"message": "?"}}
    assert named == [QUESTION]


def test_a_client_that_cannot_be_asked_gets_no_question() -> None:
    with pytest.raises(ClientGone):
        message_text(QUESTION, None)


async def test_plain_events_carry_no_ids() -> None:
    plain = Plain()
    assert await plain.start() == b": open\n\n"
    assert await plain.event(b"{}") == b"event: message\ndata: {}\n\n"
    await plain.end()
