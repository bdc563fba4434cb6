"""Servers that other people wrote, seven at once behind one gateway, answer as they do over stdio.

Each test runs through the gateway's `/mcp` with a client of either era, and in the long runs straight to the server's
stdio too: when that fails, the server has changed, not the gateway. npm servers speak 2025-11-25, PyPI ones both eras.
"""

import base64
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from mcp_types import (
    BlobResourceContents,
    CallToolResult,
    EmbeddedResource,
    ImageContent,
    PromptReference,
    ResourceLink,
    TextContent,
    TextResourceContents,
    Tool,
)

from tests.servers.routes import Desk, Route, ada_answers, laid_out, over_stdio
from tests.support.foreign import Endpoint, client_of, gateway, wrapped

pytestmark = pytest.mark.servers


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    return laid_out(tmp_path_factory.mktemp("desk"))


@pytest.fixture(scope="module")
def front(desk: Desk, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    folder = tmp_path_factory.mktemp("gateway")
    with wrapped(desk.commands, folder) as urls, gateway(urls, folder) as endpoint:
        yield endpoint


STDIO = pytest.param("stdio", marks=pytest.mark.slow)
MODERN, LEGACY = "gateway, modern client", "gateway, legacy client"


@pytest.fixture(params=[STDIO, MODERN, LEGACY])
def route(request: pytest.FixtureRequest, desk: Desk) -> Route:
    # Only the routes through the gateway need one; it is not started for the other.
    endpoint = None if request.param == "stdio" else request.getfixturevalue("front")
    return Route(desk, endpoint, "legacy" if request.param == LEGACY else "auto")


def text_of(result: CallToolResult) -> str:
    """The text of a result that is one text."""
    (block,) = result.content
    assert isinstance(block, TextContent)
    return block.text


def told_of(tool: Tool) -> dict[str, Any]:
    """What a model is told of a tool, besides its name."""
    return tool.model_dump(include={"title", "description", "input_schema", "output_schema", "annotations"})


@dataclass
class Offer:
    """All that the seven servers offer when each is asked over stdio, under the names the gateway must give it."""

    tools: dict[str, Tool] = field(default_factory=dict)
    never_shown: set[str] = field(default_factory=set)
    """Tools that can only run as a task of the 2025-11-25 dialect, which the gateway does not speak."""
    for_some: set[str] = field(default_factory=set)
    """Tools that a server offers only to a client that can ask its user."""
    prompts: set[str] = field(default_factory=set)
    resources: set[str] = field(default_factory=set)
    templates: set[str] = field(default_factory=set)


@pytest.fixture(scope="module")
async def offer(desk: Desk) -> Offer:
    found = Offer()
    for slug, command in desk.commands.items():
        async with over_stdio(command) as client:
            tools = {f"{slug}__{tool.name}": tool for tool in (await client.list_tools()).tools}
            if client.server_capabilities.prompts:
                found.prompts |= {f"{slug}__{one.name}" for one in (await client.list_prompts()).prompts}
            if client.server_capabilities.resources:
                found.resources |= {f"{slug}+{one.uri}" for one in (await client.list_resources()).resources}
                templates = (await client.list_resource_templates()).resource_templates
                found.templates |= {f"{slug}+{one.uri_template}" for one in templates}
        found.tools |= tools
        found.never_shown |= {name for name, tool in tools.items() if must_be_a_task(tool)}
    async with over_stdio(desk.commands["everything"], answers=False) as client:
        always = {f"everything__{tool.name}" for tool in (await client.list_tools()).tools}
    found.for_some = {name for name in found.tools if name.startswith("everything__")} - always
    assert len({name.partition("__")[0] for name in found.tools}) == 7
    assert found.never_shown == {"everything__simulate-research-query"}
    assert (len(found.prompts), len(found.resources), len(found.templates)) == (5, 8, 2)
    return found


def must_be_a_task(tool: Tool) -> bool:
    return tool.execution is not None and tool.execution.task_support == "required"


@pytest.mark.parametrize("era", ["auto", "legacy"])
async def test_seven_servers_are_listed_together_without_a_collision(offer: Offer, front: Endpoint, era: str) -> None:
    async with client_of(front, era, ada_answers) as client:
        tools = (await client.list_tools()).tools
        prompts = (await client.list_prompts()).prompts
        resources = (await client.list_resources()).resources
        templates = (await client.list_resource_templates()).resource_templates
    names = [tool.name for tool in tools]
    assert len(names) == len(set(names))
    # Which of the tools for some clients are shown is the gateway's choice; no other may be missing or added.
    assert set(names) | offer.for_some == (offer.tools.keys() | offer.for_some) - offer.never_shown
    assert {tool.name: told_of(tool) for tool in tools} == {name: told_of(offer.tools[name]) for name in names}
    assert sorted(one.name for one in prompts) == sorted(offer.prompts)
    assert sorted(one.uri for one in resources) == sorted(offer.resources)
    assert sorted(one.uri_template for one in templates) == sorted(offer.templates)


@pytest.mark.parametrize(
    ("arguments", "tool", "expected"),
    [
        ({"message": "tea for two · 二"}, "echo", "Echo: tea for two · 二"),
        ({"a": 2, "b": 40}, "get-sum", "The sum of 2 and 40 is 42."),
    ],
    ids=["echo", "sum"],
)
async def test_a_text_comes_back_as_the_server_wrote_it(
    route: Route, tool: str, arguments: Mapping[str, Any], expected: str
) -> None:
    async with route.to("everything") as everything:
        assert text_of(await everything.call(tool, arguments)) == expected


async def test_every_step_of_a_long_operation_is_reported(route: Route) -> None:
    steps: list[tuple[float, float | None]] = []

    async def note(done: float, total: float | None, message: str | None) -> None:
        steps.append((done, total))

    arguments = {"duration": 0.4, "steps": 4}
    async with route.to("everything") as everything:
        result = await everything.call("trigger-long-running-operation", arguments, progress_callback=note)
    assert text_of(result) == "Long running operation completed. Duration: 0.4 seconds, Steps: 4."
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]


