"""Changes told by upstreams of every era reach the clients of every era that asked for them, and nobody else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import mcp
import pytest
from mcp.client.subscriptions import ResourceUpdated, ToolsListChanged

from tests.support.clients import NEWEST, OLDEST, SECONDS, ChannelClient, Client, Events, ModernClient, SessionClient
from tests.support.federation import Federation, federation, last
from tests.support.upstream_eras import city, slug_of, upstream_of
from tests.support.upstreams import TOOL, ScriptedUpstream

ERAS = (OLDEST, "2025-11-25", NEWEST)
SUBSCRIPTION = "io.modelcontextprotocol/subscriptionId"
TOOLS_CHANGED = "notifications/tools/list_changed"
PROMPTS_CHANGED = "notifications/prompts/list_changed"
UPDATED = "notifications/resources/updated"
ACKNOWLEDGED = "notifications/subscriptions/acknowledged"


async def until(upstream: ScriptedUpstream, reached: Callable[[], bool]) -> None:
    """Returns when the gateway has got so far at the upstream."""
    async with asyncio.timeout(SECONDS):
        while not reached():
            upstream.listened.clear()
            await upstream.listened.wait()


async def heard(upstream: ScriptedUpstream) -> None:
    """Returns when the gateway would hear of a changed list."""
    await until(upstream, lambda: bool(upstream.listening))


def watches(upstream: ScriptedUpstream) -> list[list[str]]:
    """The resources that are watched at the upstream, by each of the gateway's streams or subscriptions there."""
    if upstream.era == "modern":
        asked = [exchange.params.get("notifications", {}) for exchange in upstream.listening]
        return [each["resourceSubscriptions"] for each in asked if "resourceSubscriptions" in each]
    return [[call["params"]["uri"]] for call in upstream.requests("resources/subscribe")]


async def tell(upstream: ScriptedUpstream, method: str, params: dict[str, Any] | None = None) -> None:
    """Says it on every standing stream that the gateway holds, as a server does that knows nothing of its clients."""
    for exchange in tuple(upstream.listening):
        tag = {} if upstream.era != "modern" else {"_meta": {SUBSCRIPTION: exchange.id}}
        await exchange.notify(method, {**(params or {}), **tag})


@asynccontextmanager
async def listening(
    speaker: ModernClient, wanted: dict[str, Any], request_id: int | str | None = None
) -> AsyncIterator[tuple[Events, dict[str, Any]]]:
    """An open listen, after its acknowledgement."""
    async with speaker.post("subscriptions/listen", {"notifications": wanted}, request_id=request_id) as response:
        events = Events(response)
        yield events, await events.message()


@asynccontextmanager
async def told(speaker: Client) -> AsyncIterator[Events]:
    """The stream on which a client hears of changes of tools."""
    if isinstance(speaker, ModernClient):
        async with listening(speaker, {"toolsListChanged": True}) as (events, _):
            yield events
    elif isinstance(speaker, SessionClient):
        async with speaker.stream() as events:
            assert (await anext(events)).comment is not None
            yield events
    else:
        assert isinstance(speaker, ChannelClient)
        yield speaker.events


@pytest.fixture(scope="module")
async def world(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Federation]:
    upstreams = {slug_of(era): city(era) for era in ERAS}
    async with federation(database_url, tmp_path_factory.mktemp("state"), upstreams) as running:
        yield running


@pytest.mark.parametrize("era", ERAS)
async def test_a_changed_list_is_announced_and_read_anew(world: Federation, era: str) -> None:
    """P34: long before the upstream's own ttl has passed, to clients of every era."""
    slug = slug_of(era)
    upstream = world.upstreams[slug]
    await heard(upstream)
    async with world.client(NEWEST) as modern, world.client("2025-06-18") as legacy, world.client(OLDEST) as oldest:
        speakers = (modern, legacy, oldest)
        async with told(modern) as one, told(legacy) as two, told(oldest) as three:
            for name in ("added", "added-too"):
                upstream.tools = [*upstream.tools, {**TOOL, "name": name}]
                await tell(upstream, TOOLS_CHANGED)
                for speaker, events in zip(speakers, (one, two, three), strict=True):
                    assert (await events.message())["method"] == TOOLS_CHANGED
                    names = [tool["name"] for tool in await speaker.all("tools/list", "tools")]
                    assert f"{slug}__{name}" in names


