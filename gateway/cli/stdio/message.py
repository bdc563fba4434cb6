"""JSON-RPC messages as the bytes they arrived in.

What passes through is forwarded as it is written; only ids and progress tokens are replaced. So unknown members,
integers beyond 64 bits, `1e400`, the spelling of numbers and lone surrogates all survive.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gateway.jsonrpc import Kind, decode_request, dumps, kind_of, loads, member_bytes

Path = tuple[str, ...]

ID: Path = ("id",)
PROGRESS_TOKEN: Path = ("params", "_meta", "progressToken")


@dataclass(frozen=True, slots=True)
class Message:
    """One message: `raw` is what is forwarded, on one line; `body` is for looking only."""

    raw: bytes
    body: Mapping[str, Any]
    kind: Kind

    @property
    def method(self) -> str:
        return str(self.body.get("method", ""))

    @property
    def id_key(self) -> str:
        return key(self.body.get("id"))

    def value(self, path: Path) -> Any:
        """What stands at `path`, decoded; None when there is nothing."""
        found: Any = self.body
        for name in path:
            found = found.get(name) if isinstance(found, Mapping) else None
        return found

    def bytes_of(self, path: Path) -> bytes | None:
        """What stands at `path`, as it is written; None when there is nothing."""
        found: bytes | None = self.raw
        for name in path:
            found = _members(found or b"").get(name)
        return found

    def replaced(self, changes: Mapping[Path, bytes]) -> bytes:
        """The message with the JSON given for each path in its place; paths that do not exist are left out."""
        raw = self.raw
        for path, new in changes.items():
            raw = _replaced(raw, path, new)
        return raw


def from_client(raw: bytes) -> Message:
    """Raises gateway.jsonrpc.InvalidMessage for anything but one message, and for one that is open to two readings."""
    body = decode_request(raw)
    # Within strings JSON has no line breaks, and between its parts they are mere space. On stdio they end a message.
    return Message(raw.replace(b"\n", b" ").replace(b"\r", b" "), body, kind_of(body))


def from_server(line: bytes) -> Message:
    """Raises ValueError for what is no message. Else it is lenient: without its response a call would hang."""
    body = loads(line)
    if not isinstance(body, dict):
        raise ValueError("no JSON object")  # noqa: TRY004 whoever calls this knows one kind of bad line
    if "method" in body:
        kind = Kind.REQUEST if "id" in body else Kind.NOTIFICATION
    elif "id" in body:
        kind = Kind.RESPONSE
    else:
        raise ValueError("neither a method nor an id")
    return Message(line.replace(b"\r", b" "), body, kind)


def key(request_id: object) -> str:
    """A request id in a form that can be compared: `1` and `"1"` differ."""
    return json.dumps(request_id)


def request(number: int, method: str) -> bytes:
    return dumps({"jsonrpc": "2.0", "id": number, "method": method})


def notification(method: str, params: Mapping[str, object]) -> bytes:
    return dumps({"jsonrpc": "2.0", "method": method, "params": params})


def empty_result(request_id: bytes) -> bytes:
    """`request_id` as it is written, here and below."""
    return b'{"jsonrpc":"2.0","id":' + request_id + b',"result":{}}'


def error(request_id: bytes | None, code: int, message: str, data: object = None) -> bytes:
    """`request_id` is None when the message had no readable one."""
    body = {"code": code, "message": message} if data is None else {"code": code, "message": message, "data": data}
    return b'{"jsonrpc":"2.0","id":' + (request_id or b"null") + b',"error":' + dumps(body) + b"}"


def _members(raw: bytes) -> dict[str, bytes]:
    """The members of an object as they are written; none of what is no object, or has a member twice."""
    try:
        return member_bytes(raw)
    except ValueError:
        return {}


def _replaced(raw: bytes, path: Path, new: bytes) -> bytes:
    if not path:
        return new
    members = _members(raw)
    if path[0] not in members:
        return raw
    members[path[0]] = _replaced(members[path[0]], path[1:], new)
    return b"{" + b",".join(dumps(name) + b":" + value for name, value in members.items()) + b"}"
