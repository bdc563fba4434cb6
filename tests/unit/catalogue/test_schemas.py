"""What each revision's clients see, and which listed items are left out."""

import copy
import json
import re
from collections.abc import Callable
from typing import Any

import mcp_types
import pytest
from mcp_types.methods import validate_server_result
from mcp_types.version import KNOWN_PROTOCOL_VERSIONS

from catalogue.schemas import (
    malformed_prompt,
    malformed_resource,
    malformed_template,
    malformed_tool,
    prompt_for,
    resource_for,
    result_for,
    template_for,
    tool_for,
)

Item = dict[str, Any]

OBJECT: Item = {
    "type": "object",
    "properties": {"a": {"type": "string"}},
    "required": ["a"],
    "$defs": {"x": {"oneOf": []}},
}
ARRAY: Item = {"type": "array", "items": {"type": "integer"}}
ICONS = [{"src": "https://example.com/i.png"}]
PLAIN_TOOL: Item = {
    "name": "t",
    "title": "T",
    "description": "d",
    "inputSchema": OBJECT,
    "_meta": {"a": None},
    "vendor": None,
}
FULL_TOOL: Item = {
    **PLAIN_TOOL,
    "annotations": {"readOnlyHint": True},
    "icons": ICONS,
    "outputSchema": OBJECT,
    "execution": {"taskSupport": "optional"},
}


def members_gone(tool: Item, revision: str) -> set[str]:
    seen = tool_for(tool, revision)
    assert seen is not None
    assert seen == {name: tool[name] for name in seen}
    return tool.keys() - seen.keys()


@pytest.mark.parametrize(
    ("revision", "gone"),
    [
        ("2024-11-05", {"annotations", "icons", "outputSchema", "execution"}),
        ("2025-03-26", {"icons", "outputSchema", "execution"}),
        ("2025-06-18", {"icons", "execution"}),
        ("2025-11-25", {"execution"}),
        ("2026-07-28", {"execution"}),
        ("1999-01-01", {"annotations", "icons", "outputSchema", "execution"}),
        ("zzz", {"annotations", "icons", "outputSchema", "execution"}),
    ],
)
def test_a_tool_loses_what_a_revision_does_not_define(revision: str, gone: set[str]) -> None:
    before = copy.deepcopy(FULL_TOOL)
    assert members_gone(FULL_TOOL, revision) == gone
    assert before == FULL_TOOL


@pytest.mark.parametrize("schema", [ARRAY, {}, {"type": ["object", "null"]}, {"oneOf": [OBJECT]}])
def test_an_output_schema_that_is_not_an_objects_is_for_modern_clients_only(schema: Item) -> None:
    tool = {**PLAIN_TOOL, "outputSchema": schema}
    assert members_gone(tool, "2025-06-18") == {"outputSchema"}
    assert members_gone(tool, "2025-11-25") == {"outputSchema"}
    assert tool_for(tool, "2026-07-28") is tool


@pytest.mark.parametrize("revision", KNOWN_PROTOCOL_VERSIONS)
def test_a_tool_that_only_tasks_can_call_is_hidden(revision: str) -> None:
    assert tool_for({**PLAIN_TOOL, "execution": {"taskSupport": "required"}}, revision) is None


@pytest.mark.parametrize("revision", KNOWN_PROTOCOL_VERSIONS)
def test_what_every_revision_knows_comes_back_as_the_same_object(revision: str) -> None:
    assert tool_for(PLAIN_TOOL, revision) is PLAIN_TOOL
    for convert in (prompt_for, resource_for, template_for):
        item = {"name": "n", "title": "T", "_meta": {}, "annotations": {"priority": 1}, "vendor": None}
        assert convert(item, revision) is item


@pytest.mark.parametrize("convert", [prompt_for, resource_for, template_for])
def test_icons_are_for_clients_since_2025_11_25(convert: Callable[[Item, str], Item]) -> None:
    item = {"name": "n", "icons": ICONS}
    assert [convert(item, revision) is item for revision in KNOWN_PROTOCOL_VERSIONS] == [
        False,
        False,
        False,
        True,
        True,
    ]
    assert convert(item, "2025-06-18") == {"name": "n"}


