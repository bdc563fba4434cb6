"""What flows while a call runs: progress, log messages, cancellation, and results that outlive a connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest

from tests.support.clients import NEWEST, OLDEST, REVISIONS, SECONDS, ChannelClient, Events, ModernClient, SessionClient
from tests.support.federation import Federation, acting, federation, last
from tests.support.upstream_eras import of_each_revision, slug_of
from tests.support.upstreams import Exchange

ERAS = (OLDEST, "2025-11-25", NEWEST)
PROGRESS = "notifications/progress"
LOG = "notifications/message"
LOG_LEVEL = "io.modelcontextprotocol/logLevel"


@pytest.fixture(scope="module")
async def world(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Federation]:
    settings: dict[str, Any] = {"stream_grace": 0.05, "keep_alive": 0.05}
    async with federation(database_url, tmp_path_factory.mktemp("state"), of_each_revision(), **settings) as running:
        yield running


def note(exchange: Exchange, progress: float, **more: Any) -> dict[str, Any]:
    token = exchange.params.get("_meta", {}).get("progressToken", exchange.id)
    return {"progressToken": token, "progress": progress, "total": 9, **more}


async def answer(exchange: Exchange, *, closing: bool = True) -> None:
    result = {"content": [{"type": "text", "text": "done"}]}
    await exchange.event({"jsonrpc": "2.0", "id": exchange.id, "result": result}, last=closing)


@pytest.mark.parametrize("upstream", REVISIONS)
@pytest.mark.parametrize("client", REVISIONS)
async def test_progress_comes_with_the_clients_token_and_only_ever_grows(
    world: Federation, client: str, upstream: str
) -> None:
    """P54, P24: no request on the stream, no progress of another token, none after the response."""
    slug = slug_of(upstream)

    async def call(exchange: Exchange) -> None:
        await exchange.stream()
        for params in (note(exchange, 1, message="m"), note(exchange, 1), note(exchange, 0.5), note(exchange, 2.5)):
            await exchange.notify(PROGRESS, params)
        await exchange.notify(PROGRESS, {"progressToken": "somebody else's", "progress": 7})
        await answer(exchange, closing=False)
        await exchange.notify(PROGRESS, note(exchange, 9))
        await exchange.raw(b"", last=True)

    with acting(world.upstreams[slug], "tools/call", call):
        async with world.client(client) as speaker:
            for token in ("token", "5", 5):
                messages = await speaker.converse(
                    "tools/call", {"name": f"{slug}__weather"}, meta={"progressToken": token}
                )
                assert [message.get("method") for message in messages] == [PROGRESS, PROGRESS, None]
                told = [message["params"] for message in messages[:-1]]
                assert told == [
                    {"progressToken": token, "progress": 1, "total": 9, "message": "m"},
                    {"progressToken": token, "progress": 2.5, "total": 9},
                ]
                assert all(type(params["progressToken"]) is type(token) for params in told)
                assert messages[-1]["result"]["content"] == [{"type": "text", "text": "done"}]
                sent = last(world.upstreams[slug], "tools/call").json
                assert sent["params"]["_meta"]["progressToken"] not in (token, speaker._ids)
            without = await speaker.converse("tools/call", {"name": f"{slug}__fail"}, meta={})
            assert [message.get("method") for message in without] == [None]


async def silent(exchange: Exchange) -> None:
    """Tells of progress and logs whether it was asked to or not."""
    await exchange.stream()
    await exchange.notify(PROGRESS, {"progressToken": exchange.id, "progress": 1})
    for level in ("debug", "warning", "error"):
        await exchange.notify(LOG, {"level": level, "logger": "db", "data": {"at": level}})
    await exchange.notify(LOG, {"level": "error", "data": "unnamed"})
    await answer(exchange)


@pytest.mark.parametrize("upstream", ERAS)
async def test_log_messages_come_if_asked_for_at_that_level_on_that_stream(world: Federation, upstream: str) -> None:
    """P55, P54: a modern request says what it wants; a session says so once."""
    slug = slug_of(upstream)
    params = {"name": f"{slug}__weather"}
    with acting(world.upstreams[slug], "tools/call", silent):
        async with world.client(NEWEST) as modern:
            assert len(await modern.converse("tools/call", params)) == 1
            messages = await modern.converse("tools/call", params, meta={LOG_LEVEL: "warning"})
            levels = [(message["params"]["level"], message["params"]["logger"]) for message in messages[:-1]]
            assert levels == [("warning", f"{slug}/db"), ("error", f"{slug}/db"), ("error", slug)]
            assert {message["method"] for message in messages[:-1]} == {LOG}
        for revision in ("2025-11-25", OLDEST):
            async with world.client(revision) as legacy:
                await legacy.result("logging/setLevel", {"level": "error"})
                messages = await legacy.converse("tools/call", params)
                assert [message["params"]["level"] for message in messages[:-1]] == ["error", "error"]
                wrong = await legacy.ask("logging/setLevel", {"level": "loud"})
                assert wrong["error"]["code"] == -32602


async def test_the_wanted_level_is_passed_on_in_the_upstreams_own_way(world: Federation) -> None:
    """P55: in each request to a modern upstream, once per session to an older one; not at all if nobody asked."""
    new, old, oldest = (slug_of(era) for era in (NEWEST, "2025-11-25", OLDEST))
    async with world.client("2025-06-18") as legacy:
        for slug in (new, old, oldest):
            await legacy.call(f"{slug}__weather")
        assert LOG_LEVEL not in last(world.upstreams[new], "tools/call").json["params"]["_meta"]
        before = {slug: len(world.upstreams[slug].requests("logging/setLevel")) for slug in (new, old, oldest)}
        await legacy.result("logging/setLevel", {"level": "notice"})
        for slug in (new, old, oldest):
            await legacy.call(f"{slug}__weather")
        assert last(world.upstreams[new], "tools/call").json["params"]["_meta"][LOG_LEVEL] == "notice"
        for slug, times in ((new, 0), (old, 1), (oldest, 1)):
            asked = world.upstreams[slug].requests("logging/setLevel")[before[slug] :]
            assert [each["params"] for each in asked] == [{"level": "notice"}] * times, slug


@dataclass
class Held:
    """A call that an upstream holds: `begun` when it came, `gone` when its connection was closed."""

    begun: asyncio.Event = field(default_factory=asyncio.Event)
    release: asyncio.Event = field(default_factory=asyncio.Event)
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    id: Any = None
    reason: dict[str, Any] = field(default_factory=dict)

    async def call(self, exchange: Exchange) -> None:
        """`tools/call`: answers when released."""
        self.id = exchange.id
        await exchange.stream()
        await exchange.notify(PROGRESS, note(exchange, 1))
        self.begun.set()
        watching = asyncio.create_task(exchange.gone())
        watching.add_done_callback(lambda _: self.gone.set())
        releasing = asyncio.create_task(self.release.wait())
        await asyncio.wait((watching, releasing), return_when=asyncio.FIRST_COMPLETED)
        if self.release.is_set():
            await answer(exchange)
        watching.cancel()
        releasing.cancel()

    async def cancel(self, exchange: Exchange) -> None:
        """`notifications/cancelled`."""
        self.reason = exchange.params
        await exchange.respond(202)
        self.cancelled.set()


async def soon(event: asyncio.Event) -> None:
    async with asyncio.timeout(SECONDS):
        await event.wait()


@pytest.mark.parametrize("upstream", ERAS)
async def test_a_modern_client_that_disconnects_cancels_its_call(world: Federation, upstream: str) -> None:
    """P19: a modern upstream sees its connection close, an older one is told."""
    slug, held = slug_of(upstream), Held()
    each = world.upstreams[slug]
    with acting(each, "tools/call", held.call), acting(each, "notifications/cancelled", held.cancel):
        async with world.client(NEWEST) as speaker:
            assert isinstance(speaker, ModernClient)
            async with speaker.post("tools/call", {"name": f"{slug}__weather"}) as response:
                await soon(held.begun)
                response.close()
            if upstream == NEWEST:
                await soon(held.gone)
                assert each.requests("notifications/cancelled") == []
            else:
                await soon(held.cancelled)
                assert held.reason["requestId"] == held.id
        [opened] = [line for line in world.replica.records() if line.get("name") == f"{slug}__weather"][-1:]
        await closed(world, opened["record"], "cancelled")


async def closed(world: Federation, record: str, outcome: str) -> None:
    """The record of a call is closed with this outcome; a request behind it in the loop gives it time to be."""
    async with asyncio.timeout(SECONDS), world.client(NEWEST) as speaker:
        while not (ends := [line for line in world.replica.records() if line["record"] == record][1:]):
            await speaker.result("server/discover")
    assert [line["outcome"] for line in ends] == [outcome]


@pytest.mark.parametrize("upstream", ERAS)
@pytest.mark.parametrize("client", [OLDEST, "2025-03-26", "2025-11-25"])
async def test_a_legacy_client_cancels_by_saying_so(world: Federation, client: str, upstream: str) -> None:
    """The upstream is told in its own way, and the client gets no answer any more."""
    slug, held = slug_of(upstream), Held()
    each = world.upstreams[slug]
    with acting(each, "tools/call", held.call), acting(each, "notifications/cancelled", held.cancel):
        async with world.client(client) as speaker:
            calling = asyncio.create_task(speaker.converse("tools/call", {"name": f"{slug}__weather"}))
            await soon(held.begun)
            params = {"requestId": speaker._ids, "reason": "changed my mind"}
            wrong = {"requestId": str(speaker._ids)}
            if isinstance(speaker, ChannelClient):
                await speaker.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": wrong})
                assert not held.cancelled.is_set()
                await speaker.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params})
            else:
                assert isinstance(speaker, SessionClient)
                await speaker.tell("notifications/cancelled", wrong)
                assert not held.cancelled.is_set()
                await speaker.tell("notifications/cancelled", params)
                assert await calling == []
            if upstream == NEWEST:
                await soon(held.gone)
            else:
                await soon(held.cancelled)
                assert held.reason["requestId"] == held.id
            if isinstance(speaker, ChannelClient):
                speaker._ids += 100
                calling.cancel()
                await asyncio.gather(calling, return_exceptions=True)
                assert len(await speaker.converse("ping")) == 1
            else:
                assert await speaker.result("ping") == {}


@pytest.mark.parametrize("upstream", ERAS)
@pytest.mark.parametrize("client", ["2025-03-26", "2025-06-18", "2025-11-25"])
async def test_a_result_outlives_the_connection_of_a_legacy_client(
    world: Federation, client: str, upstream: str
) -> None:
    """P20, P23: disconnecting cancels nothing; what was missed is replayed after the last event that was seen."""
    slug, held = slug_of(upstream), Held()
    each = world.upstreams[slug]

    with acting(each, "tools/call", held.call), acting(each, "notifications/cancelled", held.cancel):
        async with world.client(client) as speaker:
            assert isinstance(speaker, SessionClient)
            params = {"name": f"{slug}__weather"}
            async with speaker.post("tools/call", params, meta={"progressToken": 1}) as response:
                request_id = speaker._ids
                events = Events(response)
                event = await anext(events)
                if client == "2025-11-25":
                    assert (event.data, event.retry) == ("", 1000)
                    assert event.id is not None
                while not event.data:
                    event = await anext(events)
                assert event.message["method"] == PROGRESS
                await soon(held.begun)
                response.close()
            assert await speaker.result("ping") == {}
            async with speaker.stream(event.id) as replay:
                held.release.set()
                final = await replay.message()
                assert (final["id"], final["result"]["content"][0]["text"]) == (request_id, "done")
                assert await replay.rest() == []
            async with speaker.stream(event.id) as again:
                assert await again.rest() == [final]
            assert not held.cancelled.is_set()
            async with world.client(client) as other:
                assert isinstance(other, SessionClient)
                async with other.stream(event.id) as nothing:  # another session's event id opens its own stream
                    assert (await anext(nothing)).comment is not None


async def test_streams_are_unbuffered_and_kept_alive(world: Federation) -> None:
    """P25: calls, listens, a session's stream and the first revision's channel."""
    slug, held = slug_of(NEWEST), Held()
    with acting(world.upstreams[slug], "tools/call", held.call):
        async with world.client(NEWEST) as modern, world.client("2025-11-25") as legacy:
            assert isinstance(modern, ModernClient)
            assert isinstance(legacy, SessionClient)
            params = {"name": f"{slug}__weather"}
            everything: list[AbstractAsyncContextManager[aiohttp.ClientResponse]] = [
                modern.post("tools/call", params),
                legacy.post("tools/call", params),
                modern.post("subscriptions/listen", {"notifications": {}}),
                world.http.get(world.replica.mcp, headers=legacy.headers),
                world.http.get(f"{world.replica.origin}/sse", headers={"accept": "text/event-stream"}),
            ]
            for opening in everything:
                async with opening as response:
                    assert response.headers["x-accel-buffering"] == "no"
                    assert "no-cache" in response.headers["cache-control"]
                    events = Events(response)
                    while (event := await anext(events)).comment != "keep-alive":
                        assert not event.data or event.event == "endpoint" or "acknowledged" in event.data