async def test_an_image_comes_back_whole(route: Route) -> None:
    async with route.to("everything") as everything:
        result = await everything.call("get-tiny-image", {})
    assert [block.type for block in result.content] == ["text", "image", "text"]
    image = result.content[1]
    assert isinstance(image, ImageContent)
    assert image.mime_type == "image/png"
    picture = base64.b64decode(image.data, validate=True)
    assert picture.startswith(b"\x89PNG\r\n\x1a\n")
    assert picture.endswith(b"IEND\xaeB\x60\x82")


async def test_structured_results_come_back(route: Route) -> None:
    async with route.to("everything") as everything:
        weather = await everything.call("get-structured-content", {"location": "Chicago"})
    assert weather.structured_content == {"temperature": 36, "conditions": "Light rain / drizzle", "humidity": 82}
    async with route.to("time") as time:
        noon = {"source_timezone": "UTC", "time": "12:00", "target_timezone": "Asia/Kolkata"}
        converted = (await time.call("convert_time", noon)).structured_content
    assert converted is not None
    assert converted["target"]["datetime"].endswith("T17:30:00+05:30")
    thought = {"thought": "Tea first.", "nextThoughtNeeded": False, "thoughtNumber": 1, "totalThoughts": 1}
    async with route.to("thinking") as thinking:
        taken = (await thinking.call("sequentialthinking", thought)).structured_content
    assert taken is not None
    assert (taken["thoughtNumber"], taken["totalThoughts"], taken["nextThoughtNeeded"]) == (1, 1, False)


async def test_a_link_in_a_result_can_be_followed_on_the_same_route(route: Route) -> None:
    async with route.to("everything") as everything:
        result = await everything.call("get-resource-links", {"count": 2})
        links = [block for block in result.content if isinstance(block, ResourceLink)]
        assert [link.name for link in links] == ["Blob Resource 1", "Text Resource 2"]
        blob, text = [await everything.follow(link.uri) for link in links]
    assert isinstance(blob, BlobResourceContents)
    assert base64.b64decode(blob.blob).startswith(b"Resource 1: ")
    assert isinstance(text, TextResourceContents)
    assert text.text.startswith("Resource 2: ")


async def test_an_embedded_resource_names_a_uri_that_can_be_read_on_the_same_route(route: Route) -> None:
    async with route.to("everything") as everything:
        result = await everything.call("get-resource-reference", {"resourceType": "Text", "resourceId": 3})
        (embedded,) = [block.resource for block in result.content if isinstance(block, EmbeddedResource)]
        read = await everything.follow(embedded.uri)
    assert embedded.uri == everything.uri_prefix + "demo://resource/dynamic/text/3"
    assert isinstance(read, TextResourceContents)
    assert read.text.startswith("Resource 3: This is a plaintext resource")


