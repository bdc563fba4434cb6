"""Streams that stay open: what is written when, what is left out, and how they end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from gateway.edge.outlets import Plain
from gateway.edge.standing import QUEUE, QUEUE_BYTES, Standing
from tests.support.asgi import FakeHttp
from tests.support.calls import until

NEVER = 3600.0
FIRST = b": open\n\n"


async def framed(data: bytes) -> bytes:
    return b"<" + data + b">"


@asynccontextmanager
async def standing(fake: FakeHttp, keep_alive: float = NEVER) -> AsyncIterator[tuple[Standing, asyncio.Task[None]]]:
    """A stream that has begun."""
    made = Standing(fake.request, framed, keep_alive=keep_alive)
    running = asyncio.create_task(made.run(FIRST, [(b"a", b"1")]))
    await until(lambda: fake.body or running.done())
    try:
        yield made, running
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_what_is_pushed_is_written_in_order_after_the_first_bytes() -> None:
    fake = FakeHttp(method="GET")
    async with standing(fake) as (made, _):
        made.push(b"1")
        made.push(b"2")
        await until(lambda: fake.body == FIRST + b"<1><2>")
        made.push(b"3")
        await until(lambda: fake.body == FIRST + b"<1><2><3>")
        assert (fake.status, fake.headers["a"], fake.ended) == (200, "1", False)


async def test_what_is_said_once_is_not_said_again_while_it_waits() -> None:
    fake = FakeHttp(method="GET")
    async with standing(fake) as (made, _):
        for data in (b"x", b"y", b"x", b"x"):
            made.push(data, once=True)
        made.push(b"x")
        await until(lambda: fake.body.endswith(b"<x><y><x>"))
        made.push(b"x", once=True)
        await until(lambda: fake.body.endswith(b"<x><y><x><x>"))


async def test_the_end_comes_after_what_is_queued() -> None:
    fake = FakeHttp(method="GET")
    async with standing(fake) as (made, running):
        made.push(b"last")
        made.end()
        made.end()
        await asyncio.wait_for(running, 5)
        assert fake.body == FIRST + b"<last>"
        assert fake.ended


async def test_a_stream_that_was_ended_before_it_began_ends_at_once() -> None:
    fake = FakeHttp(method="GET")
    made = Standing(fake.request, framed, keep_alive=NEVER)
    made.push(b"only")
    made.end()
    await asyncio.wait_for(made.run(FIRST), 5)
    assert fake.body == FIRST + b"<only>"
    assert fake.ended


async def test_a_client_that_leaves_ends_the_stream_and_nothing_is_written_to_it() -> None:
    fake = FakeHttp(method="GET")
    async with standing(fake) as (made, running):
        written = len(fake.sent)
        fake.disconnect()
        await asyncio.wait_for(running, 5)
        made.push(b"late")
        assert len(fake.sent) == written


TOO_MUCH = {
    "messages": [b"%d" % number for number in range(QUEUE + 1)],
    "bytes": [b"x" * (QUEUE_BYTES // 4)] * 5,
}


@pytest.mark.parametrize("pushed", TOO_MUCH.values(), ids=TOO_MUCH)
async def test_a_client_that_does_not_read_is_disconnected_when_too_much_waits(pushed: list[bytes]) -> None:
    fake = FakeHttp(method="GET")
    async with standing(fake) as (made, running):
        fake.block()
        made.push(b"stuck")
        await until(lambda: not made._queue)
        for data in pushed[:-1]:
            made.push(data)
        assert not running.cancelling()
        made.push(pushed[-1])
        await asyncio.wait_for(running, 5)  # although not a byte of it can be written
        assert not made._queue
        made.push(b"late")
        assert not made._queue
        assert fake.body == FIRST


async def test_one_message_of_any_size_is_written() -> None:
    fake = FakeHttp(method="GET")
    async with standing(fake) as (made, _):
        made.push(b"x" * (QUEUE_BYTES + 1))
        await until(lambda: len(fake.body) > QUEUE_BYTES)


async def test_a_client_that_catches_up_may_be_given_as_much_again() -> None:
    fake = FakeHttp(method="GET")
    async with standing(fake) as (made, running):
        for _ in range(5):
            for _ in range(3):
                made.push(b"x" * (QUEUE_BYTES // 4))
            await until(lambda: not made._queue)
        assert not running.done()


async def test_a_queue_that_is_just_full_is_written_and_goes_on() -> None:
    fake = FakeHttp(method="GET")
    async with standing(fake) as (made, running):
        fake.block()
        made.push(b"stuck")
        await until(lambda: not made._queue)
        for number in range(QUEUE):
            made.push(b"%d" % number)
        fake.unblock()
        await until(lambda: fake.body.endswith(b"<%d>" % (QUEUE - 1)))
        made.push(b"more")
        await until(lambda: fake.body.endswith(b"<more>"))
        assert not running.done()


async def test_a_repeated_text_does_not_overflow_a_full_queue() -> None:
    fake = FakeHttp(method="GET")
    async with standing(fake) as (made, running):
        fake.block()
        made.push(b"stuck")
        await until(lambda: not made._queue)
        for number in range(QUEUE):
            made.push(b"%d" % number)
        made.push(b"0", once=True)
        fake.unblock()
        await until(lambda: fake.body.endswith(b"<%d>" % (QUEUE - 1)))
        assert not running.done()


async def test_in_silence_a_comment_is_written() -> None:
    fake = FakeHttp(method="GET")
    async with standing(fake, keep_alive=0.001):
        await until(lambda: fake.body.count(b": keep-alive\n\n") > 2)


async def test_cancelling_it_leaves_nothing_behind() -> None:
    before = asyncio.all_tasks()
    fake = FakeHttp(method="GET")
    async with standing(fake) as (_, running):
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    assert asyncio.all_tasks() == before


async def test_a_stream_of_plain_events_is_what_clients_parse() -> None:
    fake = FakeHttp(method="GET")
    made = Standing(fake.request, Plain().event, keep_alive=NEVER)
    made.push(b'{"a":1}')
    made.end()
    await asyncio.wait_for(made.run(FIRST), 5)
    assert fake.events == [{"a": 1}]
