"""Two callers at one upstream at the same time: nothing of the one reaches the other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest

from tests.support.clients import NEWEST, OLDEST, SECONDS, Client, Events, SessionClient
from tests.support.federation import Federation, acting, federation
from tests.support.upstream_eras import city, slug_of
from tests.support.upstreams import Exchange, Seen

ERAS = (OLDEST, "2025-11-25", NEWEST)
LOG_LEVEL = "io.modelcontextprotocol/logLevel"


@pytest.fixture(scope="module")
async def world(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Federation]:
    upstreams = {slug_of(era): city(era) for era in ERAS}
    async with federation(database_url, tmp_path_factory.mktemp("state"), upstreams) as running:
        yield running


def session_of(seen: Seen) -> str | None:
    """What tells one caller's requests from another's at a stateful upstream."""
    return seen.headers.get("mcp-session-id") or seen.headers.get("channel")


async def ask(speaker: Client, slug: str, mark: str) -> list[dict[str, Any]]:
    if not speaker.modern:
        await speaker.result("logging/setLevel", {"level": "debug"})
    params = {"name": f"{slug}__weather", "arguments": {"mark": mark}}
    meta = {"progressToken": "same", **({LOG_LEVEL: "debug"} if speaker.modern else {})}
    return await speaker.converse("tools/call", params, meta=meta)


@pytest.mark.parametrize("apart", [True, False], ids=["two principals", "one principal"])
@pytest.mark.parametrize("upstream", ERAS)
@pytest.mark.parametrize("client", ERAS)
async def test_progress_and_logs_never_cross(world: Federation, client: str, upstream: str, *, apart: bool) -> None:
    """P53, P54, P55: also with the same progress token and the same request id on both sides."""
    slug = slug_of(upstream)
    both = asyncio.Barrier(2)
    sessions: dict[str, str | None] = {}

    async def call(exchange: Exchange) -> None:
        mark = exchange.params["arguments"]["mark"]
        sessions[mark] = session_of(exchange.seen)
        await exchange.stream()
        for number in (1, 2):
            await both.wait()
            token = exchange.params["_meta"]["progressToken"]
            progress = {"progressToken": token, "progress": number, "message": mark}
            await exchange.notify("notifications/progress", progress)
            await exchange.notify("notifications/message", {"level": "error", "data": mark})
        await both.wait()
        result = {"content": [{"type": "text", "text": mark}]}
        await exchange.event({"jsonrpc": "2.0", "id": exchange.id, "result": result}, last=True)

    first = await world.key("*")
    second = await world.key("*") if apart else first
    with acting(world.upstreams[slug], "tools/call", call):
        async with world.client(client, key=first) as one, world.client(client, key=second) as two:
            async with asyncio.timeout(SECONDS):
                answers = await asyncio.gather(ask(one, slug, "<one>"), ask(two, slug, "<two>"))
    for messages, mine, others in zip(answers, ("<one>", "<two>"), ("<two>", "<one>"), strict=True):
        assert others.encode() not in orjson.dumps(messages)
        assert messages[-1]["result"]["content"] == [{"type": "text", "text": mine}]
        methods = [message.get("method") for message in messages]
        assert methods.count("notifications/progress") == 2
        if apart:
            assert methods.count("notifications/message") == 2
    if apart and upstream != NEWEST:
        assert len(set(sessions.values())) == 2


@pytest.mark.parametrize("upstream", [OLDEST, "2025-11-25"])
async def test_questions_and_answers_never_cross(world: Federation, upstream: str) -> None:
    """P53: the upstream gives both questions the same id; an answer to somebody else's question goes nowhere."""
    slug = slug_of(upstream)
    both = asyncio.Barrier(2)
    answers: dict[str | None, asyncio.Future[Any]] = {}

    async def call(exchange: Exchange) -> None:
        mark = exchange.params["arguments"]["mark"]
        answer = answers[session_of(exchange.seen)] = asyncio.get_running_loop().create_future()
        await exchange.stream()
        await both.wait()
        params = {"message": f"For {mark}?", "requestedSchema": {"type": "object", "properties": {}}}
        await exchange.event({"jsonrpc": "2.0", "id": 7, "method": "elicitation/create", "params": params})
        result = {"content": [{"type": "text", "text": orjson.dumps(await answer).decode()}]}
        await exchange.event({"jsonrpc": "2.0", "id": exchange.id, "result": result}, last=True)

    async def take(exchange: Exchange) -> None:
        await exchange.respond(202)
        assert exchange.id == 7
        answers[session_of(exchange.seen)].set_result(exchange.seen.json["result"]["content"])

    each = world.upstreams[slug]
    capabilities: dict[str, Any] = {"elicitation": {}}
    marks = ("<one>", "<two>")
    with acting(each, "tools/call", call), acting(each, "", take):
        async with (
            world.client("2025-11-25", capabilities=capabilities, key=await world.key("*")) as one,
            world.client("2025-06-18", capabilities=capabilities, key=await world.key("*")) as two,
        ):
            assert isinstance(one, SessionClient)
            assert isinstance(two, SessionClient)
            calls = [
                speaker.post("tools/call", {"name": f"{slug}__weather", "arguments": {"mark": mark}})
                for speaker, mark in zip((one, two), marks, strict=True)
            ]
            async with calls[0] as first, calls[1] as second:
                streams = Events(first), Events(second)
                questions = [await events.message() for events in streams]
                assert [each["params"]["message"] for each in questions] == [f"[{slug}] For {mark}?" for mark in marks]
                assert len({question["id"] for question in questions} | {7}) == 3
                await reply(one, questions[1], "stolen")
                await reply(two, questions[0], "stolen")
                for speaker, question, mark in zip((one, two), questions, marks, strict=True):
                    await reply(speaker, question, mark)
                for events, mark in zip(streams, marks, strict=True):
                    final = await events.message()
                    assert orjson.loads(final["result"]["content"][0]["text"]) == {"mark": mark}


async def reply(speaker: SessionClient, question: dict[str, Any], mark: str) -> None:
    """Answers a question of the server."""
    result = {"action": "accept", "content": {"mark": mark}}
    await speaker.send({"jsonrpc": "2.0", "id": question["id"], "result": result})
