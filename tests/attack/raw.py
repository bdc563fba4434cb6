"""HTTP as bytes: requests that no well-behaved client library would send."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from tests.support.gateway import modern_headers, modern_message

ANSWER_SECONDS = 10
_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)\r\n", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back for the first request on a connection; status 0 if nothing did."""

    status: int
    head: bytes
    body: bytes

    @property
    def json(self) -> Any:
        """The decoded body."""
        return orjson.loads(self.body)

    @property
    def error(self) -> tuple[int, int | None]:
        """HTTP status and JSON-RPC error code."""
        decoded = self.json if self.body.startswith(b"{") else {}
        return self.status, decoded.get("error", {}).get("code")


def request(
    port: int,
    *,
    line: bytes = b"POST /mcp HTTP/1.1",
    headers: Mapping[str, str] | None = None,
    more: bytes = b"",
    body: bytes = b"",
    host: bytes | None = None,
    length: bool = True,
) -> bytes:
    """A request's bytes; `more` are further header lines, each with its line end."""
    lines = [line, b"host: " + (b"127.0.0.1:%d" % port if host is None else host)]
    lines += [f"{name}: {value}".encode() for name, value in (headers or {}).items()]
    if length:
        lines.append(b"content-length: %d" % len(body))
    return b"\r\n".join(lines) + b"\r\n" + more + b"\r\n" + body


def tool_call(name: str = "one__echo", arguments: Any = None, **options: Any) -> tuple[dict[str, str], bytes]:
    """Headers and body of a good modern call."""
    message = modern_message("tools/call", {"name": name, "arguments": arguments or {}}, **options)
    return modern_headers(message), orjson.dumps(message)


async def send(port: int, *pieces: bytes | Iterable[bytes]) -> Answer:
    """Sends the pieces on a new connection and returns the first response."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writing = asyncio.create_task(_write(writer, pieces))
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await _answer(reader, bodiless=isinstance(pieces[0], bytes) and pieces[0].startswith(b"HEAD "))
        finally:
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)
    finally:
        writer.transport.abort()


async def _write(writer: asyncio.StreamWriter, pieces: Iterable[bytes | Iterable[bytes]]) -> None:
    for piece in pieces:
        for part in [piece] if isinstance(piece, bytes) else piece:
            writer.write(part)
            await writer.drain()


async def _answer(reader: asyncio.StreamReader, *, bodiless: bool) -> Answer:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return Answer(0, b"", b"")
    status = int(head.split(b" ", 2)[1])
    found = _LENGTH.search(head)
    body = await reader.readexactly(int(found[1])) if found and not bodiless else b""
    return Answer(status, head, body)