async def test_a_document_is_read_from_a_resource(route: Route) -> None:
    async with route.to("everything") as everything:
        document = await everything.read("demo://resource/static/document/features.md")
    assert isinstance(document, TextResourceContents)
    assert document.mime_type == "text/markdown"
    assert document.text.startswith("# Everything Server - Features\n")


async def test_a_prompt_is_filled_in_and_its_arguments_complete(route: Route) -> None:
    async with route.to("everything") as everything:
        name = everything.tool_prefix + "args-prompt"
        (message,) = (await everything.client.get_prompt(name, {"city": "Oslo", "state": "NO"})).messages
        reference = PromptReference(type="ref/prompt", name=everything.tool_prefix + "completable-prompt")
        offered = await everything.client.complete(reference, {"name": "department", "value": "S"})
    assert isinstance(message.content, TextContent)
    assert message.content.text == "What's weather in Oslo, NO?"
    assert offered.completion.values == ["Sales", "Support"]


NOT_YET = pytest.mark.xfail(
    strict=True, raises=AssertionError, reason="a handshake-era server cannot ask a client without a session yet"
)


@pytest.mark.parametrize("route", [STDIO, LEGACY, pytest.param(MODERN, marks=NOT_YET)], indirect=True)
async def test_a_server_asks_the_person_in_front_of_the_client(route: Route) -> None:
    async with route.to("everything") as everything:
        result = await everything.call("trigger-elicitation-request", {})
    texts = [block.text for block in result.content if isinstance(block, TextContent)]
    assert "User inputs:\n- Name: Ada Lovelace" in texts


async def test_a_file_is_written_and_read_and_one_outside_the_folder_is_refused(route: Route, desk: Desk) -> None:
    note = desk.documents / "note.txt"
    async with route.to("filesystem") as filesystem:
        tea = await filesystem.call("read_text_file", {"path": str(desk.documents / "tea.txt")})
        await filesystem.call("write_file", {"path": str(note), "content": "milk\n"})
        outside = await filesystem.call("read_text_file", {"path": str(desk.repository / ".git" / "config")})
    assert text_of(tea) == "two spoons a pot"
    assert note.read_text() == "milk\n"
    note.unlink()
    assert outside.is_error
    assert text_of(outside).startswith("Access denied - path outside allowed directories")


async def test_what_is_remembered_can_be_read_again_as_a_tool_result_and_as_a_resource(route: Route) -> None:
    kettle = {"name": "kettle", "entityType": "thing", "observations": ["hot"]}
    async with route.to("memory") as memory:
        await memory.call("create_entities", {"entities": [kettle]})
        opened = await memory.call("open_nodes", {"names": ["kettle"]})
        graph = await memory.read("memory://knowledge-graph")
        await memory.call("delete_entities", {"entityNames": ["kettle"]})
        after = await memory.call("read_graph", {})
    assert opened.structured_content == {"entities": [kettle], "relations": []}
    assert isinstance(graph, TextResourceContents)
    assert '"name": "kettle"' in graph.text
    assert after.structured_content == {"entities": [], "relations": []}


async def test_the_history_of_a_repository_is_read(route: Route, desk: Desk) -> None:
    async with route.to("git") as git:
        log = text_of(await git.call("git_log", {"repo_path": str(desk.repository)}))
        elsewhere = await git.call("git_log", {"repo_path": str(desk.documents)})
    assert "Author: Ada\n" in log
    assert "Message: Put the kettle on\n" in log
    assert elsewhere.is_error


class Page(BaseHTTPRequestHandler):
    """A page of plain text that names the path it was asked for."""

    def do_GET(self) -> None:
        body = f"the page at {self.path}".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002 the name is the base class's
        """Print nothing."""


@pytest.fixture
def page() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/menu"
        server.shutdown()
        thread.join()


async def test_a_page_is_fetched(route: Route, page: str) -> None:
    async with route.to("fetch") as fetch:
        fetched = await fetch.call("fetch", {"url": page, "raw": True})
    assert "the page at /menu" in text_of(fetched)
