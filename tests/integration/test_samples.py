"""The sample servers, each asked by the official client in its own era and refusing the other."""

import asyncio
import base64
import runpy
import sys
from collections.abc import AsyncIterator
from typing import Any

import httpx
import mcp_types as types
import pytest
from mcp import Client
from mcp.client.session import ClientRequestContext

from samples import library, workshop
from tests.support.listening import listening
from tests.support.wrapping import SECONDS, Events

LATEST_LEGACY = "2025-11-25"


@pytest.fixture(scope="module")
async def library_url() -> AsyncIterator[str]:
    async with listening(library.build()) as origin:
        yield f"{origin}/mcp"


@pytest.fixture(scope="module")
async def workshop_url() -> AsyncIterator[str]:
    async with listening(workshop.build()) as origin:
        yield f"{origin}/mcp"


async def sign_as_ada(context: ClientRequestContext, params: types.ElicitRequestParams) -> types.ElicitResult:
    assert isinstance(params, types.ElicitRequestFormParams), context
    return types.ElicitResult(action="accept", content=dict.fromkeys(params.requested_schema["properties"], "Ada"))


@pytest.mark.parametrize("module", ["samples.library", "samples.workshop"])
def test_a_sample_says_how_it_is_started(
    module: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [module, "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(sys.modules[module].__file__), run_name="__main__")
    assert ended.value.code == 0
    assert "--port" in capsys.readouterr().out


# The library


async def test_a_book_is_lent_once_though_the_call_takes_two_rounds(library_url: str) -> None:
    async with Client(library_url, mode="auto", elicitation_callback=sign_as_ada) as client:
        assert client.protocol_version == "2026-07-28"
        before = len(library.loans), library.calls["borrow_book"]
        lent = await client.call_tool("borrow_book", {"book_id": "emma"})
        assert lent.structured_content == {"book": "emma", "reader": "Ada"}
        assert (len(library.loans), library.calls["borrow_book"]) == (before[0] + 1, before[1] + 2)
        again = await client.call_tool("borrow_book", {"book_id": "emma"})
        assert again.is_error


async def test_books_are_found_counted_and_shown(library_url: str) -> None:
    steps: list[tuple[float, str | None]] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        assert total == len(library.BOOKS)
        steps.append((progress, message))

    async with Client(library_url, mode="2026-07-28") as client:
        found = await client.call_tool("find_books", {"query": "lovelace"})
        assert found.structured_content is not None
        assert [book["id"] for book in found.structured_content["result"]] == ["notes-on-the-engine"]
        await client.call_tool("take_inventory", {}, progress_callback=note)
        assert [step for step, _ in steps] == [1, 2, 3, 4]
        image = (await client.call_tool("cover", {"book_id": "emma"})).content[1]
        assert isinstance(image, types.ImageContent)
        assert base64.b64decode(image.data).startswith(b"\x89PNG")
        counts = (await client.call_tool("call_counts", {})).structured_content
        assert counts == dict(library.calls)


async def test_cards_are_read_by_template_with_completion_and_prompts_by_shelf(library_url: str) -> None:
    async with Client(library_url, mode="2026-07-28") as client:
        [template] = (await client.list_resource_templates()).resource_templates
        reference = types.ResourceTemplateReference(type="ref/resource", uri=template.uri_template)
        completion = (await client.complete(reference, {"name": "book_id", "value": "fr"})).completion
        assert completion.values == ["frankenstein"]
        [card] = (await client.read_resource("library://books/frankenstein")).contents
        assert isinstance(card, types.TextResourceContents)
        assert library.Book.model_validate_json(card.text) == library.BOOKS["frankenstein"]
        prompt = (await client.get_prompt("recommend", {"shelf": "science"})).messages[0].content
        assert isinstance(prompt, types.TextContent)
        assert "Analytical Engine" in prompt.text


# The workshop


async def test_every_session_has_a_notebook_of_its_own_and_is_told_when_it_changes(workshop_url: str) -> None:
    updated = asyncio.Event()

    async def watch(message: Any) -> None:
        if isinstance(message, types.ResourceUpdatedNotification):
            assert message.params.uri == workshop.NOTEBOOK
            updated.set()

    async with (
        Client(workshop_url, mode="auto", message_handler=watch) as one,
        Client(workshop_url, mode="auto") as two,
    ):
        assert one.protocol_version == LATEST_LEGACY
        with pytest.warns(match="resources/subscribe"):
            await one.subscribe_resource(workshop.NOTEBOOK)
        await two.call_tool("write_note", {"text": "of two"})
        assert not updated.is_set()
        assert (await one.call_tool("write_note", {"text": "of one"})).structured_content == {"lines": 1}
        await asyncio.wait_for(updated.wait(), SECONDS)
        [notebook] = (await one.read_resource(workshop.NOTEBOOK)).contents
        assert isinstance(notebook, types.TextResourceContents)
        assert notebook.text == "of one"


async def test_a_briefing_unlocks_the_lathe_of_the_session(workshop_url: str) -> None:
    changed = asyncio.Event()
    logged: list[Any] = []
    turns: list[float] = []

    async def watch(message: Any) -> None:
        if isinstance(message, types.ToolListChangedNotification):
            changed.set()

    async def log(params: types.LoggingMessageNotificationParams) -> None:
        logged.append(params.data)

    async def note(progress: float, total: float | None, message: str | None) -> None:
        assert (total, message) == (3, f"turn {progress:g}")
        turns.append(progress)

    async with Client(
        workshop_url,
        mode="legacy",
        elicitation_callback=sign_as_ada,
        message_handler=watch,
        logging_callback=log,
    ) as client:
        assert "run_lathe" not in {tool.name for tool in (await client.list_tools()).tools}
        assert (await client.call_tool("take_briefing", {})).structured_content == {"briefed": True}
        await asyncio.wait_for(changed.wait(), SECONDS)
        assert "run_lathe" in {tool.name for tool in (await client.list_tools()).tools}
        turned = await client.call_tool("run_lathe", {"turns": 3}, progress_callback=note)
        assert turned.structured_content == {"turns": 3, "by": "Ada"}
        assert turns == [1, 2, 3]
        assert logged == ["Ada is done"]


async def test_a_client_that_was_hung_up_on_comes_back_for_its_own_result(workshop_url: str) -> None:
    headers = {"accept": "application/json, text/event-stream", "mcp-protocol-version": LATEST_LEGACY}

    def message(method: str, **params: Any) -> dict[str, Any]:
        return {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}

    async def open_session(http: httpx.AsyncClient) -> dict[str, str]:
        hello = message(
            "initialize", protocolVersion=LATEST_LEGACY, capabilities={}, clientInfo={"name": "x", "version": "1"}
        )
        response = await http.post(workshop_url, json=hello, headers=headers)
        session = {**headers, "mcp-session-id": response.headers["mcp-session-id"]}
        await http.post(workshop_url, json={"jsonrpc": "2.0", "method": "notifications/initialized"}, headers=session)
        return session

    async with httpx.AsyncClient(timeout=SECONDS, trust_env=False, verify=False) as http:
        one, two = await open_session(http), await open_session(http)
        body = message("tools/call", name="dry_glue", arguments={})
        async with http.stream("POST", workshop_url, json=body, headers=one) as response:
            seen = [event async for event in Events(response)]
        assert [event.message for event in seen] == [None]
        # The other session uses the same request id for something else.
        await http.post(workshop_url, json=message("tools/call", name="call_counts", arguments={}), headers=two)
        async with http.stream("GET", workshop_url, headers={**one, "last-event-id": seen[0].id}) as response:
            result = await Events(response).message()
        assert result["result"]["structuredContent"] == {"dry": True}


# The other era


async def test_each_sample_refuses_the_era_of_the_other(library_url: str, workshop_url: str) -> None:
    hello = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {}}
    async with httpx.AsyncClient(timeout=SECONDS, trust_env=False, verify=False) as http:
        old = (await http.post(library_url, json=hello)).json()["error"]
        assert (old["code"], old["data"]["supported"]) == (-32022, ["2026-07-28"])
        new = await http.post(workshop_url, json=hello, headers={"mcp-protocol-version": "2026-07-28"})
        assert (new.status_code, new.json()["error"]["code"]) == (400, -32600)
