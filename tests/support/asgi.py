"""One HTTP request without a socket: what a client sends, and all it gets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from gateway.edge.http import Request


class FakeHttp:
    """A request for the edge and its response; `blocked` holds back every write, as a client that does not read."""

    def __init__(
        self,
        method: str = "POST",
        path: str = "/mcp",
        headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
        body: Iterable[bytes] = (b"",),
    ) -> None:
        lines = headers.items() if isinstance(headers, Mapping) else headers
        self.scope: dict[str, Any] = {
            "type": "http",
            "method": method,
            "path": path,
            "query_string": b"",
            "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in lines],
        }
        chunks = list(body)
        self._incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        for position, chunk in enumerate(chunks):
            more = position < len(chunks) - 1
            self._incoming.put_nowait({"type": "http.request", "body": chunk, "more_body": more})
        self.sent: list[Any] = []
        self._reading = asyncio.Event()
        self._reading.set()

    @property
    def request(self) -> Request:
        """A new `Request` on it."""
        return Request(self.scope, self.receive, self.send)

    async def receive(self) -> dict[str, Any]:
        """ASGI: the next part of the body, and after it the disconnect, when it comes."""
        return await self._incoming.get()

    async def send(self, message: Any) -> None:
        """ASGI."""
        await self._reading.wait()
        self.sent.append(message)

    def disconnect(self) -> None:
        """The client closes its connection."""
        self._incoming.put_nowait({"type": "http.disconnect"})

    def block(self) -> None:
        """The client stops reading."""
        self._reading.clear()

    def unblock(self) -> None:
        """It reads again."""
        self._reading.set()

    @property
    def status(self) -> int | None:
        """The status, None while there is none."""
        return self.sent[0]["status"] if self.sent else None

    @property
    def headers(self) -> dict[str, str]:
        """Those of the response."""
        return {name.decode(): value.decode() for name, value in self.sent[0]["headers"]}

    @property
    def body(self) -> bytes:
        """What of the response's body has been written so far."""
        return b"".join(message["body"] for message in self.sent[1:])

    @property
    def chunks(self) -> list[bytes]:
        """The same, write by write."""
        return [message["body"] for message in self.sent[1:]]

    @property
    def ended(self) -> bool:
        """Is the response complete?"""
        return len(self.sent) > 1 and not self.sent[-1].get("more_body", False)

    @property
    def json(self) -> Any:
        """The decoded body."""
        return orjson.loads(self.body)

    @property
    def events(self) -> list[Any]:
        """The JSON of every event of the stream that has data."""
        lines = self.body.replace(b"\r\n", b"\n").split(b"\n")
        return [json.loads(line[6:]) for line in lines if line.startswith(b"data: ") and len(line) > 6]
