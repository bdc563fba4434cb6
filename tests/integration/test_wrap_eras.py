"""`mcp-gateway wrap` and the official client: a server that speaks both eras, and one that speaks only the older."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import mcp_types as types
import pytest
from mcp import Client
from mcp.client.session import ClientRequestContext
from mcp.client.subscriptions import ToolsListChanged

from tests.support.wrapping import REFERENCE, SECONDS, Wrapped, wrapping

MODERN = "2026-07-28"
PREFIX = "io.modelcontextprotocol"


@pytest.fixture(scope="module")
async def both_eras() -> AsyncIterator[Wrapped]:
    async with wrapping(*REFERENCE) as wrapper:
        yield wrapper


async def say_name(context: ClientRequestContext, params: types.ElicitRequestParams) -> types.ElicitResult:
    assert params.message == "Who are you?", context
    return types.ElicitResult(action="accept", content={"name": "Ada"})


@pytest.mark.parametrize("mode", ["legacy", MODERN])
async def test_the_official_client_is_served_in_either_era(both_eras: Wrapped, mode: str) -> None:
    logged: list[Any] = []
    progressed: list[float] = []

    async def log(params: types.LoggingMessageNotificationParams) -> None:
        logged.append(params.data)

    async def note(progress: float, total: float | None, message: str | None) -> None:
        assert (total, message) == (3, None)
        progressed.append(progress)

    async with Client(f"{both_eras.url}/mcp", mode=mode, elicitation_callback=say_name, logging_callback=log) as client:
        assert client.protocol_version == (MODERN if mode == MODERN else "2025-11-25")
        assert {"note", "greet", "climb"} < {tool.name for tool in (await client.list_tools()).tools}
        greeting = await client.call_tool("greet", {})
        assert greeting.structured_content == {"result": "Hello Ada"}
        climbed = await client.call_tool("climb", {"steps": 3}, progress_callback=note)
        assert climbed.structured_content == {"result": "climbed"}
    assert progressed == [1, 2, 3]
    if mode == "legacy":
        assert logged == ["at the top"]


async def test_modern_clients_share_a_server(both_eras: Wrapped) -> None:
    url = f"{both_eras.url}/mcp"
    async with Client(url, mode=MODERN) as one, Client(url, mode=MODERN) as two:
        pids = [(await client.call_tool("pid", {})).structured_content for client in (one, two)]
    assert pids[0] == pids[1]


async def test_a_client_that_can_do_both_is_served_as_modern(both_eras: Wrapped) -> None:
    async with Client(f"{both_eras.url}/mcp", mode="auto") as client:
        assert client.protocol_version == MODERN


async def test_a_client_that_can_do_both_falls_back_with_an_older_server() -> None:
    async with wrapping() as raw, Client(f"{raw.url}/mcp", mode="auto") as client:
        assert client.protocol_version == "2025-11-25"
        assert (await client.list_tools()).tools == []


async def test_a_subscription_is_told_of_changes(both_eras: Wrapped) -> None:
    async with Client(f"{both_eras.url}/mcp", mode=MODERN) as client, client.listen(tools_list_changed=True) as changes:
        await client.call_tool("publish", {})
        assert isinstance(await asyncio.wait_for(anext(aiter(changes)), SECONDS), ToolsListChanged)
