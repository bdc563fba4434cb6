"""The one door of an upstream: how many go through at once, and for how long."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import timedelta
from typing import Any

import pytest

from catalogue.model import Server
from gateway.calls import Answer, Outlet
from gateway.errors import UpstreamTimeout, UpstreamUnavailable
from gateway.policy.pipeline import CallPermit, Pipeline
from gateway.sessions.registry import SessionRegistry
from gateway.upstream.exchange import Aside
from gateway.upstream.transport import Bulkhead
from gateway.upstream.upstream import Deadline, Upstream
from tests.support.calls import FakeClock, MemoryOutlet, MemoryRecorder, call, item, until
from tests.support.stores import MemoryChanges, MemorySessionStore
from tests.support.worlds import TLS


def server(**fields: Any) -> Server:
    return Server("one", "1", "http://one.test/mcp", **fields)


class Held(Upstream):
    """An upstream whose calls stay until they are let go; `inside` is how many are at it."""

    def __init__(self, of: Server) -> None:
        registry = SessionRegistry(MemorySessionStore(), MemoryChanges(), clock=FakeClock(), idle=timedelta(hours=1))
        super().__init__(of, TLS, registry, lambda *_: None)
        self.inside = 0
        self.let_go = asyncio.Event()

    async def _attempt(self, permit: CallPermit, outlet: Outlet, aside: Aside) -> Answer:
        self.inside += 1
        try:
            await self.let_go.wait()
        finally:
            self.inside -= 1
        return Answer({"content": []})


def asked(upstream: Upstream, recorder: MemoryRecorder | None = None) -> asyncio.Task[Answer]:
    """A call through the pipeline, as any call goes."""
    pipeline = Pipeline((), (), recorder or MemoryRecorder())
    of = call(of=item(server=upstream.server))
    return asyncio.create_task(pipeline.enforce(of, MemoryOutlet(), upstream.forward))


async def test_as_many_calls_as_the_server_takes_are_in_flight_and_the_others_wait() -> None:
    upstream = Held(server(concurrency=3))
    tasks = [asked(upstream) for _ in range(10)]
    await until(lambda: upstream.inside == 3)
    for _ in range(5):
        await asyncio.sleep(0)
    assert upstream.inside == 3
    upstream.let_go.set()
    assert len(await asyncio.gather(*tasks)) == 10


async def test_when_four_times_as_many_wait_the_next_is_refused_at_once() -> None:
    upstream = Held(server(concurrency=2))
    tasks = [asked(upstream) for _ in range(2 + 8)]
    await until(lambda: upstream._bulkhead._waiting == 8)
    with pytest.raises(UpstreamUnavailable, match="busy"):
        await asked(upstream)
    upstream.let_go.set()
    await asyncio.gather(*tasks)


async def test_a_caller_that_gives_up_waiting_leaves_its_place() -> None:
    upstream = Held(server(concurrency=1))
    tasks = [asked(upstream) for _ in range(5)]
    await until(lambda: upstream._bulkhead._waiting == 4)
    tasks[-1].cancel()
    await until(tasks[-1].done)
    assert upstream._bulkhead._waiting == 3
    tasks[-1] = asked(upstream)
    await until(lambda: upstream._bulkhead._waiting == 4)
    upstream.let_go.set()
    await asyncio.gather(*tasks)


async def test_a_call_that_takes_too_long_is_timed_out_and_its_place_is_free_again() -> None:
    upstream = Held(server(concurrency=1, deadline=0.01))
    recorder = MemoryRecorder()
    with pytest.raises(UpstreamTimeout, match=r"within 0\.01 s"):
        await asked(upstream, recorder)
    assert recorder.lines[-1][2:] == ("failed", "upstream_timeout")
    assert upstream.inside == 0
    upstream.let_go.set()
    assert (await asked(upstream)).value == {"content": []}


async def test_waiting_for_a_place_is_part_of_the_time_a_call_may_take() -> None:
    upstream = Held(server(concurrency=1, deadline=0.02))
    recorder = MemoryRecorder()
    tasks = [asked(upstream, recorder) for _ in range(4)]
    async with asyncio.timeout(5):
        results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [UpstreamTimeout] * 4
    assert [line[2:] for line in recorder.lines if line[0] == "closed"] == [("failed", "upstream_timeout")] * 4


async def test_a_refused_call_leaves_no_deadline_behind_that_could_cancel_its_task() -> None:
    upstream = Held(server(concurrency=1, deadline=0.02))
    tasks = [asked(upstream) for _ in range(5)]
    await until(lambda: upstream._bulkhead._waiting == 4)
    with pytest.raises(UpstreamUnavailable):
        await upstream.forward(CallPermit(call(of=item(server=upstream.server))), MemoryOutlet())
    results = await asyncio.gather(*tasks, return_exceptions=True)  # this task goes on beyond the deadline of the call
    assert all(isinstance(result, UpstreamTimeout) for result in results)


async def test_a_client_that_cancels_is_not_a_deadline_that_passed() -> None:
    upstream = Held(server(deadline=60))
    recorder = MemoryRecorder()
    task = asked(upstream, recorder)
    await until(lambda: upstream.inside == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert recorder.lines[-1][2:] == ("cancelled", "")


async def test_a_deadline_takes_only_its_own_cancellation_back() -> None:
    async def work(*, cancelled_too: bool) -> bool:
        deadline = Deadline(0)
        task = asyncio.current_task()
        assert task is not None
        if cancelled_too:
            asyncio.get_running_loop().call_soon(task.cancel)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            for _ in range(3):  # both have come by now
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(0)
        finally:
            deadline.cancel()
        return deadline.passed()

    assert await asyncio.create_task(work(cancelled_too=False)) is True
    assert await asyncio.create_task(work(cancelled_too=True)) is False


async def test_a_deadline_that_was_kept_cancels_nobody() -> None:
    deadline = Deadline(0)
    deadline.cancel()
    for _ in range(3):
        await asyncio.sleep(0)
    assert not deadline.passed()


async def test_places_are_given_in_the_order_of_asking() -> None:
    bulkhead = Bulkhead(server(concurrency=1))
    order: list[int] = []

    async def one(number: int) -> None:
        async with bulkhead:
            order.append(number)
            await asyncio.sleep(0)

    await asyncio.gather(*(one(number) for number in range(5)))
    assert order == [0, 1, 2, 3, 4]