@pytest.mark.parametrize("revision", KNOWN_PROTOCOL_VERSIONS)
def test_null_for_absent_is_taken_out_of_known_members_only(revision: str) -> None:
    nulls = {
        "title": None,
        "description": None,
        "annotations": None,
        "icons": None,
        "outputSchema": None,
        "_meta": None,
    }
    tool = {
        "name": "t",
        "inputSchema": {"type": "object", "properties": None, "required": None, "x": None},
        "vendor": None,
    }
    expected = {"name": "t", "inputSchema": {"type": "object", "x": None}, "vendor": None}
    assert malformed_tool({**tool, **nulls}) is None
    assert tool_for({**tool, **nulls}, revision) == expected
    assert resource_for({"uri": "a", "name": "a", "mimeType": None, "size": None}, revision) == {
        "uri": "a",
        "name": "a",
    }
    assert prompt_for({"name": "a", "arguments": None}, revision) == {"name": "a"}
    assert template_for({"uriTemplate": "a", "name": "a", "mimeType": None}, revision) == {
        "uriTemplate": "a",
        "name": "a",
    }


def text(content: str, **more: Any) -> Item:
    return {"type": "text", "text": content, **more}


MODERN = {"resultType": "complete", "ttlMs": 1, "cacheScope": "public"}


@pytest.mark.parametrize("method", ["tools/call", "tools/list", "prompts/get", "resources/read", "completion/complete"])
def test_legacy_clients_get_no_members_of_modern_results(method: str) -> None:
    result = {**MODERN, "_meta": {"a": 1}, "nextCursor": "", "vendor": 1}
    for revision in KNOWN_PROTOCOL_VERSIONS[:-1]:
        assert result_for(result, method, revision) == {"_meta": {"a": 1}, "nextCursor": "", "vendor": 1}
    assert result_for(result, method, "2026-07-28") is result


@pytest.mark.parametrize("revision", KNOWN_PROTOCOL_VERSIONS)
def test_a_plain_result_comes_back_as_the_same_object(revision: str) -> None:
    call = {"content": [text("x"), {"type": "image", "data": "", "mimeType": "image/png"}, None, 1], "isError": False}
    prompt = {"messages": [{"role": "user", "content": text("x")}, None], "description": "d"}
    tools = {"tools": [PLAIN_TOOL], "nextCursor": "x"}
    for method, result in (("tools/call", call), ("prompts/get", prompt), ("tools/list", tools), ("vendor/x", call)):
        assert result_for(result, method, revision) is result


AUDIO = {"type": "audio", "data": "AAAA" * 100, "mimeType": "audio/wav", "annotations": {"audience": ["user"]}}
LINK = {"type": "resource_link", "uri": "gh+file:///a", "name": "a.txt", "description": "the file", "icons": ICONS}


def test_audio_becomes_a_note_for_2024_11_05_only() -> None:
    result = {"content": [text("x"), AUDIO]}
    note = text("[Audio, audio/wav, about 300 bytes, cannot be shown here]", annotations={"audience": ["user"]})
    assert result_for(result, "tools/call", "2024-11-05") == {"content": [text("x"), note]}
    assert result_for(result, "tools/call", "2025-03-26") is result


def test_a_link_becomes_a_note_before_2025_06_18() -> None:
    result = {"content": [LINK]}
    note = text("[Resource gh+file:///a - a.txt - the file]")
    for revision in ("2024-11-05", "2025-03-26"):
        assert result_for(result, "tools/call", revision) == {"content": [note]}
    without_icons = {name: value for name, value in LINK.items() if name != "icons"}
    assert result_for(result, "tools/call", "2025-06-18") == {"content": [without_icons]}
    assert result_for(result, "tools/call", "2025-11-25") is result


def test_the_messages_of_a_prompt_are_converted_too() -> None:
    result = {"messages": [{"role": "user", "content": AUDIO}, {"role": "user", "content": [LINK]}]}
    messages = result_for(result, "prompts/get", "2024-11-05")["messages"]
    assert [messages[0]["content"]["type"], messages[1]["content"][0]["type"]] == ["text", "text"]
    assert messages[0]["role"] == "user"
    assert result_for(result, "prompts/get", "2025-11-25") is result


@pytest.mark.parametrize("structure", [[1, 2], "caf\u00e9", 5, False, {"a": [1]}])
def test_structured_content_a_revision_cannot_carry_is_shown_as_text(structure: Any) -> None:
    result = {"content": [text("summary")], "structuredContent": structure, "isError": False}
    for revision in KNOWN_PROTOCOL_VERSIONS[:-1]:
        seen = result_for(result, "tools/call", revision)
        if isinstance(structure, dict) and revision >= "2025-06-18":
            assert seen is result
            continue
        assert seen["content"][0] == text("summary")
        assert json.loads(seen["content"][1]["text"]) == structure
        assert seen.keys() == {"content", "isError"}
    assert result_for(result, "tools/call", "2026-07-28") is result


