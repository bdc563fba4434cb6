"""Upstreams that never answer, or never stop: the deadline ends the call, the upstream is told, nobody else waits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.attack.planes import Planes, planes
from tests.attack.raw_upstream import RawUpstream, Wire, http, raw
from tests.support.gateway import LegacySession
from tests.support.upstreams import Exchange, ScriptedUpstream

DEADLINE = 0.25
SECONDS = 10
PATIENT: dict[str, Any] = {"deadline": DEADLINE}
TIMED_OUT = {"stage": "upstream", "reason": "upstream_timeout"}


async def _every(seconds: float, give: Callable[[], Any]) -> None:
    """Gives something again and again until the other side is gone."""
    loop = asyncio.get_running_loop()
    with suppress(ConnectionError):
        while True:
            await give()
            due = asyncio.Event()
            loop.call_later(seconds, due.set)
            await due.wait()


async def _mute(exchange: Exchange) -> None:
    await exchange.gone()


async def _stream_then_mute(exchange: Exchange) -> None:
    await exchange.stream()
    await exchange.gone()


@pytest.fixture(scope="module")
async def attacked(
    database_url: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[tuple[Planes, RawUpstream]]:
    """A good upstream, one of each era that scripts slow down, one that drips as its calls say, one that is narrow."""

    async def drip(wire: Wire, request: dict[str, Any]) -> None:
        begin, drop = DRIPS[request["params"]["arguments"]["drip"]]
        await wire.send(begin)
        await _every(0.02, lambda: wire.send(drop))

    settings: dict[str, dict[str, Any]] = dict.fromkeys(("new", "old", "raw"), PATIENT)
    settings["narrow"] = {**PATIENT, "concurrency": 1}
    async with (
        raw(drip) as upstream,
        planes(
            database_url,
            tmp_path_factory.mktemp("state"),
            settings=settings,
            others={"raw": upstream.url},
            one=ScriptedUpstream(),
            new=ScriptedUpstream(),
            old=ScriptedUpstream("legacy"),
            narrow=ScriptedUpstream(),
        ) as found,
    ):
        yield found, upstream


@pytest.mark.parametrize("act", [_mute, _stream_then_mute])
@pytest.mark.parametrize("slug", ["new", "old"])
async def test_a_call_ends_at_its_deadline_and_the_upstream_learns_it(
    attacked: tuple[Planes, RawUpstream], slug: str, act: Any
) -> None:
    """For clients and upstreams of both eras."""
    found, _ = attacked
    left: list[str] = []
    gone = asyncio.Event()

    async def watched(exchange: Exchange) -> None:
        await act(exchange)
        left.append(exchange.id)
        if len(left) == 2:
            gone.set()

    upstream = found.upstreams[slug]
    upstream.acts["tools/call"] = watched
    session = await LegacySession(found.http, found.running.mcp).open()
    since = found.since_now()
    async with asyncio.timeout(SECONDS):
        begun = time.monotonic()
        _, answer = await found.call(f"{slug}__echo")
        assert DEADLINE <= time.monotonic() - begun < DEADLINE + 2
        again = await session.ask("tools/call", {"name": f"{slug}__echo", "arguments": {}})
    for each in (answer, again):
        assert each["result"]["isError"] is True
        assert each["result"]["_meta"]["dev.mcp-gateway/denial"] == TIMED_OUT
        assert each["result"]["content"][0]["text"] == f"The server {slug} did not answer within 0.25 s."
    assert [line.get("detail") for line in since.records] == [None, "upstream_timeout"] * 2
    calls = [seen.json for seen in since.dispatched if seen.json["method"] == "tools/call"]
    async with asyncio.timeout(SECONDS):
        await gone.wait()
    assert left == [call["id"] for call in calls]
    told = [seen.json["params"]["requestId"] for seen in since.dispatched if "cancelled" in seen.json["method"]]
    assert told == ([] if slug == "new" else left)
    upstream.acts.clear()
    assert (await found.call(f"{slug}__echo"))[1]["result"].get("isError") is None


STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
DRIPS: dict[str, tuple[bytes, bytes]] = {
    "a_head_byte_by_byte": (b"HTTP/1.1 200 OK\r\nx: ", b"y"),
    "interim_answers": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "a_body_byte_by_byte": (http(b"{" * 1_000_000)[:-999_999], b" "),
    "chunks_of_one_byte": (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
    "an_event_byte_by_byte": (STREAM + b"data: ", b" "),
    "comments": (STREAM, b": still here\n\n"),
    "priming_events": (STREAM, b"id: 1\nretry: 1\n\n"),
    "notifications": (
        STREAM,
        b'data: {"jsonrpc":"2.0","method":"notifications/message","params":{"level":"error"}}\n\n',
    ),
}


@pytest.mark.parametrize("name", DRIPS)
async def test_drops_do_not_put_the_deadline_off(attacked: tuple[Planes, RawUpstream], name: str) -> None:
    """A22, A55: something always comes, the answer never does."""
    found, upstream = attacked
    since = found.since_now()
    async with asyncio.timeout(SECONDS):
        begun = time.monotonic()
        calling = asyncio.create_task(found.call("raw__echo", {"drip": name}))
        await found.assert_alive()
        _, answer = await calling
    assert time.monotonic() - begun < DEADLINE + 2
    assert answer["result"]["_meta"]["dev.mcp-gateway/denial"] == TIMED_OUT
    assert [line["detail"] for line in since.records if line["event"] == "closed"] == ["", "upstream_timeout"]
    async with asyncio.timeout(SECONDS):
        await upstream.wires[-1].gone()


async def test_calls_that_wait_for_a_slot_have_deadlines_too(attacked: tuple[Planes, RawUpstream]) -> None:
    """A55: one runs, four wait, the rest is refused at once; all are answered and on record, and the slot is free."""
    found, _ = attacked
    narrow = found.upstreams["narrow"]
    narrow.acts["tools/call"] = _mute
    since = found.since_now()
    async with asyncio.timeout(SECONDS):
        alive, *answers = await asyncio.gather(found.call("one__echo"), *(found.call("narrow__echo") for _ in range(8)))
    assert alive[1]["result"].get("isError") is None
    reasons = [answer["result"]["_meta"]["dev.mcp-gateway/denial"]["reason"] for _, answer in answers]
    assert sorted(reasons) == ["upstream_timeout"] * 5 + ["upstream_unavailable"] * 3
    closed = [line["detail"] for line in since.records if line["event"] == "closed"]
    assert sorted(closed) == ["", *sorted(reasons)]
    narrow.acts.clear()
    status, answer = await found.call("narrow__echo", {"n": 1})
    assert (status, answer["result"].get("isError")) == (200, None)


async def test_what_a_session_tells_its_upstreams_does_not_wait_for_them(database_url: str, tmp_path: Path) -> None:
    """A55: a level, changed roots and an answer to nobody's question are acknowledged though an upstream is mute."""
    upstream = ScriptedUpstream("legacy", capabilities={"logging": {}})
    settings = {"one": {"deadline": 0.4, "allow": {"roots": True}}}
    async with planes(database_url, tmp_path, settings=settings, one=upstream) as found:
        session = await LegacySession(found.http, found.running.mcp).open({"roots": {"listChanged": True}})
        assert "result" in await session.ask("tools/call", {"name": "one__echo", "arguments": {}})
        upstream.acts |= {"logging/setLevel": _mute, "notifications/roots/list_changed": _mute}
        async with asyncio.timeout(SECONDS):
            assert "result" in await session.ask("logging/setLevel", {"level": "debug"})
            changed = {"jsonrpc": "2.0", "method": "notifications/roots/list_changed"}
            assert (await session.send(changed))[0] == 202
        await found.assert_alive()


async def test_a_mute_upstream_is_not_waited_for(database_url: str, tmp_path: Path) -> None:
    """A55: it has never answered anything, and the others are listed and called all the same."""
    mute = ScriptedUpstream(acts={"server/discover": _mute, "initialize": _mute})
    async with asyncio.timeout(SECONDS), planes(database_url, tmp_path, one=ScriptedUpstream(), mute=mute) as found:
        _, answer = await found.ask("tools/list")
        assert [tool["name"] for tool in answer["result"]["tools"]] == ["one__echo"]
        await found.assert_alive()
        _, answer = await found.call("mute__echo")
        assert answer["error"]["code"] == -32602
