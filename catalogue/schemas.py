"""Definitions and results as each protocol revision defines them, and what makes a listed item unusable.

Going down, what a revision does not know is taken out or said in text, so that nothing is lost to the model. Unknown
fields always stay. All functions copy on write: the same object comes back when nothing changes.
"""

import json
import math
import re
from collections.abc import Callable, Set
from typing import Any

import mcp_types
import orjson
from mcp.shared.inbound import find_invalid_x_mcp_header
from mcp_types.version import KNOWN_PROTOCOL_VERSIONS
from pydantic import BaseModel, ValidationError

MAX_NAME = 256
"""Twice what the specification recommends."""
MAX_URI = 8192
MAX_ITEM = 1024 * 1024
MAX_DEPTH = 64

_AGE = {revision: age for age, revision in enumerate(KNOWN_PROTOCOL_VERSIONS)}
_OPTIONAL = ("title", "description", "annotations", "icons", "_meta")
_MODERN_MEMBERS = frozenset({"resultType", "ttlMs", "cacheScope"})
_REFERENCES = frozenset({"$ref", "$dynamicRef", "$recursiveRef"})
_NETWORK = re.compile(r"\s*(?:(?:https?|ftp|file):|//)", re.IGNORECASE)


def _since(revision: str, first: str) -> bool:
    """True if `revision` is `first` or newer; one that the SDK does not know counts as the oldest."""
    return _AGE.get(revision, 0) >= _AGE[first]


def _without(item: dict[str, Any], names: Set[str]) -> dict[str, Any]:
    if names.isdisjoint(item):
        return item
    return {name: value for name, value in item.items() if name not in names}


def _item_for(item: dict[str, Any], revision: str, optional: tuple[str, ...], drop: set[str]) -> dict[str, Any]:
    # Serialisers that write null for "absent" are common, and clients that read null as an error are too.
    drop |= {name for name in optional if name in item and item[name] is None}
    if not _since(revision, "2025-11-25"):
        drop.add("icons")
    return _without(item, drop)


def _is_object_schema(schema: Any) -> bool:
    return isinstance(schema, dict) and schema.get("type") == "object"


def tool_for(tool: dict[str, Any], revision: str) -> dict[str, Any] | None:
    """The tool as clients of `revision` may see it; None for one that only the 2025-11-25 tasks can call."""
    # `execution` belongs to the tasks of 2025-11-25, which are not served.
    drop = {"execution"}
    execution = tool.get("execution")
    if isinstance(execution, dict) and execution.get("taskSupport") == "required":
        return None
    if not _since(revision, "2025-03-26"):
        drop.add("annotations")
    if not _since(revision, "2025-06-18") or (
        not _since(revision, "2026-07-28") and not _is_object_schema(tool.get("outputSchema"))
    ):
        drop.add("outputSchema")
    tool = _item_for(tool, revision, (*_OPTIONAL, "outputSchema"), drop)
    for member in ("inputSchema", "outputSchema"):
        schema = tool.get(member)
        if isinstance(schema, dict):
            nulls = {name for name in ("properties", "required") if name in schema and schema[name] is None}
            if nulls:
                tool = {**tool, member: _without(schema, nulls)}
    return tool


def prompt_for(prompt: dict[str, Any], revision: str) -> dict[str, Any]:
    """As tool_for; every revision can get every prompt."""
    return _item_for(prompt, revision, (*_OPTIONAL, "arguments"), set())


def resource_for(resource: dict[str, Any], revision: str) -> dict[str, Any]:
    """Resources, and the links to them in results."""
    return _item_for(resource, revision, (*_OPTIONAL, "mimeType", "size"), set())


def template_for(template: dict[str, Any], revision: str) -> dict[str, Any]:
    """As resource_for."""
    return _item_for(template, revision, (*_OPTIONAL, "mimeType"), set())


_LISTS: dict[str, tuple[str, Callable[[dict[str, Any], str], dict[str, Any] | None]]] = {
    "tools/list": ("tools", tool_for),
    "prompts/list": ("prompts", prompt_for),
    "resources/list": ("resources", resource_for),
    "resources/templates/list": ("resourceTemplates", template_for),
}


def result_for(result: dict[str, Any], method: str, revision: str) -> dict[str, Any]:
    """A complete result of `method` as clients of `revision` understand it."""
    if method in _LISTS:
        member, convert = _LISTS[method]
        result = _with_items(result, member, lambda item: convert(item, revision))
    if _since(revision, "2026-07-28"):
        return result
    result = _without(result, _MODERN_MEMBERS)
    if method == "tools/call":
        if not _since(revision, "2025-11-25"):
            result = _with_items(result, "content", lambda block: _block_for(block, revision))
        if "structuredContent" in result:
            result = _with_structure_for(result, revision)
    elif method == "prompts/get":
        result = _with_items(result, "messages", lambda message: _message_for(message, revision))
    return result


def _with_items(
    owner: dict[str, Any], member: str, convert: Callable[[dict[str, Any]], dict[str, Any] | None]
) -> dict[str, Any]:
    """`owner` with each object in its list converted; those that become None are left out."""
    items = owner.get(member)
    if not isinstance(items, list):
        return owner
    new = [convert(item) if isinstance(item, dict) else item for item in items]
    if all(a is b for a, b in zip(new, items, strict=True)):
        return owner
    return {**owner, member: [item for item in new if item is not None]}


def _message_for(message: dict[str, Any], revision: str) -> dict[str, Any]:
    content = message.get("content")
    if not isinstance(content, dict):
        return _with_items(message, "content", lambda block: _block_for(block, revision))
    block = _block_for(content, revision)
    return message if block is content else {**message, "content": block}


