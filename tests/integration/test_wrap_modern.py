"""`mcp-gateway wrap` and 2026-07-28 as it is on the wire: one server for all clients, and nothing to the wrong one."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from tests.support.wrapping import BOTH, RAW, Events, Wrapped, last_message, wrapping

MODERN = "2026-07-28"
PREFIX = "io.modelcontextprotocol"
SUBSCRIPTION = f"{PREFIX}/subscriptionId"


class ModernClient:
    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http = http

    def request(
        self, name: str, request_id: int | str = 1, *, log: bool = False, **arguments: Any
    ) -> tuple[dict[str, str], dict[str, Any]]:
        """Headers and body of a tool call. All clients choose the same progress token."""
        meta: dict[str, Any] = {
            f"{PREFIX}/protocolVersion": MODERN,
            f"{PREFIX}/clientCapabilities": {},
            "progressToken": 1,
        }
        if log:
            meta[f"{PREFIX}/logLevel"] = "info"
        params = {"name": name, "arguments": arguments, "_meta": meta}
        headers = {**BOTH, "mcp-protocol-version": MODERN, "mcp-method": "tools/call", "mcp-name": name}
        return headers, {"jsonrpc": "2.0", "id": request_id, "method": "tools/call", "params": params}

    async def post(self, headers: dict[str, str], body: dict[str, Any]) -> httpx.Response:
        return await self.http.post("/mcp", headers=headers, json=body)

    async def call(self, name: str, **arguments: Any) -> Any:
        message = last_message(await self.post(*self.request(name, **arguments)))
        return message["result"]["content"][0]["text"] if "result" in message else message

    @asynccontextmanager
    async def open(self, name: str, request_id: int | str = 1, **arguments: Any) -> AsyncIterator[Events]:
        headers, body = self.request(name, request_id, **arguments)
        async with self.http.stream("POST", "/mcp", headers=headers, json=body) as response:
            yield Events(response)

    @asynccontextmanager
    async def listen(self, request_id: int | str) -> AsyncIterator[Events]:
        headers, body = self.request("none", request_id)
        del headers["mcp-name"]
        body["method"] = headers["mcp-method"] = "subscriptions/listen"
        body["params"] = {"_meta": body["params"]["_meta"], "notifications": {"toolsListChanged": True}}
        async with self.http.stream("POST", "/mcp", headers=headers, json=body) as response:
            yield Events(response)


@pytest.fixture(scope="module")
async def wrapped() -> AsyncIterator[Wrapped]:
    async with wrapping(*RAW, "--modern") as wrapper:
        yield wrapper


@pytest.fixture
async def client(wrapped: Wrapped) -> ModernClient:
    return ModernClient((await wrapped.client()).http)


async def test_clients_with_the_same_id_and_progress_token_get_their_own(client: ModernClient) -> None:
    async with client.open("hang") as first, client.open("hang") as second:
        for events in (first, second):
            assert (await events.message())["params"] == {"progressToken": 1, "progress": 1}
        # The server's own ids of the two, as it heard them.
        calls = [json.loads(line) for line in json.loads(await client.call("what_was_heard"))]
        one, two = [message["id"] for message in calls if message.get("params", {}).get("name") == "hang"][-2:]
        await client.call("progress_of", call=two)
        assert (await second.message())["params"] == {"progressToken": 1, "progress": 2}
        await client.call("answer_of", call=one)
        assert (await first.message())["id"] == 1
        await client.call("answer_of", call=two)
        assert (await second.message())["id"] == 1


async def test_closing_the_connection_cancels_the_call() -> None:
    async with wrapping(*RAW, "--modern") as wrapped:
        client = ModernClient((await wrapped.client()).http)
        async with client.open("hang") as events:
            await events.message()
        assert len(json.loads(await client.call("next_cancelled"))) == 1


async def test_log_lines_that_may_be_of_a_cancelled_call_reach_nobody() -> None:
    async with wrapping(*RAW, "--modern") as wrapped:
        client = ModernClient((await wrapped.client()).http)

        async def logged() -> list[Any]:
            async with client.open("log", log=True, text="of this call") as events:
                return [
                    event.message["params"]["data"]
                    async for event in events
                    if event.message and "id" not in event.message
                ]

        assert await logged() == ["of this call"]
        async with client.open("hang", log=True) as events:
            await events.message()
        [number] = json.loads(await client.call("next_cancelled"))
        response = await client.post(*client.request("log", log=True, text="whose?"))
        assert response.headers["content-type"] == "application/json"  # so there is nothing before the result
        await client.call("answer_of", call=number)
        assert await logged() == ["of this call"]


async def test_a_log_line_is_left_out_without_a_request_that_wants_it(client: ModernClient) -> None:
    response = await client.post(*client.request("log", text="unwanted"))
    assert response.headers["content-type"] == "application/json"


async def test_a_subscription_has_the_clients_id_and_ends_when_the_server_ends_it(client: ModernClient) -> None:
    async with client.listen("my-listen") as events:
        assert (await events.message())["params"]["_meta"] == {SUBSCRIPTION: "my-listen"}
        calls = [json.loads(line) for line in json.loads(await client.call("what_was_heard"))]
        [number] = [message["id"] for message in calls if message.get("method") == "subscriptions/listen"]
        await client.call("end_subscription", call=number)
        assert [event async for event in events] == []


async def test_a_crash_fails_the_calls_in_flight_and_the_next_call_starts_the_server_again(
    client: ModernClient,
) -> None:
    pid = await client.call("pid")
    async with client.open("hang", "held") as events:
        await events.message()
        error = (await client.call("crash"))["error"]
        assert error == {"code": -32603, "message": "the stdio server is gone: it exited with status 3"}
        assert await events.message() == {"jsonrpc": "2.0", "id": "held", "error": error}
    assert await client.call("pid") != pid


@pytest.mark.parametrize(
    ("code", "headers", "meta"),
    [
        (-32020, {"mcp-name": "other"}, {}),
        (-32020, {"mcp-method": "tools/list"}, {}),
        (-32022, {"mcp-protocol-version": "2099-01-01"}, {f"{PREFIX}/protocolVersion": "2099-01-01"}),
        (-32602, {}, {"drop": f"{PREFIX}/clientCapabilities"}),
    ],
)
async def test_a_request_that_contradicts_itself_is_refused(
    client: ModernClient, code: int, headers: dict[str, str], meta: dict[str, str]
) -> None:
    fields, body = client.request("pid")
    body["params"]["_meta"].pop(meta.get("drop"), None)
    body["params"]["_meta"].update(meta)
    response = await client.post({**fields, **headers}, body)
    assert (response.status_code, response.json()["error"]["code"]) == (400, code)


async def test_an_error_has_the_status_that_belongs_to_it(client: ModernClient) -> None:
    headers, body = client.request("pid", "x")
    body["method"] = headers["mcp-method"] = "no/such"
    response = await client.post(headers, body)
    assert (response.status_code, response.json()["error"]["code"], response.json()["id"]) == (404, -32601, "x")


async def test_modern_clients_have_neither_get_nor_delete(client: ModernClient) -> None:
    for method in ("GET", "DELETE"):
        response = await client.http.request(method, "/mcp", headers={"mcp-protocol-version": MODERN})
        assert response.status_code == 405


async def test_a_server_of_an_older_revision_refuses_as_such_a_server_does() -> None:
    async with wrapping() as wrapped:
        client = ModernClient((await wrapped.client()).http)
        responses = await asyncio.gather(*(client.post(*client.request("pid")) for _ in range(3)))
        for response in responses:
            assert (response.status_code, response.json()["error"]["code"]) == (400, -32600)


@pytest.mark.parametrize("script", ["cat > /dev/null", "exit 1"])
async def test_a_server_that_does_not_answer_the_probe_is_taken_for_an_older_one(
    monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    monkeypatch.setattr("gateway.cli.stdio.children.PROBE_PATIENCE", 0.2)
    async with wrapping("sh", "-c", script, limit=1) as wrapped:
        client = ModernClient((await wrapped.client()).http)
        response = await client.post(*client.request("pid"))
        assert (response.status_code, response.json()["error"]["code"]) == (400, -32600)
