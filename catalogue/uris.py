"""URIs behind one endpoint: `{slug}+{uri}`, by concatenation.

`github+file:///x` is a URI of its own scheme (RFC 3986), and because nothing of the original is touched, expanding a
template and exposing it may be done in either order. `ui://` must keep its scheme (MCP Apps), and a client may fetch
`http://` and `https://` by itself: these stay as they are, and who owns them is a table's matter.
"""

import re
from collections.abc import Callable
from typing import Any

_Rewrites = dict[str, Callable[[Any, str], Any]]

_KEPT = re.compile(r"(?:ui|https?)://", re.IGNORECASE)
_EXPOSED = re.compile(r"([a-z0-9]{1,12})\+(.*)", re.DOTALL)


def expose(slug: str, uri: str) -> str:
    """The URI, or URI template, under which clients see an upstream's."""
    return uri if _KEPT.match(uri) else f"{slug}+{uri}"


def split(uri: str) -> tuple[str, str] | None:
    """(slug, upstream URI) of a prefixed URI; None for one without a prefix. The slug may be nobody's: `git+ssh://x`."""
    found = _EXPOSED.fullmatch(uri)
    return (found[1], found[2]) if found else None


def rewrite_result(value: Any, slug: str) -> tuple[Any, bool]:
    """Expose the URIs in a result, or in the params of a sampling request; (value, False) if there are none.

    Covers links and embedded resources in `content`, `messages` and `contents`, also inside input requests and the
    inline result of a task. The input is never mutated; what is unchanged is shared with the copy.
    """
    new = _rewrite(value, slug, _MEMBERS)
    return new, new is not value


def _rewrite(value: Any, slug: str, members: _Rewrites) -> Any:
    if type(value) is not dict:
        return value
    changed = {}
    for member, rewrite in members.items():
        if member in value:
            new = rewrite(value[member], slug)
            if new is not value[member]:
                changed[member] = new
    return {**value, **changed} if changed else value


def _each(items: Any, slug: str, rewrite: Callable[[Any, str], Any]) -> Any:
    """The list with each item rewritten; the same list if no item changed. A single item is taken as it is."""
    if type(items) is not list:
        return rewrite(items, slug)
    new: list[Any] | None = None
    for index, item in enumerate(items):
        rewritten = rewrite(item, slug)
        if rewritten is not item:
            if new is None:
                new = items.copy()
            new[index] = rewritten
    return items if new is None else new


def _with_uri(owner: Any, slug: str) -> Any:
    if type(owner) is not dict or type(uri := owner.get("uri")) is not str:
        return owner
    exposed = expose(slug, uri)
    return owner if exposed == uri else {**owner, "uri": exposed}


def _plain_block(block: Any, slug: str) -> Any:
    if type(block) is not dict:
        return block
    kind = block.get("type")
    if kind == "resource_link":
        return _with_uri(block, slug)
    if kind == "resource" and "resource" in block:
        resource = _with_uri(block["resource"], slug)
        return block if resource is block["resource"] else {**block, "resource": resource}
    return block


def _block(block: Any, slug: str) -> Any:
    if type(block) is dict and block.get("type") == "tool_result" and "content" in block:
        content = _each(block["content"], slug, _plain_block)
        return block if content is block["content"] else {**block, "content": content}
    return _plain_block(block, slug)


def _blocks(blocks: Any, slug: str) -> Any:
    return _each(blocks, slug, _block)


def _contents(contents: Any, slug: str) -> Any:
    return _each(contents, slug, _with_uri)


def _message(message: Any, slug: str) -> Any:
    if type(message) is not dict or "content" not in message:
        return message
    content = _blocks(message["content"], slug)
    return message if content is message["content"] else {**message, "content": content}


def _messages(messages: Any, slug: str) -> Any:
    return _each(messages, slug, _message)


def _input_request(request: Any, slug: str) -> Any:
    if type(request) is not dict or "params" not in request:
        return request
    params = _rewrite(request["params"], slug, _PLAIN)
    return request if params is request["params"] else {**request, "params": params}


def _input_requests(requests: Any, slug: str) -> Any:
    if type(requests) is not dict:
        return requests
    changed = {key: new for key, old in requests.items() if (new := _input_request(old, slug)) is not old}
    return {**requests, **changed} if changed else requests


def _inline_result(result: Any, slug: str) -> Any:
    return _rewrite(result, slug, _PLAIN)


# None of these contains itself, so that no nesting an upstream can send makes the walk recurse.
_PLAIN: _Rewrites = {"content": _blocks, "messages": _messages, "contents": _contents}
_MEMBERS: _Rewrites = {**_PLAIN, "inputRequests": _input_requests, "result": _inline_result}
