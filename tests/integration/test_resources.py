"""Resources, templates, completions and prompts through the federated endpoint: URIs that lead where they should."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.clients import NEWEST, OLDEST, REVISIONS, Client
from tests.support.federation import Federation, acting, federation
from tests.support.upstream_eras import (
    INLINE,
    LINK,
    PNG,
    RESOURCES,
    TEMPLATES,
    TEXT,
    of_each_revision,
    slug_of,
    upstream_of,
)
from tests.support.upstreams import Exchange, ScriptedUpstream

CACHING = {"ttlMs", "cacheScope"}


@pytest.fixture(scope="module")
async def world(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Federation]:
    async with federation(database_url, tmp_path_factory.mktemp("state"), of_each_revision()) as running:
        yield running


async def read(speaker: Client, uri: str) -> dict[str, Any]:
    return await speaker.result("resources/read", {"uri": uri})


@pytest.mark.parametrize("upstream", REVISIONS)
@pytest.mark.parametrize("client", REVISIONS)
async def test_every_uri_that_is_shown_can_be_read(world: Federation, client: str, upstream: str) -> None:
    """P36, P6: URIs of lists, tool results and prompts; the contents name the URI that was asked for."""
    slug = slug_of(upstream)
    async with world.client(client) as speaker:
        listed = [item["uri"] for item in await speaker.all("resources/list", "resources")]
        uri = f"{slug}+file:///report"
        assert uri in listed
        result = await read(speaker, uri)
        assert world.upstreams[slug].requests("resources/read")[-1]["params"]["uri"] == "file:///report"
        shown = {"uri": uri, "text": "contents of file:///report", "x-vendor": 1}
        assert result["contents"] == [shown, {"uri": uri, "blob": PNG}]
        assert CACHING & result.keys() == (CACHING if client == NEWEST else set())
        prompt = await speaker.result("prompts/get", {"name": f"{slug}__ask", "arguments": {"city": "Oslo"}})
        text, link, embedded = (message["content"] for message in prompt["messages"])
        assert (prompt["description"], text) == ("of Oslo", TEXT)
        if client >= "2025-06-18":
            assert link == {**LINK, "uri": uri}
        else:
            assert uri in link["text"]
        assert embedded["resource"] == {**INLINE, "uri": f"{slug}+file:///inline"}
        assert (await read(speaker, embedded["resource"]["uri"]))["contents"][0]["text"] == "contents of file:///inline"


@pytest.mark.parametrize("upstream", REVISIONS)
@pytest.mark.parametrize("client", REVISIONS)
async def test_an_expanded_template_is_read_and_completed_at_its_own_upstream(
    world: Federation, client: str, upstream: str
) -> None:
    """P37: expanding the exposed template gives the exposed URI of the expansion."""
    slug = slug_of(upstream)
    async with world.client(client) as speaker:
        templates = await speaker.all("resources/templates/list", "resourceTemplates")
        [template] = [each for each in templates if each["uriTemplate"].startswith(f"{slug}+")]
        assert template == {**TEMPLATES[0], "uriTemplate": f"{slug}+file:///city/{{name}}"}
        expanded = template["uriTemplate"].replace("{name}", "Oslo")
        assert (await read(speaker, expanded))["contents"][0]["text"] == "contents of file:///city/Oslo"
        for reference, at_upstream in (
            ({"type": "ref/resource", "uri": template["uriTemplate"]}, {"uri": "file:///city/{name}"}),
            ({"type": "ref/prompt", "name": f"{slug}__ask"}, {"name": "ask"}),
        ):
            argument = {"name": "name", "value": "Ham"}
            context = {"arguments": {"country": "DE"}}
            params = {"ref": reference, "argument": argument, "context": context}
            result = await speaker.result("completion/complete", params)
            assert result["completion"] == {"values": ["Hamburg"], "total": 1, "hasMore": False}
            sent = world.upstreams[slug].requests("completion/complete")[-1]["params"]
            assert sent["ref"] == {"type": reference["type"], **at_upstream}
            assert (sent["argument"], sent["context"]) == (argument, context)


@pytest.mark.parametrize("upstream", [OLDEST, "2025-11-25", NEWEST])
@pytest.mark.parametrize("client", REVISIONS)
async def test_a_resource_that_does_not_exist_is_an_error_of_the_clients_revision(
    world: Federation, client: str, upstream: str
) -> None:
    """P39: -32602 to modern clients, -32002 to older ones, whatever the upstream says; the URI is the client's."""
    slug = slug_of(upstream)

    async def absent(exchange: Exchange) -> None:
        code, status = (-32602, 400) if upstream == NEWEST else (-32002, 200)
        await exchange.error(code, "Resource not found", {"uri": exchange.params["uri"]}, status)

    uri = f"{slug}+file:///gone"
    with acting(world.upstreams[slug], "resources/read", absent):
        async with world.client(client) as speaker:
            error = (await speaker.ask("resources/read", {"uri": uri}))["error"]
            nowhere = (await speaker.ask("resources/read", {"uri": "nobody+file:///x"}))["error"]
    assert error["code"] == nowhere["code"] == (-32602 if client == NEWEST else -32002)
    assert error["data"]["uri"] == uri
    assert nowhere["data"] == {"uri": "nobody+file:///x"}


