"""HTTP/1.1 towards one origin, on httptools: the call path's client.

A general client spends most of a call's CPU on what this path never uses (redirects, cookies, proxies, compression,
middlewares); docs/decisions has the measurement. This one sends a request, hands over the answer as it arrives, and
keeps the connection if both sides may. Parsing is llhttp's, in its strict mode.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import deque
from collections.abc import Mapping
from typing import Final, cast
from urllib.parse import urlsplit

import httptools

from gateway.upstream.response import BrokenOff, Response

IDLE_SECONDS: Final = 4.0
"""A common server closes idle connections after 5 s: ours go first, so that fewer requests meet a dead one."""
CONNECT_SECONDS: Final = 5.0
HEADER_BYTES: Final = 64 * 1024
"""Of an answer, before or between bytes of its body; what the network delivers at once may go beyond it."""
LINGER_SECONDS: Final = 1.0
"""How long the end of an answer that nobody reads any more is waited for, so that its connection can be kept."""

# A standing stream may be silent for hours: this is how the end of a peer that vanished without a word is noticed.
_PROBES: Final = (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3))


class NotConnected(Exception):
    """No connection could be made: nothing was sent."""


class NotHTTP(Exception):
    """The peer answered with something that is not HTTP/1.1, or with headers beyond all measure."""


class Connection(asyncio.Protocol):
    """One socket: one request at a time, its answer parsed as it arrives."""

    def __init__(self, origin: Origin) -> None:
        self._origin = origin
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._awaited: asyncio.Future[Response] | None = None
        self._response: Response | None = None
        self._headers: dict[str, str] = {}
        self._overhead = 0
        self._until_close = False
        self._keep = False
        self._lingering: asyncio.TimerHandle | None = None
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
        self._overhead = 0
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
        if self._lingering is not None:
            self._lingering.cancel()
            self._lingering = None
        if reusable and self._keep and self.usable:
            self._origin.give_back(self)
        else:
            self.close()

    def linger(self) -> None:
        """Waits a moment for the end of an answer that nobody reads any more; then the connection is free."""
        self._lingering = asyncio.get_running_loop().call_later(LINGER_SECONDS, self.close)

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
        held: socket.socket = transport.get_extra_info("socket")
        held.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _PROBES:
            if (option := getattr(socket, name, None)) is not None:
                held.setsockopt(socket.IPPROTO_TCP, option, value)

    def data_received(self, data: bytes) -> None:
        if self._awaited is None and self._response is None:
            self.close()  # nobody asked
            return
        self._overhead += len(data)
        try:
            self._parser.feed_data(data)
            if self._overhead > HEADER_BYTES:  # the parser gathers a line until its end, however long
                raise NotHTTP("too many headers")
        except (httptools.HttpParserError, httptools.HttpParserUpgrade, UnicodeDecodeError, NotHTTP) as error:
            failure = NotHTTP("the answer is not HTTP/1.1")
            failure.__cause__ = error
            self._fail(failure)
        if self._lingering is not None and self._response is not None and self._response.complete:
            self.finished(reusable=True)

    def eof_received(self) -> None:
        # Nothing else completes a body without a length: a connection that we or the network end says nothing.
        if self._response is not None and self._until_close:
            self._response.end()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._origin.forget(self)
        self._fail(BrokenOff("the connection ended"))
        self.finished(reusable=False)

    # --- httptools

    def on_message_begin(self) -> None:
        self._headers = {}
        self._keep = False  # what follows a complete answer, nobody asked for

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.setdefault(name.decode("ascii").lower(), value.decode("latin-1").strip())

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if 100 <= status < 200:
            return  # an interim answer; the real one follows (after 101 it would not: the parser refuses that one)
        if status < 200:
            raise NotHTTP("a status that was not asked for")
        if self._awaited is None or self._awaited.done():
            raise NotHTTP("an answer that nobody waits for")
        self._keep = self._parser.should_keep_alive()
        coding = self._headers.get("transfer-encoding")
        if coding is not None and coding.lower() != "chunked":
            raise NotHTTP("a transfer coding that was not asked for")
        self._until_close = coding is None and "content-length" not in self._headers
        self._response = Response(status, self._headers, self)
        self._headers = {}  # trailers go there: they come too late to be believed
        self._awaited.set_result(self._response)

    def on_body(self, body: bytes) -> None:
        self._overhead = 0
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
        self._closed = False

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
        if not "".join(lines).isprintable() or " " in target:
            raise ValueError("a header or the target holds a character that none may hold")
        lines.append("\r\n")
        head = "\r\n".join(lines).encode("ascii")
        connection = self._take() or await self._connect()
        return await connection.send(head + body if body else head)

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
        if self._closed or not connection.usable:
            connection.close()
            raise NotConnected("the connection ended at once")
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
        """Ends every connection, for good."""
        self._closed = True
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        for connection in tuple(self._all):
            connection.close()
        self._idle.clear()