async def test_only_those_whose_own_view_changed_are_told(world: Federation) -> None:
    """A principal that may not see the tool hears nothing of it, not even that there is something."""
    slug = slug_of(NEWEST)
    upstream = world.upstreams[slug]
    await heard(upstream)
    seeing, blind = await world.key("*"), await world.key(f"{slug_of(OLDEST)}__*", f"{slug}__shown")
    wanted = {"toolsListChanged": True, "promptsListChanged": True}
    one, two = (ModernClient(world.http, world.replica.mcp, None, key) for key in (seeing, blind))
    async with listening(one, wanted) as (all_changes, _), listening(two, wanted) as (few_changes, _):
        upstream.tools = [*upstream.tools, {**TOOL, "name": "hidden"}]
        await tell(upstream, TOOLS_CHANGED)
        assert (await all_changes.message())["method"] == TOOLS_CHANGED
        upstream.prompts = [*upstream.prompts, {"name": "shown"}]
        await tell(upstream, PROMPTS_CHANGED)
        for changes in (all_changes, few_changes):
            assert (await changes.message())["method"] == PROMPTS_CHANGED
        assert f"{slug}__shown" in [prompt["name"] for prompt in await two.all("prompts/list", "prompts")]
        assert not [tool["name"] for tool in await two.all("tools/list", "tools") if tool["name"].startswith(slug)]


@pytest.mark.parametrize("era", ERAS)
async def test_an_updated_resource_is_told_under_the_uri_that_was_asked_for(world: Federation, era: str) -> None:
    """P36, P57: to a listen and to subscribed sessions; sub-resources too; nobody hears of what was not asked for."""
    slug = slug_of(era)
    upstream = world.upstreams[slug]
    uri = f"{slug}+file:///report"
    async with world.client(NEWEST) as modern, world.client("2025-11-25") as legacy, world.client(OLDEST) as oldest:
        assert isinstance(modern, ModernClient)
        standing = len(upstream.listening)
        for session in (legacy, oldest):
            assert await session.result("resources/subscribe", {"uri": uri}) == {}
        wanted = {"resourceSubscriptions": [uri, "nobody+file:///x"]}
        async with listening(modern, wanted) as (one, first), told(legacy) as two, told(oldest) as three:
            assert first["params"]["notifications"] == {"resourceSubscriptions": [uri]}
            await until(upstream, lambda: len(watches(upstream)) >= 3 and len(upstream.listening) >= standing + 3)
            for changed in ("file:///report", "file:///report/page/1"):
                await tell(upstream, UPDATED, {"uri": "file:///other"})
                await tell(upstream, UPDATED, {"uri": changed})
                expected = {"uri": f"{slug}+{changed}"}
                assert (await one.message())["params"] == {**expected, "_meta": {SUBSCRIPTION: first_id(first)}}
                for events in (two, three):
                    message = await events.message()
                    assert (message["method"], message["params"]) == (UPDATED, expected)


def first_id(acknowledgement: dict[str, Any]) -> Any:
    return acknowledgement["params"]["_meta"][SUBSCRIPTION]


async def test_a_listen_says_first_what_it_honours_and_tags_every_frame_with_its_id(
    database_url: str, tmp_path: Path
) -> None:
    """P57: nothing is honoured that nobody offers, nothing sent that nobody asked for, and it ends with a result."""
    plain = upstream_of(NEWEST)
    quiet = upstream_of("2025-11-25", resources=[{"uri": "file:///q", "name": "q"}], capabilities={"resources": {}})
    async with federation(database_url, tmp_path, {"plain": plain, "quiet": quiet}) as running:
        speaker = ModernClient(running.http, running.replica.mcp, None, None)
        everything = {
            "toolsListChanged": True,
            "promptsListChanged": True,
            "resourcesListChanged": False,
            "resourceSubscriptions": ["quiet+file:///q", "plain+file:///x"],
            "somethingElse": True,
        }
        await heard(plain)
        async with listening(speaker, everything, 7) as (events, first), listening(speaker, {}, "7") as (silent, none):
            assert (first["method"], first["params"]["notifications"]) == (ACKNOWLEDGED, {"toolsListChanged": True})
            assert (none["params"]["notifications"], none["params"]["_meta"]) == ({}, {SUBSCRIPTION: "7"})
            plain.tools = [*plain.tools, {**TOOL, "name": "more"}]
            await tell(plain, TOOLS_CHANGED)
            frames = [first, await events.message()]
            running.replica.gateway.drain()
            frames += await events.rest()
            assert [frame.get("method") for frame in frames] == [ACKNOWLEDGED, TOOLS_CHANGED, None]
            assert (frames[-1]["id"], frames[-1]["result"]["resultType"]) == (7, "complete")
            tags = [(frame["params"] if "method" in frame else frame["result"])["_meta"] for frame in frames]
            assert [tag[SUBSCRIPTION] for tag in tags] == [7, 7, 7]
            assert [frame.get("id") for frame in await silent.rest()] == ["7"]


