"""Two replicas, each `serve` in a process of its own, on one Postgres and behind a proxy that knows no affinity."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest

from tests.support.clients import ChannelClient, Event, Events, ModernClient, SessionClient
from tests.support.gateway import messages_of, server
from tests.support.processes import KEYS, GatewayProcess, eventually, gateway_process, until
from tests.support.round_robin import RoundRobin
from tests.support.session_upstream import RESOURCE, SessionUpstream
from tests.support.upstreams import ScriptedUpstream, scripted

LEGACY = "2025-11-25"
SESSIONS = 50
REQUESTS = 2_000
AT_ONCE = 16
ASKABLE: Mapping[str, Any] = {"elicitation": {"form": {}}}


@dataclass
class Fleet:
    """Both replicas, the proxy in front of them, and what is behind them."""

    replicas: tuple[GatewayProcess, GatewayProcess]
    proxy: RoundRobin
    kept: SessionUpstream
    fast: ScriptedUpstream
    http: aiohttp.ClientSession

    @property
    def front(self) -> str:
        """The federated endpoint behind the proxy."""
        return f"{self.proxy.origin}/mcp"

    @property
    def key(self) -> str:
        """Made by one replica, and good at both."""
        return str(self.replicas[0].run["key"])

    async def session(self, url: str, capabilities: Mapping[str, Any] | None = None) -> SessionClient:
        """A legacy client's new session."""
        return await SessionClient(self.http, url, LEGACY, self.key).open(capabilities)


@pytest.fixture(scope="module")
async def fleet(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    """Stays as it is until the last test, which kills one of them."""
    async with AsyncExitStack() as stack:
        kept, fast = SessionUpstream(), ScriptedUpstream("modern")
        await stack.enter_async_context(scripted(kept))
        await stack.enter_async_context(scripted(fast))
        proxy = await stack.enter_async_context(RoundRobin())
        http = await stack.enter_async_context(aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(60)))
        config = {
            "gateway": {"allowed_hosts": [f"127.0.0.1:{proxy.port}"]},
            "servers": [server("kept", kept.url), server("fast", fast.url)],
        }
        environment = {"DATABASE_URL": database_url, "MASTER_KEYS": KEYS}
        starting = [
            stack.enter_async_context(gateway_process(tmp_path_factory.mktemp(name), config, **environment))
            for name in ("one", "other")
        ]
        one, other = await asyncio.gather(*starting)
        proxy.ports = [one.port, other.port]
        fleet = Fleet((one, other), proxy, kept, fast, http)
        modern = ModernClient(http, fleet.front, None, fleet.key)
        for _ in fleet.replicas:
            names = {tool["name"] for tool in await modern.all("tools/list", "tools")}
            assert {"kept__echo", "fast__echo"} <= names
        yield fleet


