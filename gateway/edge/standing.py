"""Event streams that stay open: listens, GET streams, HTTP+SSE."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

from gateway.edge.http import ClientGone, Request

QUEUE: Final = 1000
"""Messages waiting for a client that reads slowly; one more and it is disconnected."""
QUEUE_BYTES: Final = 8 * 1024 * 1024
"""And their bytes: two of the largest messages there are by default."""

_COMMENT = b": keep-alive\n\n"
Framed = Callable[[bytes], Awaitable[bytes]]


class Standing:
    """Writes what is pushed, comments in silence, and ends when the client leaves or `end` is called."""

    def __init__(self, request: Request, frame: Framed, *, keep_alive: float) -> None:
        self._request = request
        self._frame = frame
        self._keep_alive = keep_alive
        self._queue: deque[bytes] = deque()
        self._waiting = 0
        self._serving: asyncio.Task[object] | None = None
        self._wake = asyncio.Event()
        self.last: bytes | None = None
        self._ended = False
        self._overflowed = False

    def push(self, data: bytes, *, once: bool = False) -> None:
        """Queues one JSON-RPC text; with `once`, only if the same text is not waiting already (level triggers)."""
        if self._overflowed or (once and data in self._queue):
            return
        if self._queue and (len(self._queue) >= QUEUE or self._waiting + len(data) > QUEUE_BYTES):
            self._overflow()
            return
        self._queue.append(data)
        self._waiting += len(data)
        self._wake.set()

    def _overflow(self) -> None:
        """Ends the stream without a word: whoever does not read would not read that either."""
        self._overflowed = True
        self._queue.clear()
        if self._serving is not None:
            self._serving.cancel()

    def end(self) -> None:
        """Ends the stream after what is queued."""
        self._ended = True
        self._wake.set()

    async def run(self, first: bytes, headers: list[tuple[bytes, bytes]] | None = None) -> None:
        """Serves the stream until it ends; returns also when the client leaves."""
        await self._request.start_stream(headers)
        gone = asyncio.create_task(self._request.gone())
        gone.add_done_callback(lambda _: self._leave())
        self._serving = task = asyncio.current_task()
        try:
            await self._request.write(first)
            await self._serve(gone)
            if not gone.done():
                await self._request.end_stream()
        except ClientGone:
            return
        except asyncio.CancelledError:
            if not self._overflowed or task is None or task.uncancel() > 0:
                raise
        finally:
            self._serving = None
            gone.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await gone

    def _leave(self) -> None:
        self._wake.set()

    async def _serve(self, gone: asyncio.Task[None]) -> None:
        while not gone.done():
            while self._queue:
                data = self._queue.popleft()
                self._waiting -= len(data)
                await self._request.write(await self._frame(data))
            if self._ended or self._overflowed:
                return
            self._wake.clear()
            if self._queue or gone.done():
                continue
            try:
                async with asyncio.timeout(self._keep_alive):
                    await self._wake.wait()
            except TimeoutError:
                await self._request.write(_COMMENT)
