"""The little HTTP that a wrapper needs, over ASGI: read a request, answer with JSON or with a stream of events."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final
from urllib.parse import urlsplit

import anyio
from starlette.types import Receive, Scope, Send

from gateway.cli.stdio.stream import Stream

MAX_BODY: Final = 16 * 1024 * 1024
"""Bytes, as for a line of the server's output."""

KEEP_ALIVE: Final = 15.0
"""Seconds between comment lines on a silent stream, so that nothing in between takes it for dead."""

JSON: Final = "application/json"
EVENTS: Final = "text/event-stream"


def headers_of(scope: Scope) -> dict[str, str]:
    """By name in lower case. What is sent more than once is joined by commas, and so equals no single value."""
    found: dict[str, str] = {}
    for raw_name, raw_value in scope["headers"]:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        found[name] = f"{found[name]}, {value}" if name in found else value
    return found


def host_name(authority: str) -> str | None:
    """`localhost` of `localhost:80`, `http://localhost` or `http://localhost:80`; None for what has no such form."""
    try:
        return urlsplit(authority if "://" in authority else f"//{authority}").hostname
    except ValueError:
        return None


def accepts(headers: Mapping[str, str], *media_types: str) -> bool:
    offered = {part.partition(";")[0].strip().lower() for part in headers.get("accept", "").split(",")}
    return all(
        media_type in offered or f"{media_type.partition('/')[0]}/*" in offered or "*/*" in offered
        for media_type in media_types
    )


async def read_body(receive: Receive) -> bytes | None:
    """The request body; None when it is too large or the client is gone."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        body += message.get("body", b"")
        if len(body) > MAX_BODY:
            return None
        if not message.get("more_body", False):
            return bytes(body)


@asynccontextmanager
async def while_connected(receive: Receive) -> AsyncIterator[None]:
    """Leave the block when the client closes the connection. To be entered after the body has been read."""

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            continue
        group.cancel_scope.cancel()

    async with anyio.create_task_group() as group:
        group.start_soon(watch)
        yield
        group.cancel_scope.cancel()


async def reply(send: Send, status: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> None:
    """A JSON body, or none."""
    fields = {"content-length": str(len(body)), **({"content-type": JSON} if body else {}), **(headers or {})}
    await _start(send, status, fields)
    await send({"type": "http.response.body", "body": body})


async def reply_stream(send: Send, stream: Stream, position: int, reader: object, *, ids: bool, prime: bool) -> None:
    """Send the events behind `position`, and those to come, until the stream ends or has another reader.

    With `ids` a client can come back for what it missed. To `prime` is to give it an id before there is an event;
    clients older than 2025-11-25 cannot read that.
    """
    await _start(
        send, 200, {"content-type": EVENTS, "cache-control": "no-cache, no-transform", "x-accel-buffering": "no"}
    )
    await _part(send, b"id: %d-%d\ndata:\n\n" % (stream.number, position) if prime else b":\n\n")
    while True:
        events = None
        with anyio.move_on_after(KEEP_ALIVE) as patience:
            events = await stream.after(position, reader)
        if patience.cancelled_caught:
            await _part(send, b":\n\n")
        elif events is None:
            break
        else:
            for event in events:
                label = b"id: %d-%d\n" % (stream.number, event.position) if ids else b""
                await _part(send, b"event: message\n" + label + b"data: " + event.message + b"\n\n")
            position = events[-1].position
    await send({"type": "http.response.body", "body": b""})


async def _start(send: Send, status: int, headers: Mapping[str, str]) -> None:
    fields = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": fields})


async def _part(send: Send, part: bytes) -> None:
    await send({"type": "http.response.body", "body": part, "more_body": True})