@pytest.mark.parametrize(
    ("shown", "structure"),
    [('{"a": [1]}', {"a": [1]}), ("[1,2]", [1, 2]), ("hello", {"result": "hello"}), ('"x"', "x")],
)
def test_structured_content_that_the_text_shows_already_is_not_repeated(shown: str, structure: Any) -> None:
    result = {"content": [text("not json"), text(shown)], "structuredContent": structure}
    assert result_for(result, "tools/call", "2025-03-26") == {"content": result["content"]}


def test_null_as_structured_content_is_shown_only_when_there_is_nothing_else() -> None:
    assert result_for({"content": [text("x")], "structuredContent": None}, "tools/call", "2025-11-25") == {
        "content": [text("x")]
    }
    results: list[Item] = [{"structuredContent": None}, {"content": [], "structuredContent": None}]
    for result in results:
        assert result_for(result, "tools/call", "2025-11-25") == {"content": [text("null")]}
        assert result_for(result, "tools/call", "2026-07-28") is result


def test_structured_content_of_any_depth_is_converted_without_a_crash() -> None:
    structure: list[Any] = []
    for _ in range(5000):
        structure = [structure]
    shown = "[" * 1000 + "]" * 1000
    seen = result_for({"content": [text(shown)], "structuredContent": structure}, "tools/call", "2025-06-18")
    assert "nests too deep" in seen["content"][1]["text"]


def test_lists_are_converted_item_by_item() -> None:
    required = {**PLAIN_TOOL, "name": "hidden", "execution": {"taskSupport": "required"}}
    listed = {**MODERN, "tools": [PLAIN_TOOL, required, {**PLAIN_TOOL, "outputSchema": ARRAY}], "nextCursor": "n"}
    assert result_for(listed, "tools/list", "2025-06-18") == {"tools": [PLAIN_TOOL, PLAIN_TOOL], "nextCursor": "n"}
    for method, member in (
        ("prompts/list", "prompts"),
        ("resources/list", "resources"),
        ("resources/templates/list", "resourceTemplates"),
    ):
        assert result_for({member: [{"name": "n", "icons": ICONS}]}, method, "2025-06-18") == {member: [{"name": "n"}]}


@pytest.mark.parametrize("revision", KNOWN_PROTOCOL_VERSIONS[:-1])
def test_the_sdk_accepts_what_legacy_clients_get(revision: str) -> None:
    tools = {**MODERN, "tools": [FULL_TOOL, {**FULL_TOOL, "outputSchema": ARRAY}, {**PLAIN_TOOL, "outputSchema": None}]}
    validate_server_result("tools/list", revision, result_for(tools, "tools/list", revision))
    call = {**MODERN, "content": [AUDIO, LINK, text("x")], "structuredContent": [1]}
    validate_server_result("tools/call", revision, result_for(call, "tools/call", revision))


def deep(levels: int) -> Any:
    value: Any = 1
    for index in range(levels):
        value = [value] if index % 2 else {"x": value}
    return value


def tool_with(**members: Any) -> Item:
    return {"name": "t", "inputSchema": {"type": "object"}, **members}


@pytest.mark.parametrize("tool", [PLAIN_TOOL, FULL_TOOL, tool_with(), tool_with(outputSchema=ARRAY, vendor=[1])])
def test_sound_tools_are_kept(tool: Item) -> None:
    assert malformed_tool(tool) is None