async def test_the_official_client_is_told(world: Federation) -> None:
    slug = slug_of(NEWEST)
    upstream = world.upstreams[slug]
    uri = f"{slug}+file:///report"
    async with (
        mcp.Client(world.replica.mcp, mode=NEWEST) as client,
        client.listen(tools_list_changed=True, resource_subscriptions=[uri]) as changes,
    ):
        assert changes.honored.tools_list_changed
        await until(upstream, lambda: ["file:///report"] in watches(upstream))
        await tell(upstream, UPDATED, {"uri": "file:///report"})
        async with asyncio.timeout(SECONDS):
            assert await anext(aiter(changes)) == ResourceUpdated(uri=uri)
            upstream.tools = [*upstream.tools, {**TOOL, "name": "official"}]
            await tell(upstream, TOOLS_CHANGED)
            assert isinstance(await anext(aiter(changes)), ToolsListChanged)
        names = [tool.name for tool in (await client.list_tools()).tools]
        assert f"{slug}__official" in names


async def test_each_message_to_a_session_goes_to_one_stream(world: Federation) -> None:
    """P23: a session's newest GET stream takes over; what belongs to a call is on that call's stream only."""
    slug = slug_of("2025-11-25")
    upstream = world.upstreams[slug]
    await heard(upstream)
    async with world.client("2025-11-25") as speaker:
        assert isinstance(speaker, SessionClient)
        async with told(speaker) as older, told(speaker) as newer:
            assert await older.rest() == []
            upstream.tools = [*upstream.tools, {**TOOL, "name": "once"}]
            await tell(upstream, TOOLS_CHANGED)
            assert (await newer.message())["method"] == TOOLS_CHANGED
            await speaker.delete()
            assert await newer.rest() == []


@pytest.mark.parametrize("era", ERAS)
async def test_an_unsubscribed_session_is_told_no_more(world: Federation, era: str) -> None:
    slug = slug_of(era)
    upstream = world.upstreams[slug]
    dropped, kept = "file:///report", "file:///second"
    async with world.client("2025-11-25") as speaker:
        for uri in (dropped, kept):
            await speaker.result("resources/subscribe", {"uri": f"{slug}+{uri}"})
        async with told(speaker) as events:
            await until(upstream, lambda: {dropped, kept} <= {uri for each in watches(upstream) for uri in each})
            await speaker.result("resources/unsubscribe", {"uri": f"{slug}+{dropped}"})
            if era == NEWEST:
                await until(upstream, lambda: [kept] in watches(upstream))
            else:
                assert upstream.requests("resources/unsubscribe")[-1]["params"] == {"uri": dropped}
                await until(upstream, lambda: len(upstream.listening) > 1)
            await tell(upstream, UPDATED, {"uri": dropped})
            await tell(upstream, UPDATED, {"uri": kept})
            assert (await events.message())["params"] == {"uri": f"{slug}+{kept}"}


async def test_lists_are_read_in_the_upstreams_new_era(database_url: str, tmp_path: Path) -> None:
    """P10: an upstream is replaced by a modern one; that its stream ended is how the gateway finds out."""
    upstream = upstream_of("2025-11-25")
    async with federation(database_url, tmp_path, {"up": upstream}) as running:
        speaker = ModernClient(running.http, running.replica.mcp, None, None)
        await heard(upstream)
        async with told(speaker) as events:
            upstream.era = "modern"
            upstream.tools = [*upstream.tools, {**TOOL, "name": "new"}]
            for exchange in tuple(upstream.listening):
                await exchange.raw(b"", last=True)
            assert (await events.message())["method"] == TOOLS_CHANGED
        assert [tool["name"] for tool in await speaker.all("tools/list", "tools")] == ["up__echo", "up__new"]
        assert last(upstream, "tools/list").headers["mcp-protocol-version"] == NEWEST
