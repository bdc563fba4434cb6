"""Interactive calls within the 2026-07-28 era, from round to round and from replica to replica."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import aiohttp

from tests.support.gateway import ask_modern, replica, server
from tests.support.upstreams import Exchange, ScriptedUpstream, scripted

QUESTION = {"method": "elicitation/create", "params": {"message": "Which?", "requestedSchema": {"type": "object"}}}
INNER = 'opaque "\u00e9" state'
ASKING: dict[str, Any] = {"capabilities": {"elicitation": {}}}


async def asks_once(exchange: Exchange) -> None:
    """Asks in the first round, answers in the second."""
    if "inputResponses" in exchange.params:
        await exchange.result({"content": [{"type": "text", "text": "done"}], "resultType": "complete"})
    else:
        interim = {"resultType": "input_required", "inputRequests": {"which": QUESTION}, "requestState": INNER}
        await exchange.result(interim)


async def test_a_retry_is_taken_up_by_another_replica(database_url: str, tmp_path: Path) -> None:
    """P46, P47, P48: the upstream gets its own state byte by byte, under a new id."""
    upstream = ScriptedUpstream("modern", acts={"tools/call": asks_once})
    async with (
        scripted(upstream),
        replica(database_url, tmp_path / "a", [server("one", upstream.url)]) as first,
        replica(database_url, tmp_path / "b", [server("one", upstream.url)]) as second,
        aiohttp.ClientSession() as http,
    ):
        params = {"name": "one__echo", "arguments": {"n": 1}}
        _, asked = await ask_modern(http, first.mcp, "tools/call", params, **ASKING)
        assert asked["result"]["inputRequests"] == {"which": QUESTION}
        state = asked["result"]["requestState"]
        assert INNER not in state
        answers = {"which": {"action": "accept", "content": {}}}
        retry = {**params, "requestState": state, "inputResponses": answers}
        _, done = await ask_modern(http, second.mcp, "tools/call", retry, id=2, **ASKING)
        assert done["result"]["content"][0]["text"] == "done"
        one, two = upstream.requests("tools/call")
        assert "requestState" not in one["params"]
        assert two["params"]["requestState"] == INNER
        assert two["params"]["inputResponses"] == answers
        assert one["id"] != two["id"]
        record = done["result"]["_meta"]["dev.mcp-gateway/record"]
        assert record == asked["result"]["_meta"]["dev.mcp-gateway/record"]
        events = [(line["event"], line["round"]) for line in first.records() + second.records()]
        assert events == [("opened", 1), ("closed", 1), ("round", 2), ("closed", 2)]


async def test_a_retry_with_anything_changed_is_refused_and_the_upstream_hears_nothing(
    database_url: str, tmp_path: Path
) -> None:
    """P45: other arguments, another tool, a cut state."""
    tools = [{"name": name, "inputSchema": {"type": "object"}} for name in ("echo", "other")]
    upstream = ScriptedUpstream("modern", tools=tools, acts={"tools/call": asks_once})
    async with (
        scripted(upstream),
        replica(database_url, tmp_path, [server("one", upstream.url)]) as running,
        aiohttp.ClientSession() as http,
    ):
        params = {"name": "one__echo", "arguments": {"n": 1}}
        _, asked = await ask_modern(http, running.mcp, "tools/call", params, **ASKING)
        good = {**params, "requestState": asked["result"]["requestState"], "inputResponses": {}}
        heard = len(upstream.requests("tools/call"))
        for changed in (
            {"arguments": {"n": 2}},
            {"name": "one__other"},
            {"requestState": good["requestState"][:-3]},
            {"requestState": 7},
        ):
            status, refused = await ask_modern(http, running.mcp, "tools/call", {**good, **changed}, **ASKING)
            assert (status, refused["error"]["code"]) == (400, -32602)
        assert len(upstream.requests("tools/call")) == heard


async def test_a_trace_goes_on_under_a_span_of_ours(database_url: str, tmp_path: Path) -> None:
    """P72: the same trace, another parent; baggage stays behind."""
    upstream = ScriptedUpstream("modern")
    trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    meta = {"traceparent": f"00-{trace}-{parent}-01", "tracestate": "a=b", "baggage": "user=secret"}
    async with (
        scripted(upstream),
        replica(database_url, tmp_path, [server("one", upstream.url)]) as running,
        aiohttp.ClientSession() as http,
    ):
        await ask_modern(http, running.mcp, "tools/call", {"name": "one__echo"}, meta=meta)
        sent = upstream.requests("tools/call")[-1]["params"]["_meta"]
        version, sent_trace, span, flags = sent["traceparent"].split("-")
        assert (version, sent_trace, flags) == ("00", trace, "01")
        assert len(span) == 16
        assert span != parent
        assert sent["tracestate"] == "a=b"
        assert "baggage" not in sent
