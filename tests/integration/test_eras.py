"""Both eras on one endpoint: introductions, envelopes, capabilities, and what may be said on the other side."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from catalogue.model import Kind
from tests.support.clients import (
    NEWEST,
    OLDEST,
    REVISIONS,
    SECONDS,
    SESSIONS,
    ChannelClient,
    Events,
    ModernClient,
    SessionClient,
)
from tests.support.federation import Federation, acting, federation, last
from tests.support.gateway import BOTH, messages_of, modern_headers, modern_message
from tests.support.upstream_eras import city, of_each_revision, slug_of, upstream_of
from tests.support.upstreams import Exchange, ScriptedUpstream

PREFIX = "io.modelcontextprotocol"
MODERN_MEMBERS = {"resultType", "ttlMs", "cacheScope"}
INTERACTIVE: dict[str, Any] = {"elicitation": {"form": {}}, "sampling": {"tools": {}}, "roots": {"listChanged": True}}
FOREIGN: dict[str, Any] = {"experimental": {"x": {}}, "extensions": {"com.example/x": {}}, "tasks": {"requests": {}}}
DECLARED: list[dict[str, Any]] = [{}, {"elicitation": {"form": {}}}, {**INTERACTIVE, **FOREIGN}]


@pytest.fixture(scope="module")
async def world(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Federation]:
    upstreams = of_each_revision()
    for upstream in upstreams.values():
        upstream.capabilities |= FOREIGN
    async with federation(database_url, tmp_path_factory.mktemp("state"), upstreams) as running:
        yield running


async def post(world: Federation, message: dict[str, Any], **headers: str) -> tuple[int, Any]:
    sent = {**modern_headers(message), **{name.replace("_", "-"): value for name, value in headers.items()}}
    async with world.http.post(world.replica.mcp, data=orjson.dumps(message), headers=sent) as response:
        return response.status, (await messages_of(response))[-1]


def seen(world: Federation) -> int:
    return sum(len(upstream.seen) for upstream in world.upstreams.values())


@pytest.mark.parametrize("endpoint", ["", *map(slug_of, REVISIONS)])
async def test_every_endpoint_introduces_itself_to_modern_clients(world: Federation, endpoint: str) -> None:
    """P1, P9."""
    async with world.client(NEWEST, endpoint=endpoint) as speaker:
        found = await speaker.result("server/discover")
    assert found["supportedVersions"] == [NEWEST]
    assert found["resultType"] == "complete"
    assert isinstance(found["ttlMs"], int)
    assert found["ttlMs"] >= 0
    assert found["cacheScope"] == ("public" if endpoint == slug_of(NEWEST) else "private")
    listed = {"listChanged": True}
    watched = {**listed, "subscribe": True}
    offered = {"tools": listed, "prompts": listed, "resources": watched, "completions": {}, "logging": {}}
    assert found["capabilities"] == offered


async def test_an_unknown_version_is_told_which_ones_there_are(world: Federation) -> None:
    """P2."""
    before = seen(world)
    message = modern_message("tools/list", meta={f"{PREFIX}/protocolVersion": "2027-01-01"})
    status, answer = await post(world, message, mcp_protocol_version="2027-01-01")
    assert (status, answer["error"]["code"], answer["id"]) == (400, -32022, 1)
    assert answer["error"]["data"] == {"supported": [NEWEST], "requested": "2027-01-01"}
    assert seen(world) == before


async def test_an_envelope_needs_version_and_capabilities_and_no_more(world: Federation) -> None:
    """P3."""
    for missing in ("protocolVersion", "clientCapabilities"):
        message = modern_message("tools/list")
        del message["params"]["_meta"][f"{PREFIX}/{missing}"]
        status, answer = await post(world, message)
        assert (status, answer["error"]["code"]) == (400, -32602), missing
    complete = modern_message("tools/list")
    assert f"{PREFIX}/clientInfo" not in complete["params"]["_meta"]
    assert (await post(world, complete))[0] == 200


@pytest.mark.parametrize("asked", [OLDEST, *SESSIONS, "1999-01-01", NEWEST])
async def test_initialize_is_answered_with_the_version_asked_for_or_a_known_one(world: Federation, asked: str) -> None:
    """P4, P9: also the first revision, on either transport."""
    known = asked if asked in (OLDEST, *SESSIONS) else SESSIONS[-1]
    speaker = await SessionClient(world.http, world.replica.mcp, asked, None).open(INTERACTIVE)
    assert speaker.session.hello["protocolVersion"] == known
    assert FOREIGN.keys().isdisjoint(speaker.session.hello["capabilities"])
    assert await speaker.delete() == 200
    params = {"protocolVersion": asked, "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}}
    async with world.http.get(f"{world.replica.origin}/sse", headers={"accept": "text/event-stream"}) as response:
        events = Events(response)
        channel = ChannelClient(world.http, world.replica.origin, events, (await anext(events)).data, None)
        assert (await channel.result("initialize", params))["protocolVersion"] == known


@pytest.mark.parametrize("client", REVISIONS)
async def test_lists_have_the_members_of_the_clients_revision(world: Federation, client: str) -> None:
    """P6."""
    async with world.client(client) as speaker:
        for kind in Kind:
            result = await speaker.result(kind.method)
            assert MODERN_MEMBERS & result.keys() == (MODERN_MEMBERS if client == NEWEST else set())
            assert len(result[kind.value]) == len(REVISIONS) * (2 if kind is Kind.TOOL else 1)


@pytest.mark.parametrize("client", ["2025-11-25", NEWEST])
@pytest.mark.parametrize("kind", ["task", "weird", None, 7])
async def test_a_kind_of_result_that_nobody_asked_for_is_not_relayed(
    world: Federation, client: str, kind: object
) -> None:
    """P7."""
    slug = slug_of(NEWEST)

    async def call(exchange: Exchange) -> None:
        await exchange.result({"resultType": kind, "content": [{"type": "text", "text": "leak"}], "taskId": "leak"})

    with acting(world.upstreams[slug], "tools/call", call):
        async with world.client(client) as speaker:
            result = await speaker.call(f"{slug}__weather")
    assert result["isError"] is True
    assert result["_meta"]["dev.mcp-gateway/denial"]["reason"] == "upstream_protocol_error"
    assert b"leak" not in orjson.dumps(result)


def declared_for_last_call(upstream: ScriptedUpstream) -> Any:
    """The client capabilities under which the upstream got its last call: the request's own, or its session's."""
    call = last(upstream, "tools/call")
    if upstream.era == "modern":
        return call.json["params"]["_meta"][f"{PREFIX}/clientCapabilities"]
    number = int(call.headers["mcp-session-id"].rpartition("-")[2])
    return upstream.seen[number - 1].json["params"]["capabilities"]


@pytest.mark.parametrize("allowed", [False, True], ids=["by default", "allowed"])
@pytest.mark.parametrize("upstream_revision", ["2025-11-25", NEWEST])
async def test_no_capability_is_declared_that_the_client_lacks(
    database_url: str, tmp_path: Path, upstream_revision: str, *, allowed: bool
) -> None:
    """P8, P9: what the client declared, minus what the operator refuses, minus what the gateway does not implement."""
    upstream = city(upstream_revision)
    slug = "allowed" if allowed else "default"
    extra = {slug: {"allow": {"sampling": allowed, "roots": allowed}}}
    permitted = INTERACTIVE if allowed else {"elicitation": INTERACTIVE["elicitation"]}
    async with federation(database_url, tmp_path, {slug: upstream}, extra=extra) as running:
        for client in ("2025-06-18", NEWEST):
            for declared in DECLARED:
                async with running.client(client, capabilities=declared) as speaker:
                    await speaker.call(f"{slug}__weather")
                passed = declared_for_last_call(upstream)
                assert passed.items() <= {name: each for name, each in permitted.items() if name in declared}.items()
                if (client == NEWEST) == (upstream_revision == NEWEST):
                    assert passed.keys() == permitted.keys() & declared.keys()


async def test_an_upstream_that_changes_its_era_is_probed_again(database_url: str, tmp_path: Path) -> None:
    """P10: in both directions, and without a call that fails."""
    upstream = upstream_of("2025-11-25")
    async with (
        federation(database_url, tmp_path, {"up": upstream}) as running,
        running.client(NEWEST) as modern,
        running.client("2025-06-18") as legacy,
    ):
        for era in ("legacy", "modern", "legacy"):
            upstream.era = era
            upstream.sessions.clear()
            for speaker in (modern, legacy):
                before = len(upstream.requests("tools/call"))
                result = await speaker.call("up__echo", era=era)
                assert result["content"] == [{"type": "text", "text": orjson.dumps({"era": era}).decode()}]
                assert ("mcp-session-id" in last(upstream, "tools/call").headers) == (era == "legacy")
                assert len(upstream.requests("tools/call")) > before


@pytest.mark.parametrize("upstream_revision", [OLDEST, "2025-06-18", NEWEST])
async def test_no_request_is_written_on_a_modern_stream(world: Federation, upstream_revision: str) -> None:
    """P24: what a server asks of a client that declared nothing is refused, a ping is answered, by the gateway."""
    slug = slug_of(upstream_revision)
    upstream = world.upstreams[slug]
    asked = ("ping", "elicitation/create", "sampling/createMessage", "roots/list", "foo/bar")
    answers: dict[Any, Any] = {}
    complete = asyncio.Event()

    async def call(exchange: Exchange) -> None:
        await exchange.stream()
        for method in asked:
            await exchange.event({"jsonrpc": "2.0", "id": method, "method": method, "params": {"message": "?"}})
        if upstream_revision != NEWEST:
            await complete.wait()
        await exchange.event({"jsonrpc": "2.0", "id": exchange.id, "result": {"content": []}}, last=True)

    async def take(exchange: Exchange) -> None:
        answers[exchange.id] = exchange.seen.json
        await exchange.respond(202)
        if len(answers) == len(asked):
            complete.set()

    with acting(upstream, "tools/call", call), acting(upstream, "", take):
        async with asyncio.timeout(SECONDS), world.client(NEWEST) as speaker:
            messages = await speaker.converse("tools/call", {"name": f"{slug}__weather"})
    assert [message.get("method") for message in messages] == [None]
    assert messages[0]["result"]["content"] == []
    if upstream_revision == NEWEST:
        assert answers == {}
    else:
        assert answers.pop("ping")["result"] == {}
        assert {answer["error"]["code"] for answer in answers.values()} == {-32601}


@pytest.mark.parametrize(
    "method", ["ping", "initialize", "logging/setLevel", "resources/subscribe", "tasks/result", "foo/bar", "Tools/List"]
)
async def test_a_method_that_the_revision_does_not_have_is_not_found(world: Federation, method: str) -> None:
    """P16."""
    before = seen(world)
    status, answer = await post(world, modern_message(method))
    assert (status, answer["error"]["code"]) == (404, -32601)
    assert seen(world) == before


async def test_what_belongs_to_sessions_means_nothing_to_a_modern_request(world: Federation) -> None:
    """P17."""
    headers = {"mcp-protocol-version": NEWEST, "accept": BOTH, "mcp-session-id": "mine", "last-event-id": "1"}
    for method in ("GET", "DELETE"):
        for path in ("/mcp", f"/servers/{slug_of(NEWEST)}/mcp"):
            async with world.http.request(method, world.replica.origin + path, headers=headers) as response:
                assert (response.status, response.headers["allow"]) == (405, "POST")
    message = modern_message("tools/call", {"name": f"{slug_of(NEWEST)}__weather", "arguments": {}})
    sent = {**modern_headers(message), **headers}
    async with world.http.post(world.replica.mcp, data=orjson.dumps(message), headers=sent) as response:
        assert response.status == 200
        assert "mcp-session-id" not in response.headers


@pytest.mark.parametrize(
    "state", ['opaque \u00e9\u2028\U0001f511 \\ " =?base64?eA==?=', "", None], ids=["odd", "empty", "none"]
)
async def test_an_upstream_gets_back_its_own_state_and_every_round_has_a_new_id(
    world: Federation, state: str | None
) -> None:
    """P46, P48."""
    slug = slug_of(NEWEST)
    question = {"method": "elicitation/create", "params": {"message": "Which?", "requestedSchema": {"type": "object"}}}
    rounds: list[dict[str, Any]] = []

    async def call(exchange: Exchange) -> None:
        rounds.append(exchange.seen.json)
        if len(rounds) < 3:
            asked = {"resultType": "input_required", "inputRequests": {f"k{len(rounds)}": question}}
            await exchange.result(asked if state is None else {**asked, "requestState": state})
        else:
            await exchange.result({"resultType": "complete", "content": []})

    with acting(world.upstreams[slug], "tools/call", call):
        speaker = ModernClient(world.http, world.replica.mcp, {"elicitation": {"form": {}}}, None)
        params: dict[str, Any] = {"name": f"{slug}__weather", "arguments": {"city": "Oslo"}}
        result = await speaker.result("tools/call", params)
        for number in (1, 2):
            assert result["inputRequests"].keys() == {f"k{number}"}
            assert MODERN_MEMBERS & result.keys() == {"resultType"}
            answered = {f"k{number}": {"action": "accept", "content": {"n": 2**70}}}
            retry = {**params, "inputResponses": answered, "requestState": result["requestState"]}
            result = await speaker.result("tools/call", retry)
            assert rounds[number]["params"]["inputResponses"] == answered
    assert result["content"] == []
    assert len({each["id"] for each in rounds}) == 3
    assert "requestState" not in rounds[0]["params"]
    for again in rounds[1:]:
        assert again["params"]["arguments"] == {"city": "Oslo"}
        assert again["params"].get("requestState") == state
        assert ("requestState" in again["params"]) == (state is not None)
