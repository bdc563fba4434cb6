"""HTTP towards one upstream: headers from nothing, no cookies, no redirects, bounded bodies."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping
from typing import Final
from urllib.parse import urlsplit

from catalogue.model import Server
from gateway.errors import UpstreamProtocolError, UpstreamUnavailable
from gateway.upstream.http1 import NotConnected, NotHTTP, Origin
from gateway.upstream.response import BrokenOff, Response

JSON: Final = "application/json"
EVENT_STREAM: Final = "text/event-stream"


class UnknownOutcome(UpstreamUnavailable):
    """The connection died after the request was written: it may have run."""

    reason = "outcome_unknown"


class Transport:
    """Connections to one upstream, in the words of our errors. `tls` is the one shared context of the process."""

    def __init__(self, server: Server, tls: ssl.SSLContext) -> None:
        self._server = server
        self._origin = Origin(server.url, tls)
        self.target = target_of(server.url)

    async def request(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes | None = None
    ) -> Response:
        """Sends one request and returns when the answer's headers are here. The caller settles it.

        Raises:
            UpstreamUnavailable: nothing was sent.
            UnknownOutcome: it was sent, or may have been.
            UpstreamProtocolError: the answer is not HTTP.
        """
        slug = self._server.slug
        try:
            return await self._origin.request(method, target, headers, body)
        except NotConnected as error:
            raise UpstreamUnavailable(slug, f"The server {slug} cannot be reached.") from error
        except BrokenOff as error:
            raise UnknownOutcome(slug, f"The connection to the server {slug} broke before it answered.") from error
        except NotHTTP as error:
            raise UpstreamProtocolError(slug, f"The server {slug} answered with something that is not HTTP.") from error
        except ValueError as error:
            raise UpstreamProtocolError(slug, f"The server {slug} gave a value that no header can hold.") from error

    async def read(self, response: Response) -> bytes:
        """The whole body, at most `max_event_bytes`.

        Raises:
            UpstreamProtocolError: it is larger.
            UnknownOutcome: it broke off.
        """
        cap = self._server.max_event_bytes
        slug = self._server.slug
        if (response.content_length or 0) <= cap:
            try:
                first = await response.chunk()
                if response.at_end and len(first) <= cap:
                    return first
                received = bytearray(first)  # grown in place: an answer that dribbles in stays linear
                while len(received) <= cap:
                    if response.at_end or not (more := await response.chunk()):
                        return bytes(received)
                    received += more
            except (BrokenOff, NotHTTP) as error:
                raise UnknownOutcome(slug, f"The answer of the server {slug} broke off.") from error
        response.settle()
        raise UpstreamProtocolError(slug, f"The server {slug} sent more than {cap} bytes at once.")

    def chunks(self, response: Response) -> AsyncIterator[bytes]:
        """The body as it arrives; ends quietly when the connection breaks, as resumption decides what that means."""
        return _Chunks(response)

    def close(self) -> None:
        """Closes every connection."""
        self._origin.close()


class _Chunks:
    """No generator: most readers stop at the result, and a generator left behind costs a task to be ended."""

    __slots__ = ("_response",)

    def __init__(self, response: Response) -> None:
        self._response = response

    def __aiter__(self) -> _Chunks:
        return self

    async def __anext__(self) -> bytes:
        try:
            data = await self._response.chunk()
        except (BrokenOff, NotHTTP) as error:
            raise StopAsyncIteration from error
        if not data:
            raise StopAsyncIteration
        return data


def target_of(url: str) -> str:
    """Path and query of a URL, as a request line has them."""
    parts = urlsplit(url)
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


class Bulkhead:
    """At most `size` calls in flight and four times as many waiting; beyond that, refused at once."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._slots = asyncio.Semaphore(server.concurrency)
        self._waiting = 0

    async def __aenter__(self) -> None:
        if not self._slots.locked():
            await self._slots.acquire()
            return
        if self._waiting >= self._server.concurrency * 4:
            slug = self._server.slug
            raise UpstreamUnavailable(slug, f"The server {slug} is busy; try again later.")
        self._waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self._waiting -= 1

    async def __aexit__(self, *_: object) -> None:
        self._slots.release()
