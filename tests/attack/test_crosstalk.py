"""Answers find the one who asked, whatever ids clients choose and whatever upstreams do with ours."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
from structlog.testing import capture_logs

from tests.attack.planes import REQUIRED, Planes, bearer, issue_key, planes
from tests.attack.raw_upstream import Wire, http, raw
from tests.support.gateway import LegacySession, messages_of
from tests.support.upstreams import Exchange, ScriptedUpstream

SECONDS = 10
Answered = tuple[int, Any]


class Gathering:
    """Holds calls back until as many have come as were expected, then lets `answer` deal with all of them."""

    def __init__(self, expected: int, answer: Any) -> None:
        self._expected = expected
        self._answer = answer
        self._held: list[Exchange] = []
        self._all = asyncio.Event()
        self._answered = asyncio.Event()

    async def __call__(self, exchange: Exchange) -> None:
        self._held.append(exchange)
        if len(self._held) < self._expected:
            await self._answered.wait()
            return
        await self._answer(self._held)
        self._answered.set()


def _secret(exchange: Exchange) -> str:
    secret: str = exchange.params["arguments"]["secret"]
    return secret


def _text(text: str) -> dict[str, Any]:
    return {"content": [{"type": "text", "text": text}]}


@asynccontextmanager
async def _two_principals(database_url: str, state: Path, upstream: ScriptedUpstream) -> AsyncIterator[Planes]:
    key = await issue_key(database_url)
    async with planes(database_url, state, gateway=REQUIRED, key=key, one=upstream) as found:
        yield found


@pytest.mark.parametrize("client_era", ["modern", "legacy"])
@pytest.mark.parametrize("upstream_era", ["modern", "legacy"])
async def test_equal_ids_of_many_clients_are_never_mixed_up(
    database_url: str, tmp_path: Path, client_era: str, upstream_era: str
) -> None:
    """A29, CVE-2026-25536: forty calls under one id, by two principals, answered in the opposite order."""
    count = 40

    async def backwards(held: list[Exchange]) -> None:
        for exchange in reversed(held):
            await exchange.result(_text(_secret(exchange)))

    upstream = ScriptedUpstream(upstream_era, acts={"tools/call": Gathering(count, backwards)})
    async with _two_principals(database_url, tmp_path, upstream) as found:
        keys = [found.key, await issue_key(database_url)]
        sessions = [await LegacySession(found.http, found.running.mcp).open(None, **bearer(key)) for key in keys]

        async def ask(number: int) -> str:
            params = {"name": "one__echo", "arguments": {"secret": f"secret-{number}"}}
            if client_era == "modern":
                _, answer = await found.ask("tools/call", params, id=1, headers=bearer(keys[number % 2]))
            else:
                session = sessions[number % 2]
                body = {"jsonrpc": "2.0", "id": number // 2, "method": "tools/call", "params": params}
                headers = {**session.headers, **bearer(keys[number % 2])}
                async with found.http.post(found.running.mcp, json=body, headers=headers) as response:
                    answer = (await messages_of(response))[-1]
                assert answer["id"] == number // 2
            text: str = answer["result"]["content"][0]["text"]
            return text

        async with asyncio.timeout(3 * SECONDS):
            texts = await asyncio.gather(*(ask(number) for number in range(count)))
        assert texts == [f"secret-{number}" for number in range(count)]
        sent = [seen for seen in upstream.seen if b'"tools/call"' in seen.body]
        assert len({seen.json["id"] for seen in sent}) == count
        if upstream_era == "legacy":  # nobody's upstream session is anybody else's
            by_session: dict[str, set[int]] = {}
            for seen in sent:
                number = int(seen.json["params"]["arguments"]["secret"].removeprefix("secret-"))
                by_session.setdefault(seen.headers["mcp-session-id"], set()).add(number % 2)
            assert sorted(map(len, by_session.values())) == [1, 1]


async def _crossed(held: list[Exchange], shape: str) -> None:
    """Answers each of two calls with the other's id and content."""
    for exchange, other in zip(held, reversed(held), strict=True):
        content = {"jsonrpc": "2.0", "id": other.id, "result": _text(_secret(other))}
        if shape in ("error", "refusal"):
            content = {"jsonrpc": "2.0", "id": other.id, "error": {"code": 7, "message": _secret(other)}}
        if shape == "stream":
            await exchange.stream()
            await exchange.event(content, last=True)
        elif shape == "stream_then_right":
            await exchange.stream()
            await exchange.event(content)
            right = {"jsonrpc": "2.0", "id": exchange.id, "result": _text(_secret(exchange))}
            await exchange.event(right, last=True)
        else:
            await exchange.respond(400 if shape == "refusal" else 200, orjson.dumps(content))