@pytest.mark.parametrize(
    ("tool", "reason"),
    [
        (None, "not an object"),
        (["name"], "not an object"),
        ({"inputSchema": {"type": "object"}}, "name"),
        (tool_with(name=1), "name"),
        (tool_with(name=None), "name"),
        (tool_with(name=""), "name is empty"),
        (tool_with(name="x" * 257), "name is longer"),
        ({"name": "t"}, "inputSchema"),
        ({"name": "t", "input_schema": {"type": "object"}}, "inputSchema"),
        (tool_with(inputSchema=None), "inputSchema"),
        (tool_with(inputSchema=True), "inputSchema"),
        (tool_with(inputSchema={}), "inputSchema.type"),
        (tool_with(inputSchema={"type": "array"}), "inputSchema.type"),
        (tool_with(inputSchema={"type": ["object"]}), "inputSchema.type"),
        (tool_with(inputSchema={"type": "object", "properties": []}), "inputSchema.properties"),
        (tool_with(inputSchema={"type": "object", "required": "a"}), "inputSchema.required"),
        (tool_with(outputSchema={"required": [1]}), "outputSchema.required"),
        (tool_with(outputSchema=True), "outputSchema"),
        (tool_with(description=5), "description"),
        (tool_with(annotations=[]), "annotations"),
        (tool_with(annotations={"readOnlyHint": "yes"}), "readOnlyHint"),
        (tool_with(icons=[{}]), "icons"),
        (tool_with(_meta=1), "_meta"),
        (tool_with(description="x" * 1024 * 1024), "larger than"),
        (tool_with(description="\u00e9" * 600_000), "larger than"),
        (tool_with(vendor=deep(64)), "deeper than 64"),
        (tool_with(vendor=deep(50_000)), "deeper than 64"),
        (tool_with(vendor=[float("inf")]), "finite"),
        (tool_with(inputSchema={"type": "object", "maximum": float("nan")}), "finite"),
        (tool_with(description="\ud800"), "surrogate"),
        (tool_with(inputSchema={"type": "object", "$ref": "https://example.com/s.json"}), r"\$ref"),
        (tool_with(inputSchema={"type": "object", "properties": {"a": {"$ref": " HTTP://10.0.0.1/"}}}), r"\$ref"),
        (tool_with(outputSchema={"anyOf": [{"items": {"$dynamicRef": "//example.com/s"}}]}), r"\$dynamicRef"),
        (tool_with(inputSchema={"type": "object", "$ref": "file:///etc/passwd"}), r"\$ref"),
        (
            tool_with(inputSchema={"type": "object", "properties": {"a": {"type": "string", "x-mcp-header": "a b"}}}),
            "token",
        ),
        (
            tool_with(inputSchema={"type": "object", "properties": {"a": {"type": "number", "x-mcp-header": "a"}}}),
            "x-mcp-header",
        ),
    ],
    ids=range(36),
)
def test_a_malformed_tool_is_left_out_with_a_reason(tool: Any, reason: str) -> None:
    found = malformed_tool(tool)
    assert found is not None
    assert re.search(reason, found)


def test_local_references_and_members_that_are_named_so_are_sound() -> None:
    schema = {
        "type": "object",
        "$id": "https://example.com/tool",
        "$defs": {"a": {"type": "string"}},
        "properties": {"$ref": {"type": "string"}, "a": {"$ref": "#/$defs/a"}, "b": {"$ref": "urn:x"}},
        "description": "see https://example.com",
    }
    assert malformed_tool(tool_with(inputSchema=schema)) is None


def test_sixty_four_levels_are_sound() -> None:
    assert malformed_tool(tool_with(vendor=deep(63))) is None


@pytest.mark.parametrize(
    ("check", "sound"),
    [
        (malformed_prompt, {"name": "p", "arguments": [{"name": "a", "required": True}]}),
        (malformed_resource, {"uri": "file:///a", "name": "a", "size": 3}),
        (malformed_template, {"uriTemplate": "{+path}", "name": "a"}),
    ],
)
def test_other_items_are_checked_alike(check: Callable[[Any], str | None], sound: Item) -> None:
    assert check(sound) is None
    assert check({**sound, "vendor": None, "title": None}) is None
    assert check([sound]) == "not an object"
    for member in sound.keys() & {"name", "uri", "uriTemplate"}:
        assert check({name: value for name, value in sound.items() if name != member}) is not None
        assert check({**sound, member: 1}) is not None
    identity = next(iter(sound))
    assert check({**sound, identity: ""}) == f"{identity} is empty"
    assert "longer" in str(check({**sound, identity: "x" * 9000}))
    assert "finite" in str(check({**sound, "_meta": {"a": float("inf")}}))
    assert "deeper" in str(check({**sound, "_meta": {"a": deep(70)}}))
    assert check({**sound, "description": 5}) is not None


def test_a_prompt_with_malformed_arguments_is_left_out() -> None:
    malformed: list[Any] = [{}, ["a"], [{}], [{"name": 1}]]
    for arguments in malformed:
        assert malformed_prompt({"name": "p", "arguments": arguments}) is not None


def test_the_sdk_lists_every_tool_that_is_kept() -> None:
    kept = [
        tool
        for tool in (PLAIN_TOOL, FULL_TOOL, {"name": 1}, tool_with(outputSchema=ARRAY))
        if malformed_tool(tool) is None
    ]
    assert (
        len(mcp_types.ListToolsResult.model_validate({"tools": kept, "ttlMs": 0, "cacheScope": "private"}).tools) == 3
    )
