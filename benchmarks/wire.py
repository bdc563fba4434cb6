"""The bytes a client sends in both eras, and an incremental reader of HTTP/1.1 replies.

A request that is sent many times is a template: its length never changes, because every number in it has a fixed
width, so sending one costs the load generator a single `%` and the measured core never waits for it.
"""

from dataclasses import dataclass, field
from typing import Any, Final, Literal

import orjson

LEGACY: Final = "2025-11-25"
MODERN: Final = "2026-07-28"
Protocol = Literal["2025-11-25", "2026-07-28"]
PROTOCOLS: Final[tuple[Protocol, ...]] = (LEGACY, MODERN)

CLIENT: Final = {"name": "benchmark", "version": "1"}
ENVELOPE: Final = {
    "io.modelcontextprotocol/protocolVersion": MODERN,
    "io.modelcontextprotocol/clientInfo": CLIENT,
    "io.modelcontextprotocol/clientCapabilities": {},
}
NAMED: Final = "tools/call"


@dataclass(frozen=True)
class Endpoint:
    """Where a program listens on this machine and what every request to it must carry."""

    port: int
    path: str = "/mcp"
    headers: dict[str, str] = field(default_factory=dict)

    def head(self, method: str, extra: dict[str, str], length: int) -> bytes:
        """One request head; `length` is the size of the body that follows."""
        lines = {
            "Host": f"127.0.0.1:{self.port}",
            "Accept": "application/json, text/event-stream",
            "Content-Type": "application/json",
            **self.headers,
            **extra,
            "Content-Length": str(length),
        }
        text = f"{method} {self.path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        return (text + "\r\n").encode("ascii")


def message(
    endpoint: Endpoint, protocol: Protocol, session: str | None, method: str, params: dict[str, Any], number: int | None
) -> bytes:
    """One whole POST; `number` is the JSON-RPC id, `None` makes it a notification."""
    extra: dict[str, str] = {}
    if protocol == MODERN:
        params = {**params, "_meta": ENVELOPE}
        extra = {"MCP-Protocol-Version": MODERN, "Mcp-Method": method}
        if method == NAMED:
            extra["Mcp-Name"] = params["name"]
    elif method != "initialize":
        extra = {"MCP-Protocol-Version": LEGACY}
        if session is not None:
            extra["Mcp-Session-Id"] = session
    body: dict[str, Any] = {"jsonrpc": "2.0", "method": method, "params": params}
    if number is not None:
        body["id"] = number
    data = orjson.dumps(body)
    return endpoint.head("POST", extra, len(data)) + data


def call_template(endpoint: Endpoint, protocol: Protocol, session: str | None, tool: str) -> bytes:
    """A `tools/call` with two places for one number: `template % (n, n)` with ten-digit n is the request."""
    # Both numbers below have ten digits, so the length worked out here holds for every call.
    number = 1_111_111_111
    text = message(endpoint, protocol, session, NAMED, {"name": tool, "arguments": {"text": f"call-{number}"}}, number)
    head, body = text.split(b"\r\n\r\n", 1)
    return head.replace(b"%", b"%%") + b"\r\n\r\n" + body.replace(b"%", b"%%").replace(b"%d" % number, b"%d")


@dataclass(frozen=True)
class Reply:
    """One HTTP reply; `head` is the status line and the headers as they were sent."""

    status: int
    head: bytes
    body: bytes

    def header(self, name: str) -> str | None:
        """Value of the first header called `name` (lower case)."""
        found = self.head.lower().find(f"\r\n{name}:".encode("ascii"))
        if found < 0:
            return None
        end = self.head.find(b"\r\n", found + 2)
        return self.head[found + len(name) + 3 : end if end >= 0 else None].strip().decode("ascii")

    def result(self) -> dict[str, Any]:
        """The JSON-RPC result, from a JSON body or from the event that carries the response.

        Raises:
            ValueError: the reply holds no result.
        """
        answers = [self.body]
        if (self.header("content-type") or "").startswith("text/event-stream"):
            answers = [line[5:].strip() for line in self.body.splitlines() if line.startswith(b"data:")]
        for answer in answers:
            # A proxy's own error page is no JSON.
            decoded = orjson.loads(answer) if answer.startswith(b"{") else None
            if isinstance(decoded, dict) and isinstance(decoded.get("result"), dict):
                result: dict[str, Any] = decoded["result"]
                return result
        raise ValueError(f"status {self.status}, no result in {self.body[:300]!r}")


class ReplyReader:
    """Turns received bytes into replies; bodies may have a length or come in chunks."""

    def __init__(self) -> None:
        self._buffer = b""
        self._head = b""
        self._chunks: list[bytes] = []

    def feed(self, data: bytes) -> Reply | None:
        """The reply that `data` completes, if it does; one request at a time is outstanding on a connection."""
        self._buffer = self._buffer + data if self._buffer else data
        if not self._head:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return None
            self._head = self._buffer[:end]
            self._buffer = self._buffer[end + 4 :]
        lowered = self._head.lower()
        if b"\r\ntransfer-encoding: chunked" in lowered:
            return self._reply(b"".join(self._chunks)) if self._take_chunks() else None
        start = lowered.find(b"\r\ncontent-length:")
        length = 0
        if start >= 0:
            stop = lowered.find(b"\r\n", start + 2)
            length = int(lowered[start + 17 : stop if stop >= 0 else None])
        if len(self._buffer) < length:
            return None
        body, self._buffer = self._buffer[:length], self._buffer[length:]
        return self._reply(body)

    def _take_chunks(self) -> bool:
        """Moves whole chunks out of the buffer; true once the last one has arrived."""
        while (end := self._buffer.find(b"\r\n")) >= 0:
            size = int(self._buffer[:end].split(b";")[0], 16)
            if len(self._buffer) < end + 4 + size:
                return False
            self._chunks.append(self._buffer[end + 2 : end + 2 + size])
            self._buffer = self._buffer[end + 4 + size :]
            if size == 0:
                return True
        return False

    def _reply(self, body: bytes) -> Reply:
        reply = Reply(int(self._head[9:12]), self._head, body)
        self._head = b""
        self._chunks = []
        return reply
