"""`mcp-gateway wrap` and the official client: a server that speaks both eras, and one that speaks only the older."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import mcp_types as types
import pytest
from mcp import Client
from mcp.client.subscriptions import ToolsListChanged

from tests.support.wrapping import BOTH, REFERENCE, SECONDS, Events, Wrapped, wrapping

MODERN = "2026-07-28"
PREFIX = "io.modelcontextprotocol"


@pytest.fixture(scope="module")
async def both_eras() -> AsyncIterator[Wrapped]:
    async with wrapping(*REFERENCE) as wrapper:
        yield wrapper


async def say_name(_: Any, __: Any) -> types.ElicitResult:
    return types.ElicitResult(action="accept", content={"name": "Ada"})


@pytest.mark.parametrize("mode", ["legacy", MODERN])
async def test_the_official_client_is_served_in_either_era(both_eras: Wrapped, mode: str) -> None:
    logged: list[Any] = []
    progressed: list[float] = []

    async def log(line: types.LoggingMessageNotificationParams) -> None:
        logged.append(line.data)

    async def progress(step: float, _: float | None, __: str | None) -> None:
        progressed.append(step)

    async with Client(f"{both_eras.url}/mcp", mode=mode, elicitation_callback=say_name, logging_callback=log) as client:
        assert client.protocol_version == (MODERN if mode == MODERN else "2025-11-25")
        assert {"note", "greet", "climb"} < {tool.name for tool in (await client.list_tools()).tools}
        greeting = await client.call_tool("greet", {})
        assert greeting.structured_content == {"result": "Hello Ada"}
        climbed = await client.call_tool("climb", {"steps": 3}, progress_callback=progress)
        assert climbed.structured_content == {"result": "climbed"}
    assert progressed == [1, 2, 3]
    if mode == "legacy":
        assert logged == ["at the top"]


async def test_modern_clients_share_a_server_and_legacy_ones_do_not(both_eras: Wrapped) -> None:
    url = f"{both_eras.url}/mcp"
    async with Client(url, mode=MODERN) as one, Client(url, mode=MODERN) as two, Client(url, mode="legacy") as three:
        pids = [(await client.call_tool("pid", {})).structured_content for client in (one, two, three)]
    assert pids[0] == pids[1] != pids[2]


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


# Modern requests as they are on the wire


def modern(name: str, request_id: int | str, log: bool = False, **arguments: Any) -> tuple[dict[str, str], bytes]:
    meta = {
        f"{PREFIX}/protocolVersion": MODERN,
        f"{PREFIX}/clientCapabilities": {},
        "progressToken": 1,
        **({f"{PREFIX}/logLevel": "info"} if log else {}),
    }
    params = {"name": name, "arguments": arguments, "_meta": meta}
    body = {"jsonrpc": "2.0", "id": request_id, "method": "tools/call", "params": params}
    headers = {**BOTH, "content-type": "application/json", "mcp-protocol-version": MODERN}
    return {**headers, "mcp-method": "tools/call", "mcp-name": name}, json.dumps(body).encode()


@pytest.fixture
async def http(both_eras: Wrapped) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=both_eras.url, timeout=SECONDS, trust_env=False, verify=False) as client:
        yield client


async def messages_of(http: httpx.AsyncClient, request: tuple[dict[str, str], bytes]) -> list[Any]:
    async with http.stream("POST", "/mcp", headers=request[0], content=request[1]) as response:
        return [event.message async for event in Events(response)]


async def test_clients_with_the_same_id_and_progress_token_get_their_own(http: httpx.AsyncClient) -> None:
    short, long = await asyncio.gather(
        messages_of(http, modern("climb", 1, steps=2)), messages_of(http, modern("climb", 1, steps=3))
    )
    for messages, steps in ((short, 2), (long, 3)):
        assert [message["params"]["total"] for message in messages[:-1]] == [steps] * steps
        assert {message["params"]["progressToken"] for message in messages[:-1]} == {1}
        assert messages[-1]["id"] == 1


async def test_a_log_line_goes_to_the_one_request_that_wants_any(http: httpx.AsyncClient) -> None:
    messages = await messages_of(http, modern("climb", 1, log=True, steps=1))
    assert [message["params"].get("data") for message in messages[:-1]] == [None, "at the top"]


@pytest.mark.parametrize(
    ("status", "code", "headers"),
    [
        (400, -32020, {"mcp-name": "other"}),
        (400, -32020, {"mcp-method": "tools/list"}),
        (400, -32022, {"mcp-protocol-version": "2099-01-01"}),
    ],
)
async def test_a_modern_request_that_contradicts_itself_is_refused(
    http: httpx.AsyncClient, status: int, code: int, headers: dict[str, str]
) -> None:
    fields, body = modern("pid", 1)
    if "mcp-protocol-version" in headers:
        body = body.replace(MODERN.encode(), headers["mcp-protocol-version"].encode())
    response = await http.post("/mcp", headers={**fields, **headers}, content=body)
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)


async def test_an_unknown_method_has_the_status_of_its_error(http: httpx.AsyncClient) -> None:
    fields, body = modern("pid", "x")
    response = await http.post(
        "/mcp", headers={**fields, "mcp-method": "no/such"}, content=body.replace(b"tools/call", b"no/such")
    )
    assert (response.status_code, response.json()["error"]["code"], response.json()["id"]) == (404, -32601, "x")


async def test_modern_clients_have_neither_get_nor_delete(http: httpx.AsyncClient) -> None:
    for method in ("GET", "DELETE"):
        response = await http.request(method, "/mcp", headers={"mcp-protocol-version": MODERN})
        assert response.status_code == 405