def _block_for(block: dict[str, Any], revision: str) -> dict[str, Any]:
    kind = block.get("type")
    if kind == "audio" and not _since(revision, "2025-03-26"):
        size = len(str(block.get("data", ""))) * 3 // 4
        return _note(
            block, f"[Audio, {block.get('mimeType', 'unknown type')}, about {size} bytes, cannot be shown here]"
        )
    if kind == "resource_link":
        if _since(revision, "2025-06-18"):
            return resource_for(block, revision)
        facts = [str(block[name]) for name in ("title", "name", "mimeType", "description") if block.get(name)]
        return _note(block, f"[Resource {' - '.join([str(block.get('uri', '')), *dict.fromkeys(facts)])}]")
    return block


def _note(block: dict[str, Any], text: str) -> dict[str, Any]:
    note: dict[str, Any] = {"type": "text", "text": text}
    if isinstance(block.get("annotations"), dict):
        note["annotations"] = block["annotations"]
    return note


def _with_structure_for(result: dict[str, Any], revision: str) -> dict[str, Any]:
    """`structuredContent` stays where the revision takes it; elsewhere its value is in the text, once."""
    structure = result["structuredContent"]
    if isinstance(structure, dict) and _since(revision, "2025-06-18"):
        return result
    rest = _without(result, {"structuredContent"})
    content = result.get("content")
    blocks = content if isinstance(content, list) else []
    # Null beside content is how some serialisers write "absent".
    if (structure is None and blocks) or _shows(blocks, structure):
        return rest
    try:
        text = json.dumps(structure, ensure_ascii=False, separators=(",", ":"))
    except RecursionError:
        text = "[Structured content that nests too deep to be shown here]"
    return {**rest, "content": [*blocks, {"type": "text", "text": text}]}


def _shows(blocks: list[Any], structure: Any) -> bool:
    """True if a text block holds the value, as servers should send it, or as the text that SDKs wrap in `result`."""
    texts = [block["text"] for block in blocks if isinstance(block, dict) and isinstance(block.get("text"), str)]
    if isinstance(structure, dict) and structure.keys() == {"result"} and structure["result"] in texts:
        return True
    for text in texts:
        try:
            if orjson.loads(text) == structure:
                return True
        except (orjson.JSONDecodeError, RecursionError):
            continue
    return False


def malformed_tool(tool: Any) -> str | None:
    """Why a listed tool must be left out, for findings and logs; None if it is sound. The text may quote the tool."""
    reason = _unsound(tool, mcp_types.Tool) or _bad_name(tool)
    if reason:
        return reason
    schema = tool["inputSchema"]
    if not _is_object_schema(schema):
        return 'inputSchema.type is not "object"'
    for member in ("inputSchema", "outputSchema"):
        keywords = tool.get(member) or {}
        properties, required = keywords.get("properties"), keywords.get("required") or []
        if properties is not None and not isinstance(properties, dict):
            return f"{member}.properties is not an object"
        if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
            return f"{member}.required is not a list of strings"
    return find_invalid_x_mcp_header(schema)


def malformed_prompt(prompt: Any) -> str | None:
    """As malformed_tool."""
    return _unsound(prompt, mcp_types.Prompt) or _bad_name(prompt)


def malformed_resource(resource: Any) -> str | None:
    """As malformed_tool."""
    return _unsound(resource, mcp_types.Resource) or _bad_uri(resource["uri"], "uri")


def malformed_template(template: Any) -> str | None:
    """As malformed_tool."""
    return _unsound(template, mcp_types.ResourceTemplate) or _bad_uri(template["uriTemplate"], "uriTemplate")


def _bad_name(item: dict[str, Any]) -> str | None:
    if not item["name"]:
        return "name is empty"
    return f"name is longer than {MAX_NAME} characters" if len(item["name"]) > MAX_NAME else None


def _bad_uri(uri: str, member: str) -> str | None:
    if not uri:
        return f"{member} is empty"
    return f"{member} is longer than {MAX_URI} characters" if len(uri) > MAX_URI else None


def _unsound(item: Any, model: type[BaseModel]) -> str | None:
    """What is wrong with any item, whatever its kind. The SDK's own types decide what its clients would choke on."""
    if not isinstance(item, dict):
        return "not an object"
    if reason := _bad_value(item) or _bad_text(item):
        return reason
    try:
        model.model_validate(item, strict=True, by_alias=True, by_name=False)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        return f"{'.'.join(str(step) for step in first['loc'])}: {first['msg']}"
    return None


def _bad_value(item: dict[str, Any]) -> str | None:
    """Depth, numbers and references. With a stack of its own, since upstreams nest deeper than Python recurses."""
    stack: list[tuple[Any, int]] = [(item, 1)]
    while stack:
        value, depth = stack.pop()
        if isinstance(value, float):
            if not math.isfinite(value):
                return "a number is not finite"
        elif isinstance(value, dict | list):
            if depth > MAX_DEPTH:
                return f"nests deeper than {MAX_DEPTH} levels"
            if isinstance(value, list):
                stack.extend((inner, depth + 1) for inner in value)
                continue
            for name, inner in value.items():
                if name in _REFERENCES and isinstance(inner, str) and _NETWORK.match(inner):
                    return f"{name} leads to the network"
                stack.append((inner, depth + 1))
    return None


def _bad_text(item: dict[str, Any]) -> str | None:
    try:
        size = len(json.dumps(item, ensure_ascii=False, separators=(",", ":")).encode())
    except UnicodeEncodeError:
        return "a string holds half a surrogate pair"
    except ValueError:
        return "a number is too large"
    return f"is larger than {MAX_ITEM} bytes" if size > MAX_ITEM else None
