"""A call through the federated endpoint, watched on all three planes."""

from __future__ import annotations

from pathlib import Path

import aiohttp
import pytest

from tests.support.gateway import LegacySession, ask_modern, replica, server
from tests.support.upstreams import ScriptedUpstream, scripted


@pytest.mark.parametrize("upstream_era", ["modern", "legacy"])
@pytest.mark.parametrize("client_era", ["modern", "legacy"])
async def test_a_call_reaches_its_upstream_whatever_revision_either_side_speaks(
    client_era: str, upstream_era: str, database_url: str, tmp_path: Path
) -> None:
    async with (
        scripted(ScriptedUpstream(upstream_era)) as upstream,
        replica(database_url, tmp_path, [server("one", upstream.url)]) as running,
        aiohttp.ClientSession() as http,
    ):
        params = {"name": "one__echo", "arguments": {"n": 12345678901234567890123}}
        if client_era == "modern":
            status, answer = await ask_modern(http, running.mcp, "tools/call", params)
            assert status == 200
            assert answer["result"]["resultType"] == "complete"
        else:
            session = await LegacySession(http, running.mcp).open()
            answer = await session.ask("tools/call", params)
            assert "resultType" not in answer["result"]
        sent = upstream.requests("tools/call")[-1]
        assert sent["params"]["name"] == "echo"
        record = answer["result"]["_meta"]["dev.mcp-gateway/record"]
        events = [line["event"] for line in running.records() if line["record"] == record]
        assert events == ["opened", "closed"]
