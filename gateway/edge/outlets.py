"""The response to one POST: JSON when the answer comes soon, an event stream from the first message or the grace on."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Protocol

from gateway import jsonrpc
from gateway.calls import Message, MessageKind
from gateway.edge.http import ClientGone, Request

_COMMENT = b": keep-alive\n\n"


class Framing(Protocol):
    """How messages become events of the stream, and whether they outlive the connection."""

    async def start(self) -> bytes:
        """What the stream begins with."""

    async def event(self, data: bytes) -> bytes:
        """One message as an event; for replayable streams it is kept before it is returned."""

    async def end(self) -> None:
        """No more events."""


class Plain:
    """Events without ids: the stream dies with its connection (2026-07-28, and revisions without sessions)."""

    async def start(self) -> bytes:
        """A comment, so that proxies pass the headers on."""
        return b": open\n\n"

    async def event(self, data: bytes) -> bytes:
        """One `message` event."""
        return b"event: message\ndata: " + data + b"\n\n"

    async def end(self) -> None:
        """Nothing is kept."""


Naming = Callable[[Message], str]
"""Gives a server request the id under which the client sees it; raises when this client cannot be asked."""


def message_text(message: Message, naming: Naming | None) -> bytes:
    """The JSON-RPC text of a notification, or of a server request under the id that `naming` gives it."""
    params = message.answer.raw
    head = b'{"jsonrpc":"2.0",'
    if message.kind is MessageKind.REQUEST:
        if naming is None:
            raise ClientGone
        head += b'"id":' + jsonrpc.dumps(naming(message)) + b","
    return head + b'"method":' + jsonrpc.dumps(message.method) + b',"params":' + params + b"}"


class PostOutlet:
    """An `Outlet` on an HTTP response. `survives`: a lost connection does not end the request (legacy revisions)."""

    def __init__(
        self,
        request: Request,
        framing: Framing,
        *,
        grace: float,
        keep_alive: float,
        naming: Naming | None = None,
        headers: list[tuple[bytes, bytes]] | None = None,
        survives: bool = False,
    ) -> None:
        self._request = request
        self._framing = framing
        self._keep_alive_seconds = keep_alive
        self._naming = naming
        self._headers = headers
        self._survives = survives
        self._gone = False
        self._closed = False
        self._opening: asyncio.Task[None] | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._writing = asyncio.Lock()
        self._owner = asyncio.current_task()
        self.cancelled = False
        self._timer = asyncio.get_running_loop().call_later(grace, self.opened)

    @property
    def streaming(self) -> bool:
        """Is the response an event stream by now?"""
        return self._opening is not None

    def opened(self) -> None:
        """Commits to an event stream, without waiting for it."""
        if self._opening is None:
            self._timer.cancel()
            self._opening = asyncio.create_task(self._open())

    async def _open(self) -> None:
        await self._request.start_stream(self._headers)
        self._watching = asyncio.create_task(self._watch())
        if first := await self._framing.start():
            await self._write(first)
        self._keeping = asyncio.create_task(self._keep_alive())

    async def _ready(self) -> None:
        self.opened()
        assert self._opening is not None  # noqa: S101 - opened() has just set it
        await asyncio.shield(self._opening)

    async def send(self, message: Message) -> None:
        """Writes a message; a client that left gets nothing, which for surviving requests is no failure."""
        await self.write(message_text(message, self._naming))

    async def write(self, data: bytes) -> None:
        """Writes one JSON-RPC text as an event; those of a batch one after the other, in the order of their ids."""
        await self._ready()
        async with self._writing:
            await self._write(await self._framing.event(data))

    async def _write(self, chunk: bytes) -> None:
        if self._gone:
            return
        try:
            await self._request.write(chunk)
        except ClientGone:
            self._leave()

    async def finish(self, status: int, data: bytes, headers: list[tuple[bytes, bytes]] | None = None) -> None:
        """Answers the request: as the last event of the stream, or as the JSON body of the response."""
        self._timer.cancel()
        if self._opening is None:
            await self._request.respond(status, data, [*(self._headers or ()), *(headers or ())])
            return
        await self.write(data)
        await self.close()

    async def close(self) -> None:
        """Ends the response."""
        self._timer.cancel()
        if self._opening is None or self._closed:
            return
        self._closed = True
        await asyncio.gather(self._opening, return_exceptions=True)
        for task in (self._keeping, self._watching):
            if task is not None:
                task.cancel()
        await self._framing.end()
        if not self._gone:
            with contextlib.suppress(ClientGone):
                await self._request.end_stream()

    async def _keep_alive(self) -> None:
        while not self._gone:
            await asyncio.sleep(self._keep_alive_seconds)
            await self._write(_COMMENT)

    async def _watch(self) -> None:
        await self._request.gone()
        self._leave()

    def _leave(self) -> None:
        """The connection is lost. In the stateless revisions that is how a client cancels."""
        self._gone = True
        if not self._survives and not self.cancelled and self._owner is not None:
            self.cancelled = True
            self._owner.cancel()
