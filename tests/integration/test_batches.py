"""JSON-RPC batches: revision 2025-03-26 has them, and no other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import orjson
import pytest

from tests.support.clients import NEWEST, OLDEST, SECONDS, ChannelClient, Events, SessionClient
from tests.support.federation import Federation, acting, federation
from tests.support.gateway import BOTH, modern_headers, modern_message
from tests.support.upstream_eras import city, slug_of
from tests.support.upstreams import Exchange

ERAS = (OLDEST, "2025-11-25", NEWEST)


@pytest.fixture(scope="module")
async def world(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Federation]:
    upstreams = {slug_of(era): city(era) for era in ERAS}
    async with federation(database_url, tmp_path_factory.mktemp("state"), upstreams, stream_grace=0.1) as running:
        yield running


@pytest.fixture
async def session(world: Federation) -> AsyncIterator[SessionClient]:
    async with world.client("2025-03-26") as speaker:
        assert isinstance(speaker, SessionClient)
        yield speaker


def call(request_id: int | str, slug: str, **arguments: Any) -> dict[str, Any]:
    params = {"name": f"{slug}__weather", "arguments": arguments, "_meta": {"progressToken": request_id}}
    return {"jsonrpc": "2.0", "id": request_id, "method": "tools/call", "params": params}


def notification(method: str, params: dict[str, Any]) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "method": method, "params": params}


async def post(speaker: SessionClient, batch: Any) -> tuple[int, Any]:
    async with speaker.http.post(speaker.url, data=orjson.dumps(batch), headers=speaker.headers) as response:
        body = await response.read()
        return response.status, orjson.loads(body) if body else None


def seen(world: Federation) -> int:
    return sum(len(upstream.seen) for upstream in world.upstreams.values())


@pytest.mark.parametrize("client", [OLDEST, "2025-06-18", "2025-11-25", NEWEST])
async def test_an_array_is_no_message_elsewhere(world: Federation, client: str) -> None:
    """P18: a 4xx, and nothing of it is executed."""
    slug = slug_of(NEWEST)
    async with world.client(client) as speaker:
        before = seen(world)
        if client == NEWEST:
            message = modern_message("tools/call", {"name": f"{slug}__weather", "arguments": {}})
            address, headers, batch = world.replica.mcp, modern_headers(message), [message]
        else:
            batch = [call(1, slug)]
            if isinstance(speaker, ChannelClient):
                address, headers = speaker.address, {"content-type": "application/json"}
            else:
                assert isinstance(speaker, SessionClient)
                address, headers = speaker.url, speaker.headers
        async with world.http.post(address, data=orjson.dumps(batch), headers=headers) as response:
            assert response.status == 400
            assert (await response.json())["error"]["code"] == -32600
        assert seen(world) == before


async def test_an_array_without_a_session_is_refused(world: Federation) -> None:
    """P18: also as the first thing a client sends."""
    headers = {"content-type": "application/json", "accept": BOTH}
    for batch in ([call(1, slug_of(NEWEST))], [{"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {}}]):
        async with world.http.post(world.replica.mcp, data=orjson.dumps(batch), headers=headers) as response:
            assert response.status == 400


async def test_every_request_of_a_batch_is_answered_in_one_array(world: Federation, session: SessionClient) -> None:
    """P18: whatever upstreams they go to; ids keep their type; a failure is the answer to its own request only."""
    batch: list[dict[str, Any]] = [call(number, slug_of(era)) for number, era in enumerate(ERAS)]
    batch += [
        call("0", slug_of(NEWEST)),
        notification("notifications/cancelled", {"requestId": 99}),
        {"jsonrpc": "2.0", "id": 10, "method": "tools/list"},
        {"jsonrpc": "2.0", "id": 11, "method": "foo/bar"},
        {"jsonrpc": "2.0", "id": 12, "method": "tools/call", "params": {"name": "nobody"}},
        {"jsonrpc": "2.0", "id": 13, "method": "ping"},
    ]
    status, answers = await post(session, batch)
    assert status == 200
    by_id = {orjson.dumps(answer["id"]): answer for answer in answers}
    assert by_id.keys() == {orjson.dumps(message["id"]) for message in batch if "id" in message}
    assert len(answers) == len(by_id)
    for request_id in (0, 1, 2, "0"):
        assert by_id[orjson.dumps(request_id)]["result"]["content"][0]["text"] == "sunny"
    assert len(by_id[b"10"]["result"]["tools"]) == 6
    assert by_id[b"11"]["error"]["code"] == -32601
    assert by_id[b"12"]["error"]["code"] == -32602
    assert by_id[b"13"]["result"] == {}


async def test_a_batch_without_requests_is_accepted(session: SessionClient) -> None:
    """P18: notifications and answers, for which nothing is owed."""
    note = notification("notifications/cancelled", {"requestId": 1})
    assert await post(session, [note, {"jsonrpc": "2.0", "id": "unknown", "result": {}}]) == (202, None)


async def test_a_batch_that_is_none_executes_nothing(world: Federation, session: SessionClient) -> None:
    """P18: empty, with something in it that is no message, with a handshake, or beyond all measure."""
    good = call(1, slug_of(NEWEST))
    hello = {"protocolVersion": "2025-03-26", "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}}
    before = seen(world)
    for batch in (
        [],
        [good, 5],
        [good, []],
        [good, {"jsonrpc": "2.0", "id": 2}],
        [good, {"jsonrpc": "2.0", "id": 2, "method": "ping", "result": {}}],
        [good, {"jsonrpc": "2.0", "id": 2, "method": "initialize", "params": hello}],
        [good] * 1000,
    ):
        status, answer = await post(session, batch)
        assert 400 <= status < 500, batch[1:]
        assert answer["error"]["code"] == -32600, batch[1:]
    assert seen(world) == before


async def test_a_batch_that_takes_its_time_is_answered_as_a_stream(world: Federation, session: SessionClient) -> None:
    """P18, P20, P54: with progress of each request under its own token; what was missed can be replayed."""
    slug = slug_of(NEWEST)
    together = asyncio.Barrier(2)

    async def slow(exchange: Exchange) -> None:
        await exchange.stream()
        token = exchange.params["_meta"]["progressToken"]
        await exchange.notify("notifications/progress", {"progressToken": token, "progress": 1})
        await together.wait()
        await exchange.event({"jsonrpc": "2.0", "id": exchange.id, "result": {"content": []}}, last=True)

    with acting(world.upstreams[slug], "tools/call", slow):
        async with asyncio.timeout(SECONDS), opened(session, [call("a", slug), call(5, slug)]) as response:
            events = [event async for event in Events(response) if event.data]
        messages = [event.message for event in events]
        tokens = [message["params"]["progressToken"] for message in messages if "method" in message]
        assert sorted(tokens, key=str) == [5, "a"]
        assert sorted((message["id"] for message in messages if "id" in message), key=str) == [5, "a"]
        assert all(message["result"]["content"] == [] for message in messages if "id" in message)
        async with session.stream(events[0].id) as replay:
            assert await replay.rest() == messages[1:]


def opened(session: SessionClient, batch: list[dict[str, Any]]) -> Any:
    return session.http.post(session.url, data=orjson.dumps(batch), headers=session.headers)


@pytest.mark.parametrize("both", [False, True], ids=["one", "all"])
async def test_a_cancelled_request_of_a_batch_is_not_answered(
    world: Federation, session: SessionClient, *, both: bool
) -> None:
    """P18: the others are; a batch of which nothing is left has no answer, not even an empty array."""
    slug = slug_of(NEWEST)
    begun = asyncio.Barrier(3)

    async def hold(exchange: Exchange) -> None:
        await begun.wait()
        if exchange.params["arguments"].get("held"):
            await exchange.gone()
        else:
            await exchange.result({"content": []})

    with acting(world.upstreams[slug], "tools/call", hold):
        batch = [call(1, slug, held=True), call(2, slug, held=both)]
        async with asyncio.timeout(SECONDS):
            posting = asyncio.create_task(post_raw(session, batch))
            await begun.wait()
            for request_id in (1, 2) if both else (1,):
                await session.tell("notifications/cancelled", {"requestId": request_id})
            status, body = await posting
        assert status == 200
        assert b'"id":1' not in body
        assert (b'"id":2' in body) == (not both)
        assert b"[]" not in body.replace(b'"content":[]', b"")


async def post_raw(session: SessionClient, batch: list[dict[str, Any]]) -> tuple[int, bytes]:
    response: aiohttp.ClientResponse
    async with opened(session, batch) as response:
        return response.status, await response.read()