async def test_a_servers_own_endpoint_changes_no_uri(world: Federation) -> None:
    slug = slug_of(NEWEST)
    for revision in (NEWEST, "2025-06-18"):
        async with world.client(revision, endpoint=slug) as speaker:
            assert (await speaker.call("weather", city="Oslo"))["content"][2] == LINK
            assert (await speaker.result("resources/list"))["resources"] == RESOURCES
            assert (await speaker.result("resources/templates/list"))["resourceTemplates"] == TEMPLATES
            assert (await read(speaker, "file:///report"))["contents"][0]["uri"] == "file:///report"


def listing(*uris: str) -> ScriptedUpstream:
    """An upstream that lists resources and answers reads with its own mark."""
    upstream = upstream_of(NEWEST, resources=[{"uri": uri, "name": "r"} for uri in uris])

    async def answer(exchange: Exchange) -> None:
        contents = [{"uri": exchange.params["uri"], "text": upstream.url}]
        await exchange.result({"contents": contents, "ttlMs": 0, "cacheScope": "private"})

    upstream.acts["resources/read"] = answer
    return upstream


async def test_no_upstream_takes_over_a_uri_of_another(database_url: str, tmp_path: Path) -> None:
    """P38: prefixes decide, and a URI that keeps its form and has two owners is served by neither."""
    shared = "https://example.com/shared"
    one = listing("file:///x", "two+file:///x", shared, "https://example.com/one", "ui://one/app")
    two = listing("file:///x", shared, "ui://two/app")
    async with (
        federation(database_url, tmp_path, {"one": one, "two": two}) as running,
        running.client(NEWEST) as speaker,
    ):
        listed = {item["uri"] for item in await speaker.all("resources/list", "resources")}
        owned = {
            "one+file:///x": one,
            "one+two+file:///x": one,
            "two+file:///x": two,
            "https://example.com/one": one,
            "ui://one/app": one,
            "ui://two/app": two,
        }
        assert listed == owned.keys()
        for uri, owner in owned.items():
            contents = (await read(speaker, uri))["contents"]
            assert contents == [{"uri": uri, "text": owner.url}]
        seen = len(one.seen), len(two.seen)
        for uri in (shared, "https://example.com/unlisted", "file:///x", "ui://three/app"):
            answer = await speaker.ask("resources/read", {"uri": uri})
            assert answer["error"]["code"] == -32602, uri
        assert (len(one.seen), len(two.seen)) == seen


async def test_a_completion_needs_the_same_permission_as_what_it_completes(world: Federation) -> None:
    slug = slug_of(NEWEST)
    key = await world.key("other__*")
    before = len(world.upstreams[slug].seen)
    async with world.client(NEWEST, key=key) as speaker:
        for reference in (
            {"type": "ref/resource", "uri": f"{slug}+file:///city/{{name}}"},
            {"type": "ref/prompt", "name": f"{slug}__ask"},
        ):
            params = {"ref": reference, "argument": {"name": "name", "value": "H"}}
            assert (await speaker.ask("completion/complete", params))["error"]["code"] == -32602
        assert (await speaker.ask("resources/read", {"uri": f"{slug}+file:///report"}))["error"]["code"] == -32602
    assert len(world.upstreams[slug].seen) == before