@pytest.mark.parametrize("shape", ["result", "error", "refusal", "stream", "stream_then_right"])
async def test_swapped_answers_reach_neither_client(database_url: str, tmp_path: Path, shape: str) -> None:
    """A29: two principals at once; an answer that carries another id is dropped, also if it is an error."""
    upstream = ScriptedUpstream(acts={"tools/call": Gathering(2, lambda held: _crossed(held, shape))})
    async with _two_principals(database_url, tmp_path, upstream) as found:
        keys = [found.key, await issue_key(database_url)]
        since = found.since_now()
        with capture_logs() as logs:
            async with asyncio.timeout(SECONDS):
                answers = await asyncio.gather(
                    *(
                        found.call("one__echo", {"secret": f"of-{number}"}, id=1, headers=bearer(key))
                        for number, key in enumerate(keys)
                    )
                )
        for number, (status, answer) in enumerate(answers):
            text = orjson.dumps(answer).decode()
            assert status == 200
            assert f"of-{1 - number}" not in text
            assert (f"of-{number}" in text) is (shape == "stream_then_right")
            failed = "error" in answer or answer["result"].get("isError", False)
            assert failed is (shape != "stream_then_right")
        closed = [line["outcome"] for line in since.records if line["event"] == "closed"]
        assert closed == (["result"] * 2 if shape == "stream_then_right" else ["failed"] * 2)
        if shape.startswith("stream"):
            assert [entry["event"] for entry in logs].count("orphan_response") == 2
        upstream.acts.clear()
        await found.assert_alive()


async def test_only_the_first_answer_counts(database_url: str, tmp_path: Path) -> None:
    """A29: a second one under the same id, on the stream or as a second HTTP response, is nobody's."""

    async def twice_on_a_stream(exchange: Exchange) -> None:
        await exchange.stream()
        for text in ("first", "second"):
            await exchange.event({"jsonrpc": "2.0", "id": exchange.id, "result": _text(text)})
        await exchange.raw(b"", last=True)

    async def twice_over_http(wire: Wire, request: dict[str, Any]) -> None:
        one, two = (
            http(orjson.dumps({"jsonrpc": "2.0", "id": request["id"], "result": _text(text)}))
            for text in ("first", "second")
        )
        cut = request["params"]["arguments"]["cut"]
        await wire.send(one + two[: len(two) if cut is None else cut])

    upstream = ScriptedUpstream(acts={"tools/call": twice_on_a_stream})
    async with (
        raw(twice_over_http) as other,
        planes(database_url, tmp_path, others={"two": other.url}, one=upstream) as found,
    ):
        for cut in (None, 1, 9, 40, 90, -1, None):
            for name in ("one__echo", "two__echo"):
                _, answer = await found.call(name, {"cut": cut})
                assert answer["result"]["content"][0]["text"] == "first", (name, cut)
        # What was left over has never been the beginning of the answer to a later request.
        assert len(other.calls) == 7
        assert len(other.wires) >= 7


