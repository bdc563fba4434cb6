"""HTTP/1.1 towards one origin, on httptools: the call path's client.

A general client spends most of a call's CPU on what this path never uses (redirects, cookies, proxies, compression,
middlewares); docs/decisions has the measurement. This one sends a request, hands over the answer as it arrives, and
keeps the connection if both sides may. Parsing is llhttp's, in its strict mode.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Mapping
from typing import Final, cast
from urllib.parse import urlsplit

import httptools

IDLE_SECONDS: Final = 4.0
"""A common server closes idle connections after 5 s: ours go first, so that fewer requests meet a dead one."""
CONNECT_SECONDS: Final = 5.0
HEADER_BYTES: Final = 64 * 1024
BUFFERED: Final = 256 * 1024
"""Bytes of an answer held for a reader that is behind; beyond that the socket is not read."""


class NotConnected(Exception):
    """No connection could be made: nothing was sent."""


class BrokenOff(Exception):
    """The connection ended before the answer did: what was asked may have been done."""


class NotHTTP(Exception):
    """The peer answered with something that is not HTTP/1.1, or with headers beyond all measure."""


class Response:
    """An answer whose headers have arrived. `headers` has lower-case names; of repeated ones, the first."""

    __slots__ = ("_buffer", "_buffered", "_complete", "_connection", "_error", "_waiter", "headers", "status")

    def __init__(self, status: int, headers: Mapping[str, str], connection: Connection) -> None:
        self.status = status
        self.headers = headers
        self._connection: Connection | None = connection
        self._buffer: deque[bytes] = deque()
        self._buffered = 0
        self._complete = False
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
        return self._complete and not self._buffer

    async def chunk(self) -> bytes:
        """The next bytes of the body, as they arrive; b"" at its end.

        Raises:
            BrokenOff: the connection ended first.
        """
        while not self._buffer:
            if self._error is not None:
                raise self._error
            if self._complete:
                return b""
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        data = self._buffer.popleft() if len(self._buffer) == 1 else b"".join(self._buffer)
        self._buffer.clear()
        if self._buffered > BUFFERED and self._connection is not None:
            self._connection.resume()
        self._buffered = 0
        return data

    def settle(self) -> None:
        """Gives the connection back if the body was read, and closes it if it was not (that is the cancel signal)."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.finished(reusable=self.at_end)

    # --- fed by the connection

    def feed(self, data: bytes) -> bool:
        """Takes bytes of the body; True when the socket should rest."""
        self._buffer.append(data)
        self._buffered += len(data)
        self._wake()
        return self._buffered > BUFFERED

    def end(self, error: Exception | None = None) -> None:
        """The body is complete, or broken off."""
        if error is None:
            self._complete = True
        elif not self._complete:
            self._error = error
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Connection(asyncio.Protocol):
    """One socket: one request at a time, its answer parsed as it arrives."""

    def __init__(self, origin: Origin) -> None:
        self._origin = origin
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._awaited: asyncio.Future[Response] | None = None
        self._response: Response | None = None
        self._headers: dict[str, str] = {}
        self._header_bytes = 0
        self._until_close = False
        self._keep = False
        self.idle_since = 0.0

    @property
    def usable(self) -> bool:
        """May another request be sent on it?"""
        return self._transport is not None and not self._transport.is_closing()

    async def send(self, head_and_body: bytes) -> Response:
        """Sends one request and returns when the answer's headers are here.

        Raises:
            BrokenOff: the connection ended first.
            NotHTTP: the answer is not HTTP.
        """
        self._awaited = asyncio.get_running_loop().create_future()
        cast("asyncio.Transport", self._transport).write(head_and_body)
        try:
            return await self._awaited
        except BaseException:
            self.close()
            raise
        finally:
            self._awaited = None

    def finished(self, *, reusable: bool) -> None:
        """The answer needs the connection no longer."""
        self._response = None
        if reusable and self._keep and self.usable:
            self._origin.give_back(self)
        else:
            self.close()

    def resume(self) -> None:
        """Reads the socket again."""
        if self.usable:
            cast("asyncio.Transport", self._transport).resume_reading()

    def close(self) -> None:
        """Ends the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    def _fail(self, error: Exception) -> None:
        if self._awaited is not None and not self._awaited.done():
            self._awaited.set_exception(error)
        if self._response is not None:
            self._response.end(error)
        self.close()

    # --- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self._awaited is None and self._response is None:
            self.close()  # nobody asked
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade, UnicodeDecodeError, NotHTTP) as error:
            failure = NotHTTP("the answer is not HTTP/1.1")
            failure.__cause__ = error
            self._fail(failure)

    def connection_lost(self, exc: Exception | None) -> None:
        self._origin.forget(self)
        if self._response is not None and self._until_close and exc is None:
            self._response.end()
        else:
            self._fail(BrokenOff("the connection ended"))

    # --- httptools

    def on_message_begin(self) -> None:
        self._headers = {}
        self._header_bytes = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        self._header_bytes += len(name) + len(value)
        if self._header_bytes > HEADER_BYTES:
            raise NotHTTP("too many headers")
        self._headers.setdefault(name.decode("ascii").lower(), value.decode("latin-1").strip())

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:
            return  # an interim answer; the real one follows
        if self._awaited is None or self._awaited.done():
            raise NotHTTP("an answer that nobody waits for")
        self._keep = self._parser.should_keep_alive()
        framed = "content-length" in self._headers or "transfer-encoding" in self._headers
        self._until_close = not framed and status not in (204, 304)
        self._response = Response(status, self._headers, self)
        self._awaited.set_result(self._response)

    def on_body(self, body: bytes) -> None:
        if self._response is not None and self._response.feed(body):
            cast("asyncio.Transport", self._transport).pause_reading()

    def on_message_complete(self) -> None:
        if self._response is not None:
            self._response.end()


class Origin:
    """Connections to one scheme, host and port. `tls` is the one shared context of the process."""

    def __init__(self, url: str, tls: ssl.SSLContext) -> None:
        parts = urlsplit(url)
        self._host = parts.hostname or ""
        self._tls = tls if parts.scheme == "https" else None
        self._port = parts.port or (443 if self._tls else 80)
        self._authority = parts.netloc.rpartition("@")[2]
        self._idle: deque[Connection] = deque()
        self._all: set[Connection] = set()
        self._sweep: asyncio.TimerHandle | None = None

    async def request(self, method: str, target: str, headers: Mapping[str, str], body: bytes | None) -> Response:
        """Sends one request; `target` is path and query.

        Raises:
            NotConnected: nothing was sent.
            BrokenOff: it was sent, or may have been.
            NotHTTP: the answer is not HTTP/1.1.
            ValueError: a header cannot be written.
        """
        lines = [f"{method} {target} HTTP/1.1", f"host: {self._authority}", "accept-encoding: identity"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if body is not None:
            lines.append(f"content-length: {len(body)}")
        head = "\r\n".join(lines)
        if head.count("\n") != len(lines) - 1 or head.count("\r") != len(lines) - 1 or "\x00" in head:
            raise ValueError("a header holds a line break")
        connection = self._take() or await self._connect()
        return await connection.send(head.encode("ascii") + b"\r\n\r\n" + (body or b""))

    def _take(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection
        return None

    async def _connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                _, connection = await loop.create_connection(
                    lambda: Connection(self),
                    self._host,
                    self._port,
                    ssl=self._tls,
                    server_hostname=self._host if self._tls else None,
                )
        except (OSError, TimeoutError, UnicodeError) as error:
            raise NotConnected(str(error)) from error
        self._all.add(connection)
        return connection

    def give_back(self, connection: Connection) -> None:
        """Keeps an unused connection for the next request."""
        loop = asyncio.get_running_loop()
        connection.idle_since = loop.time()
        self._idle.append(connection)
        if self._sweep is None:
            self._sweep = loop.call_later(IDLE_SECONDS, self._sweep_idle)

    def _sweep_idle(self) -> None:
        """The longest unused stand in front; those that are over their time go."""
        loop = asyncio.get_running_loop()
        due = loop.time() - IDLE_SECONDS
        while self._idle and self._idle[0].idle_since <= due:
            self._idle.popleft().close()
        self._sweep = None
        if self._idle:
            self._sweep = loop.call_at(self._idle[0].idle_since + IDLE_SECONDS, self._sweep_idle)

    def forget(self, connection: Connection) -> None:
        """The connection is gone."""
        self._all.discard(connection)

    def close(self) -> None:
        """Ends every connection."""
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        for connection in tuple(self._all):
            connection.close()
        self._idle.clear()
