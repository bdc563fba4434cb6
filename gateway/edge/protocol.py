"""uvicorn's HTTP/1.1 with limits it leaves open: the size of a head, the form of a target, readers that do not read.

Everything here happens below ASGI, where an application can no longer see it or end it.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any, Final

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.edge import http

HEAD_BYTES: Final = 64 * 1024
"""Of one request's line and headers; a piece that the network delivers at once may go beyond it."""
TAKEN_BYTES: Final = 16 * 1024
"""A client that takes less than this within `SLOW_READER_SECONDS`, while more waits for it, is disconnected."""

_AUTHORITY = re.compile(rb"https?://([^/?#]*)", re.IGNORECASE)
_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class _Pipeline(list[Any]):
    """uvicorn's queue of pipelined requests; an empty deque alone weighs 600 bytes per connection."""

    __slots__ = ()

    def appendleft(self, item: Any) -> None:
        self.insert(0, item)


class _Flow(FlowControl):
    """uvicorn's flow control, with its event (another deque) made only for a client that reads slowly."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self.read_paused = False
        self.write_paused = False

    async def drain(self) -> None:
        if self.write_paused:
            await super().drain()

    def pause_writing(self) -> None:
        if not self.write_paused:
            self.write_paused = True
            self._is_writable_event = asyncio.Event()


class Protocol(HttpToolsProtocol):
    """One connection."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begins with lighter parts than uvicorn's own: idle connections are most of what a quiet replica holds."""
        super().connection_made(transport)
        self.flow = _Flow(transport)
        self.pipeline = _Pipeline()  # type: ignore[assignment]

    _in_head = True
    _head_bytes = 0
    _watching: asyncio.TimerHandle | None = None
    _waiting = 0

    def data_received(self, data: bytes) -> None:
        """Feeds the parser; ends the connection when a head goes on for too long."""
        began_in_head = self._in_head
        super().data_received(data)
        if began_in_head and self._in_head and not self.transport.is_closing():
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES:
                self.transport.write(_TOO_LARGE)
                self.transport.close()

    def on_response_complete(self) -> None:
        """Lets go of the finished request: its cycle and scope are most of what an idle connection would weigh."""
        super().on_response_complete()
        cycle = self.cycle
        if cycle is not None and cycle.response_complete and not cycle.more_body and not self.pipeline:
            self.cycle = None  # type: ignore[assignment]
            self.scope = None  # type: ignore[assignment]

    def on_message_begin(self) -> None:
        """A new head begins."""
        self._in_head = True
        self._head_bytes = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Settles which host was asked for. What is raised here, the parser turns into a 400."""
        self._in_head = False
        if sum(name == b"host" for name, _ in self.headers) > 1:  # RFC 9112 section 3.2
            raise ValueError("more than one Host")
        if not self.url.startswith((b"/", b"*")):
            # An absolute target takes the place of Host (RFC 9112 section 3.2.2), and ASGI could not say so.
            authority = _AUTHORITY.match(self.url)
            host = authority[1] if authority else b""
            self.headers[:] = [(name, value) for name, value in self.headers if name != b"host"] + [(b"host", host)]
        super().on_headers_complete()
        self.headers = []  # trailers go there, and not among the headers that were decided on

    def pause_writing(self) -> None:
        """More is written than the client takes: watches whether it takes anything."""
        super().pause_writing()
        self._waiting = self.transport.get_write_buffer_size()
        self._watching = self.loop.call_later(http.SLOW_READER_SECONDS, self._look)

    def _look(self) -> None:
        waiting = self.transport.get_write_buffer_size()
        if self._waiting - waiting < TAKEN_BYTES:
            # Not close(): that would wait until the client has read everything.
            self.transport.abort()
            return
        self._waiting = waiting
        self._watching = self.loop.call_later(http.SLOW_READER_SECONDS, self._look)

    def resume_writing(self) -> None:
        """The client has caught up."""
        self._forget()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._forget()
        super().connection_lost(exc)

    def _forget(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            self._watching = None
