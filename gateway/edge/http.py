"""The little of HTTP that the edge needs, on bare ASGI."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from functools import lru_cache
from typing import Any, Final

Scope = MutableMapping[str, Any]
ASGIMessage = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[ASGIMessage]]
Send = Callable[[ASGIMessage], Awaitable[None]]

JSON: Final = "application/json"
EVENT_STREAM: Final = "text/event-stream"
SLOW_READER_SECONDS: Final = 30.0
"""How long a client may leave written bytes unread before it is disconnected."""

_JSON_HEADERS = [(b"content-type", b"application/json")]
STREAM_HEADERS: Final = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
]


class ClientGone(Exception):
    """The client closed its connection, or does not read."""


class TooLarge(Exception):
    """The request body is larger than allowed."""


class Request:
    """One HTTP request. `headers` is keyed by lower-case name; the first of repeated ones counts."""

    __slots__ = ("_receive", "_send", "headers", "method", "path", "scope")

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.method: str = scope["method"]
        self.path: str = scope["path"]  # never a URL rebuilt from Host: that header is the client's to forge
        self._receive = receive
        self._send = send
        headers: dict[str, str] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.decode("latin-1"), value.decode("latin-1").strip())
        self.headers: Mapping[str, str] = headers

    @property
    def has_repeated_headers(self) -> bool:
        """Does any name occur twice?"""
        return len(self.headers) != len(self.scope["headers"])

    @property
    def raw_headers(self) -> list[tuple[str, str]]:
        """Every header line, repeated ones too."""
        return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in self.scope["headers"]]

    async def body(self, limit: int) -> bytes:
        """The whole body.

        Raises:
            TooLarge: it is, or says it is, longer than `limit` bytes.
            ClientGone: the connection closed first.
        """
        declared = self.headers.get("content-length")
        if declared is not None and (not declared.isdecimal() or int(declared) > limit):
            raise TooLarge
        message = await self._receive()
        if message["type"] != "http.request":
            raise ClientGone
        body: bytes = message.get("body", b"")
        if not message.get("more_body"):
            if len(body) > limit:
                raise TooLarge
            return body
        received = bytearray(body)
        while True:
            message = await self._receive()
            if message["type"] != "http.request":
                raise ClientGone
            received += message.get("body", b"")
            if len(received) > limit:
                raise TooLarge
            if not message.get("more_body"):
                return bytes(received)

    async def gone(self) -> None:
        """Returns when the client has closed its connection."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def respond(
        self, status: int, body: bytes = b"", headers: list[tuple[bytes, bytes]] | None = None, *, json: bool = True
    ) -> None:
        """Sends a whole response."""
        lines = [*(_JSON_HEADERS if json and body else ()), *(headers or ())]
        lines.append((b"content-length", b"%d" % len(body)))
        await self._send({"type": "http.response.start", "status": status, "headers": lines})
        await self._send({"type": "http.response.body", "body": body})

    async def start_stream(self, headers: list[tuple[bytes, bytes]] | None = None) -> None:
        """Commits to an event stream."""
        await self._send({"type": "http.response.start", "status": 200, "headers": [*STREAM_HEADERS, *(headers or ())]})

    async def write(self, chunk: bytes) -> None:
        """Writes to the event stream.

        Raises:
            ClientGone: the client has not read what was written before for too long.
        """
        try:
            async with asyncio.timeout(SLOW_READER_SECONDS):
                await self._send({"type": "http.response.body", "body": chunk, "more_body": True})
        except TimeoutError as error:
            raise ClientGone from error

    async def end_stream(self, chunk: bytes = b"") -> None:
        """Writes the last bytes and ends the response."""
        try:
            async with asyncio.timeout(SLOW_READER_SECONDS):
                await self._send({"type": "http.response.body", "body": chunk})
        except TimeoutError as error:
            raise ClientGone from error


@lru_cache(maxsize=256)
def accepts(header: str | None, *kinds: str) -> bool:
    """Does an Accept header take every one of these media types? A missing header takes none (MCP requires it)."""
    if header is None:
        return False
    ranges = {part.split(";", 1)[0].strip().lower() for part in header.split(",")}
    return all(kind in ranges or "*/*" in ranges or f"{kind.split('/', maxsplit=1)[0]}/*" in ranges for kind in kinds)
