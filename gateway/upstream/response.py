"""One answer of an upstream: the headers that have arrived, and the body as it comes."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from typing import Final, Protocol

BUFFERED: Final = 256 * 1024
"""Bytes of a body held for a reader that is behind; beyond that the socket is not read."""


class BrokenOff(Exception):
    """The connection ended before the answer did: what was asked may have been done."""


class Source(Protocol):
    """The connection on which an answer arrives."""

    def resume(self) -> None:
        """Reads the socket again."""

    def finished(self, *, reusable: bool) -> None:
        """The answer needs the connection no longer."""

    def linger(self) -> None:
        """What is left of the answer is wanted by nobody, and about to end by itself."""


class Response:
    """An answer whose headers have arrived. `headers` has lower-case names; of repeated ones, the first."""

    __slots__ = ("_buffer", "_buffered", "_error", "_source", "_waiter", "complete", "headers", "status")

    def __init__(self, status: int, headers: Mapping[str, str], source: Source) -> None:
        self.status = status
        self.headers = headers
        self.complete = False
        self._source: Source | None = source
        self._buffer: deque[bytes] = deque()
        self._buffered = 0
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None

    @property
    def content_type(self) -> str:
        """The media type in lower case, without parameters."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    @property
    def content_length(self) -> int | None:
        """The declared length of the body in bytes."""
        declared = self.headers.get("content-length")
        return int(declared) if declared is not None and declared.isdigit() else None

    @property
    def at_end(self) -> bool:
        """Has the whole body been read?"""
        return self.complete and not self._buffer

    async def chunk(self) -> bytes:
        """The next bytes of the body, as they arrive; b"" at its end.

        Raises:
            BrokenOff: the connection ended first.
            NotHTTP: what came is no body any more.
        """
        while not self._buffer:
            if self._error is not None:
                raise self._error
            if self.complete:
                return b""
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        data = self._buffer.popleft() if len(self._buffer) == 1 else b"".join(self._buffer)
        self._buffer.clear()
        if self._buffered > BUFFERED and self._source is not None:
            self._source.resume()
        self._buffered = 0
        return data

    def settle(self, *, answered: bool = False) -> None:
        """Gives the connection back if the body was read, and closes it if it was not (that is the cancel signal).

        With `answered` the body held what was asked for: its rest, such as the end of an event stream that arrives a
        moment after the last event, is dropped, and the connection kept if it comes soon.
        """
        source, self._source = self._source, None
        if source is None:
            return
        if answered and not self.complete:
            source.linger()
            return
        source.finished(reusable=self.at_end or answered)
        if not self.complete:
            self.end(BrokenOff("the rest was not wanted"))

    # --- fed by the connection

    def feed(self, data: bytes) -> bool:
        """Takes bytes of the body; True when the socket should rest."""
        self._buffer.append(data)
        self._buffered += len(data)
        self._wake()
        return self._buffered > BUFFERED

    def end(self, error: Exception | None = None) -> None:
        """The body is complete, or broken off; the first word counts."""
        if self.complete or self._error is not None:
            return
        self.complete, self._error = error is None, error
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
