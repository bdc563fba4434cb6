"""What becomes of an upstream's refusals and failures: relayed, translated or kept, by the client's revision."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from tests.support.clients import NEWEST, OLDEST, Client, ModernClient, SessionClient
from tests.support.federation import Federation, acting, federation
from tests.support.upstream_eras import city, slug_of
from tests.support.upstreams import Exchange

ERAS = (OLDEST, "2025-11-25", NEWEST)
CLIENTS = (OLDEST, "2025-06-18", "2025-11-25", NEWEST)
DATA = {"why": "because"}

RELAYED = (-32600, -32602, -32603, 1234, -1, -40000)
"""JSON-RPC's own that a client can act on, and codes outside the reserved range."""
KEPT = (-32700, -32601, -32000, -32002, -32019, -32020, -32022, -32023, -32050, -32099, -32100)
"""About our hop, of another revision, or without a meaning anybody agreed on."""


@pytest.fixture(scope="module")
async def world(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Federation]:
    upstreams = {slug_of(era): city(era) for era in ERAS}
    async with federation(database_url, tmp_path_factory.mktemp("state"), upstreams) as running:
        yield running


def refusing(code: int, data: Any = None) -> Callable[[Exchange], Awaitable[None]]:
    async def act(exchange: Exchange) -> None:
        await exchange.error(code, "no such luck", data, 400 if exchange.seen.headers.get("mcp-method") else 200)

    return act


@pytest.mark.parametrize("upstream", ERAS)
@pytest.mark.parametrize("client", CLIENTS)
async def test_a_refusal_is_relayed_only_if_its_code_means_the_same_to_the_client(
    world: Federation, client: str, upstream: str
) -> None:
    """P52, P71: the message stays, and the record is named; nothing of the upstream's hop is shown."""
    slug = slug_of(upstream)
    async with world.client(client) as speaker:
        for code in (*RELAYED, *KEPT):
            with acting(world.upstreams[slug], "tools/call", refusing(code, DATA)):
                error = (await speaker.ask("tools/call", {"name": f"{slug}__weather"}))["error"]
            assert error["message"] == "no such luck"
            assert error["data"].pop("dev.mcp-gateway/record")
            if code in RELAYED:
                assert (error["code"], error["data"]) == (code, DATA)
            else:
                assert (error["code"], error["data"]) == (-32603, {"upstream": {"code": code}})
        assert (await speaker.call(f"{slug}__weather"))["content"][0]["text"] == "sunny"


async def test_statuses_follow_the_code_in_the_stateless_revision_only(world: Federation) -> None:
    slug = slug_of(NEWEST)
    async with world.client(NEWEST) as modern, world.client("2025-11-25") as legacy:
        assert isinstance(modern, ModernClient)
        assert isinstance(legacy, SessionClient)
        for code, status in ((-32602, 400), (-32603, 200), (-32050, 200), (1234, 200)):
            with acting(world.upstreams[slug], "prompts/get", refusing(code)):
                params = {"name": f"{slug}__ask"}
                async with modern.post("prompts/get", params) as response:
                    assert response.status == status
                async with legacy.post("prompts/get", params) as response:
                    assert response.status == 200


@pytest.mark.parametrize("upstream", ["2025-11-25", NEWEST])
@pytest.mark.parametrize("client", CLIENTS)
async def test_a_demand_for_a_url_elicitation_never_reaches_whom_it_means_nothing(
    world: Federation, client: str, upstream: str
) -> None:
    """P52: the code exists in one revision."""
    slug = slug_of(upstream)
    data = {"elicitations": [{"mode": "url", "url": "https://up.example/x", "elicitationId": "1", "message": "m"}]}
    async with world.client(client) as speaker:
        with acting(world.upstreams[slug], "tools/call", refusing(-32042, data)):
            answer = await speaker.ask("tools/call", {"name": f"{slug}__weather"})
    if client == "2025-11-25":
        assert answer["error"]["code"] == -32042
        assert answer["error"]["data"]["elicitations"] == data["elicitations"]
    else:
        assert answer.get("error", {}).get("code") != -32042


async def refused_for(world: Federation, speaker: Client, required: dict[str, Any]) -> dict[str, Any]:
    slug = slug_of(NEWEST)
    with acting(world.upstreams[slug], "tools/call", refusing(-32021, {"requiredCapabilities": required})):
        return await speaker.ask("tools/call", {"name": f"{slug}__weather"})


async def test_a_missing_capability_is_the_clients_only_if_the_client_lacks_it(world: Federation) -> None:
    """The gateway passes on less than clients declare; what it held back, no client can mend."""
    both: dict[str, Any] = {"elicitation": {"url": {}}, "sampling": {}}
    async with world.client(NEWEST) as none:
        error = (await refused_for(world, none, both))["error"]
        assert (error["code"], error["data"]["requiredCapabilities"]) == (-32021, both)
    async with world.client(NEWEST, capabilities={"sampling": {}, "elicitation": {"form": {}}}) as some:
        error = (await refused_for(world, some, both))["error"]
        assert error["data"]["requiredCapabilities"] == {"elicitation": {"url": {}}}
        result = (await refused_for(world, some, {"sampling": {}}))["result"]
        assert result["isError"] is True
        assert "sampling" in result["content"][0]["text"]
    for revision in (OLDEST, "2025-06-18"):
        async with world.client(revision) as legacy:
            result = (await refused_for(world, legacy, {"elicitation": {}}))["result"]
            assert result["isError"] is True
            assert "elicitation" in result["content"][0]["text"]


@pytest.mark.parametrize("upstream", ["2025-11-25", NEWEST])
async def test_an_upstream_that_fails_is_a_tool_error_or_an_error_of_ours(world: Federation, upstream: str) -> None:
    """P56, P71: no status and no challenge of the upstream reaches the client."""
    slug = slug_of(upstream)
    for status in (302, 401, 403, 429, 500, 503):

        async def fail(exchange: Exchange, status: int = status) -> None:
            challenge = 'Bearer resource_metadata="https://up.example/"'
            await exchange.respond(
                status, b"<p>secret</p>", content_type="text/html", www_authenticate=challenge, location="/x"
            )

        each = world.upstreams[slug]
        with acting(each, "tools/call", fail), acting(each, "prompts/get", fail):
            for revision in (NEWEST, "2025-11-25"):
                async with world.client(revision) as speaker:
                    assert isinstance(speaker, ModernClient | SessionClient)
                    result = await speaker.call(f"{slug}__weather")
                    assert result["isError"] is True
                    assert result["_meta"]["dev.mcp-gateway/denial"]["reason"] == "upstream_unavailable"
                    assert "secret" not in str(result)
                    async with speaker.post("prompts/get", {"name": f"{slug}__ask"}) as response:
                        assert response.status == 200
                        assert {"www-authenticate", "location"}.isdisjoint(name.lower() for name in response.headers)
                        error = (await response.json())["error"]
                    assert not -32768 <= error["code"] <= -32000
                    assert error["data"]["dev.mcp-gateway/denial"]["reason"] == "upstream_unavailable"