async def test_two_thousand_requests_of_fifty_sessions_meet_no_session_error_though_each_is_on_both_replicas(
    fleet: Fleet,
) -> None:
    own = len(fleet.kept.sessions)
    first = len(fleet.proxy.passed)
    turns = asyncio.Semaphore(AT_ONCE)
    statuses: Counter[int] = Counter()

    async def ask(session: SessionClient, number: int) -> None:
        name = ("kept__echo", "fast__echo")[number % 2]
        body = {"jsonrpc": "2.0", "id": number, "method": "tools/call"}
        body["params"] = {"name": name, "arguments": {"n": f"{session.session.session_id} {number}"}}
        async with turns, fleet.http.post(fleet.front, json=body, headers=session.headers) as response:
            statuses[response.status] += 1
            answer = (await messages_of(response))[-1]
        assert answer["id"] == number
        assert f"{session.session.session_id} {number}" in answer["result"]["content"][0]["text"]

    async def use(session: SessionClient) -> None:
        numbers = iter(range(REQUESTS // SESSIONS))
        # The first requests race: both replicas open an upstream session for them, and one of the two is kept.
        await asyncio.gather(*(ask(session, next(numbers)) for _ in range(4)))
        for number in numbers:
            await ask(session, number)

    sessions = await asyncio.gather(*(fleet.session(fleet.front) for _ in range(SESSIONS)))
    modern = ModernClient(fleet.http, fleet.front, None, fleet.key)
    began = time.monotonic()
    running = [use(session) for session in sessions]
    modern_calls = asyncio.gather(*(modern.call("fast__echo", n=n) for n in range(100)))
    await asyncio.gather(*running)
    print(f"\n{REQUESTS + 100} requests in {time.monotonic() - began:.1f} s")
    assert statuses == {200: REQUESTS}
    assert [call["content"][0]["text"] for call in await modern_calls] == [f'{{"n":{n}}}' for n in range(100)]
    assert {each.status for each in fleet.proxy.passed[first:]} <= {200, 202}
    assert all(fleet.proxy.replicas_of(session.session.session_id) == {0, 1} for session in sessions)
    assert own + SESSIONS == len(fleet.kept.sessions)  # what lost the race was ended, nothing was opened twice


async def test_a_question_is_answered_at_the_other_replica(fleet: Fleet) -> None:
    one, other = fleet.replicas
    session = await fleet.session(one.mcp, ASKABLE)
    async with session.post("tools/call", {"name": "kept__ask", "arguments": {}}) as response:
        events = Events(response)
        question = await events.message()
        assert question["method"] == "elicitation/create"
        answer = {"jsonrpc": "2.0", "id": question["id"]}
        answer["result"] = {"action": "accept", "content": {"name": "Ada"}}
        async with fleet.http.post(other.mcp, json=answer, headers=session.headers) as accepted:
            assert accepted.status == 202
        assert (await events.message())["result"]["content"][0]["text"] == "Ada"


async def test_a_cancellation_at_the_other_replica_reaches_the_upstream(fleet: Fleet) -> None:
    one, other = fleet.replicas
    session = await fleet.session(one.mcp)
    arguments = {"gate": "never opened"}
    async with session.post("tools/call", {"name": "kept__hold", "arguments": arguments}):
        (held,) = await until(lambda: fleet.kept.calls("hold", **arguments), "the call at the upstream")
        session.url = other.mcp
        await session.tell("notifications/cancelled", {"requestId": session._ids})
        cancelled = await until(lambda: fleet.kept.requests("notifications/cancelled"), "its cancellation there")
        assert [body["params"]["requestId"] for body in cancelled] == [held["id"]]


async def test_a_session_that_is_deleted_at_one_replica_is_gone_at_the_other_within_a_second(fleet: Fleet) -> None:
    one, other = fleet.replicas
    session = await fleet.session(one.mcp)
    for replica in (one, other):
        session.url = replica.mcp
        await session.call("kept__echo")
    session.url = one.mcp
    ended = len([seen for seen in fleet.kept.seen if seen.method == "DELETE"])
    assert await session.delete() == 200
    deleted = time.monotonic()

    async def gone() -> bool:
        body = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
        async with fleet.http.post(other.mcp, json=body, headers=session.headers) as response:
            return response.status == 404

    await eventually(gone, "the session's end at the other replica")
    seconds = time.monotonic() - deleted
    print(f"\ngone at the other replica after {seconds * 1000:.0f} ms")
    assert seconds < 1.0
    assert len([seen for seen in fleet.kept.seen if seen.method == "DELETE"]) == ended + 1


async def test_a_stream_that_is_cut_at_one_replica_is_replayed_by_the_other(fleet: Fleet) -> None:
    one, other = fleet.replicas
    session = await fleet.session(one.mcp)
    arguments = {"gate": "the stream was cut"}
    call = {"name": "kept__climb", "arguments": arguments}
    async with session.post("tools/call", call, meta={"progressToken": "steps"}) as response:
        events = Events(response)
        seen = [event async for event in _until_message(events)]
    assert seen[-1].message["params"] == {"progressToken": "steps", "progress": 1}
    session.url = other.mcp
    async with session.stream(seen[-1].id) as replay:
        fleet.kept.gates["the stream was cut"].set()
        assert (await replay.message())["params"] == {"progressToken": "steps", "progress": 2}
        assert (await replay.message())["result"]["content"][0]["text"] == "climbed"
        assert await replay.rest() == []
    async with session.stream(seen[0].id) as replay:  # all of it, from the priming event on
        assert [message.get("id") for message in await replay.rest()] == [None, None, session._ids]
    assert len(fleet.kept.calls("climb", **arguments)) == 1


async def test_a_log_level_that_is_set_at_one_replica_is_in_force_at_the_other(fleet: Fleet) -> None:
    one, other = fleet.replicas
    session = await fleet.session(one.mcp)
    for level, lines in (("debug", 3), ("error", 1)):
        session.url = one.mcp
        await session.result("logging/setLevel", {"level": level})
        session.url = other.mcp

        async def lines_at_the_other() -> int:
            *logged, _ = await session.converse("tools/call", {"name": "kept__report", "arguments": {}})
            return len(logged)

        async def in_force(wanted: int = lines) -> bool:
            return await lines_at_the_other() == wanted

        await eventually(in_force, f"the level {level} at the other replica", 1.0)


@pytest.mark.parametrize("stream_first", [True, False])
async def test_a_subscription_at_one_replica_is_told_on_the_stream_that_the_other_holds(
    stream_first: bool, fleet: Fleet
) -> None:
    one, other = fleet.replicas
    known = set(fleet.kept.sessions)
    session = await fleet.session(one.mcp)
    await session.call("kept__echo")
    (upstream_session,) = fleet.kept.sessions - known
    uri = f"kept+{RESOURCE}"
    async with AsyncExitStack() as stack:
        if stream_first:
            events = await stack.enter_async_context(session.stream())
        session.url = other.mcp
        await session.result("resources/subscribe", {"uri": uri})
        session.url = one.mcp
        if not stream_first:
            events = await stack.enter_async_context(session.stream())
        standing = await until(lambda: fleet.kept.stands_on(upstream_session), "a stream at the upstream")
        await standing.notify("notifications/resources/updated", {"uri": RESOURCE})
        told = await events.message()
        assert (told["method"], told["params"]) == ("notifications/resources/updated", {"uri": uri})


async def test_a_channel_of_the_first_revision_is_held_by_one_replica_and_posted_to_at_the_other(fleet: Fleet) -> None:
    one, other = fleet.replicas
    headers = {"accept": "text/event-stream", "authorization": f"Bearer {fleet.key}"}
    async with fleet.http.get(f"{one.origin}/sse", headers=headers) as response:
        events = Events(response)
        address = (await anext(events)).data
        client = await ChannelClient(fleet.http, other.origin, events, address, fleet.key).open(None)
        assert client.hello["protocolVersion"] == "2024-11-05"
        for number in range(20):
            answer = await client.call("kept__echo", n=number)
            assert answer["content"][0]["text"] == str({"n": number})


async def test_when_a_replica_is_killed_its_sessions_go_on_at_the_other(fleet: Fleet) -> None:
    one = fleet.replicas[0]
    sessions = [await fleet.session(one.mcp) for _ in range(AT_ONCE)]
    for session in sessions:
        await session.call("kept__echo")
        session.url = fleet.front
    broken = 0

    async def use(session: SessionClient) -> None:
        nonlocal broken
        for number in range(20):
            try:
                status, text = await _status(session, number)
            except aiohttp.ClientError:  # it was in flight at the replica that died: its outcome is unknown
                broken += 1
                continue
            assert status == 200, text
            assert '"result"' in text, text

    using = asyncio.gather(*(use(session) for session in sessions))
    first = len(fleet.proxy.passed)
    await until(lambda: len(fleet.proxy.passed) > first + 40, "requests under way", 30)
    for pid in (one.program.pid, *one.workers):
        os.kill(pid, signal.SIGKILL)
    killed = len(fleet.proxy.passed)
    await using
    print(f"\n{broken} requests were in flight at the replica that was killed")
    assert broken <= AT_ONCE
    after = Counter((each.replica, each.status) for each in fleet.proxy.passed[killed:])
    assert after.keys() <= {(0, 0), (0, 200), (1, 200)}  # lost, answered in time, or gone on with at the other
    assert after[0, 0] <= AT_ONCE < after[1, 200]
    await one.program.ended()
    await one.nothing_left()
    assert all(1 in fleet.proxy.replicas_of(session.session.session_id) for session in sessions)


async def _status(session: SessionClient, number: int) -> tuple[int, str]:
    call = {"name": "kept__echo", "arguments": {"n": number}}
    body = {"jsonrpc": "2.0", "id": f"kill-{number}", "method": "tools/call", "params": call}
    async with session.http.post(session.url, json=body, headers=session.headers) as response:
        return response.status, await response.text()


async def _until_message(events: Events) -> AsyncIterator[Event]:
    async for event in events:
        yield event
        if event.data:
            return