async def test_an_answer_that_comes_after_cancellation_is_nobodys(database_url: str, tmp_path: Path) -> None:
    """A29: the client went; what the upstream still says must not meet the next call."""
    begun, released = asyncio.Event(), asyncio.Event()

    async def late(exchange: Exchange) -> None:
        if exchange.params["arguments"]["n"] > 1:
            await exchange.result(_text("prompt"))
            return
        begun.set()
        await released.wait()
        await exchange.result(_text("late"))

    upstream = ScriptedUpstream("legacy", acts={"tools/call": late})
    async with _two_principals(database_url, tmp_path, upstream) as found, asyncio.timeout(2 * SECONDS):
        session = await LegacySession(found.http, found.running.mcp).open(None, **bearer(found.key))
        headers = {**session.headers, **bearer(found.key)}
        call = {"jsonrpc": "2.0", "id": 7, "method": "tools/call"}
        since = found.since_now()

        async def post(body: dict[str, Any]) -> list[dict[str, Any]]:
            async with found.http.post(found.running.mcp, json=body, headers=headers) as response:
                return [] if response.status == 202 else [m for m in await messages_of(response) if m]

        params = {"name": "one__echo", "arguments": {"n": 1}}
        first = asyncio.create_task(post({**call, "params": params}))
        await begun.wait()
        cancelled = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 7}}
        await post(cancelled)
        assert await first == []
        released.set()
        answers = await post({**call, "params": {**params, "arguments": {"n": 2}}})
        assert [answer["result"]["content"][0]["text"] for answer in answers] == ["prompt"]
        assert [line.get("outcome") for line in since.records] == [None, "cancelled", None, "result"]
        told = [seen.json["params"]["requestId"] for seen in since.dispatched if "cancelled" in seen.json["method"]]
        assert told == [since.dispatched[0].json["id"]]


async def test_questions_and_progress_stay_with_the_call_they_belong_to(database_url: str, tmp_path: Path) -> None:
    """A26, A29: a question is shown to one session, and only that session can answer it."""
    asked, answered = asyncio.Event(), asyncio.Event()

    async def asking(exchange: Exchange) -> None:
        await exchange.stream()
        if "progressToken" in exchange.params.get("_meta", {}):  # the other principal's call
            await asked.wait()
            for token in ("guess", 1, "1", first_token[0], exchange.params["_meta"]["progressToken"]):
                await exchange.notify("notifications/progress", {"progressToken": token, "progress": 1})
        else:
            first_token.append(exchange.id)
            question = {"message": "Your secret?", "requestedSchema": {"type": "object", "properties": {}}}
            await exchange.event({"jsonrpc": "2.0", "id": 99, "method": "elicitation/create", "params": question})
            asked.set()
            await answered.wait()
        await exchange.event({"jsonrpc": "2.0", "id": exchange.id, "result": _text("done")}, last=True)

    first_token: list[Any] = []
    upstream = ScriptedUpstream("legacy", acts={"tools/call": asking})
    async with _two_principals(database_url, tmp_path, upstream) as found, asyncio.timeout(2 * SECONDS):
        keys = [found.key, await issue_key(database_url)]
        capabilities: dict[str, Any] = {"elicitation": {}}
        victim, attacker = [
            await LegacySession(found.http, found.running.mcp).open(capabilities, **bearer(key)) for key in keys
        ]

        def call(**meta: Any) -> dict[str, Any]:
            params = {"name": "one__echo", "arguments": {}, **({"_meta": meta} if meta else {})}
            return {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}

        async def post(session: LegacySession, key: str | None, body: dict[str, Any]) -> list[dict[str, Any]]:
            headers = {**session.headers, **bearer(key)}
            async with found.http.post(found.running.mcp, json=body, headers=headers) as response:
                return [] if response.status == 202 else await messages_of(response)

        running = asyncio.create_task(post(victim, keys[0], call()))
        await asked.wait()
        messages = await post(attacker, keys[1], call(progressToken=1))
        assert [message.get("method") for message in messages] == ["notifications/progress", None]
        assert messages[0]["params"]["progressToken"] == 1
        since = found.since_now()
        for guess in (99, "99", first_token[0]):
            await post(attacker, keys[1], {"jsonrpc": "2.0", "id": guess, "result": {"action": "accept"}})
        assert since.nothing_happened()
        answered.set()
        question, _ = await running
        assert question["method"] == "elicitation/create"
        stolen = {"jsonrpc": "2.0", "id": question["id"], "result": {"action": "accept"}}
        await post(attacker, keys[1], stolen)
        assert since.dispatched == []
        await post(victim, keys[0], stolen)
        assert [seen.json["id"] for seen in since.dispatched] == [99]
