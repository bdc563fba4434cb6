"""HTTP towards one upstream, on aiohttp: headers from nothing, no cookies, no redirects, bounded bodies."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping
from typing import Final

import aiohttp
from yarl import URL

from catalogue.model import Server
from gateway.errors import UpstreamProtocolError, UpstreamUnavailable

JSON: Final = "application/json"
EVENT_STREAM: Final = "text/event-stream"

_TIMEOUT = aiohttp.ClientTimeout(total=None, connect=None, sock_connect=5.0, sock_read=None)
_AUTOMATIC = frozenset({"User-Agent", "Accept", "Accept-Encoding", "Content-Type"})


class UnknownOutcome(UpstreamUnavailable):
    """The connection died after the request was written: it may have run."""

    reason = "outcome_unknown"


class Transport:
    """A pool of connections to one upstream. `tls` is the one shared context of the process."""

    def __init__(self, server: Server, tls: ssl.SSLContext) -> None:
        self._server = server
        self._tls = tls
        self.url = URL(server.url)
        self._session: aiohttp.ClientSession | None = None

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            # The bulkhead bounds calls; standing streams must not eat its connections, so the pool itself is unbounded.
            # A common server closes idle connections after 5 s: ours go first, so that fewer requests meet a dead one.
            connector = aiohttp.TCPConnector(limit=0, ssl=self._tls, keepalive_timeout=4.0)
            self._session = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
                timeout=_TIMEOUT,
                auto_decompress=False,
                skip_auto_headers=_AUTOMATIC,
                max_field_size=16 * 1024,
            )
        return self._session

    async def request(
        self, method: str, url: str | URL, headers: Mapping[str, str], body: bytes | None = None
    ) -> aiohttp.ClientResponse:
        """Sends one request and returns when the answer's headers are here. The caller releases it.

        Raises:
            UpstreamUnavailable: nothing was sent.
            UnknownOutcome: it was sent, or may have been.
        """
        slug = self._server.slug
        try:
            return await self._open().request(method, url, data=body, headers=headers, allow_redirects=False)
        except (aiohttp.ClientConnectorError, aiohttp.InvalidURL, aiohttp.ConnectionTimeoutError) as error:
            raise UpstreamUnavailable(slug, f"The server {slug} cannot be reached.") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise UnknownOutcome(slug, f"The connection to the server {slug} broke before it answered.") from error

    async def read(self, response: aiohttp.ClientResponse) -> bytes:
        """The whole body, at most `max_event_bytes`.

        Raises:
            UpstreamProtocolError: it is larger.
            UnknownOutcome: it broke off.
        """
        cap = self._server.max_event_bytes
        slug = self._server.slug
        try:
            if (length := response.content_length) is not None and length <= cap:
                return await response.read()
            if length is None:
                received = bytearray()
                async for chunk in response.content.iter_any():
                    received += chunk
                    if len(received) > cap:
                        break
                else:
                    return bytes(received)
        except (aiohttp.ClientError, OSError) as error:
            raise UnknownOutcome(slug, f"The answer of the server {slug} broke off.") from error
        response.close()
        raise UpstreamProtocolError(slug, f"The server {slug} sent more than {cap} bytes at once.")

    async def chunks(self, response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
        """The body as it arrives; ends quietly when the connection breaks, as resumption decides what that means."""
        try:
            async for chunk in response.content.iter_any():
                yield chunk
        except (aiohttp.ClientError, OSError):
            return

    async def close(self) -> None:
        """Closes every connection."""
        if self._session is not None:
            await self._session.close()
            self._session = None


def settle(response: aiohttp.ClientResponse) -> None:
    """Gives the connection back if its body was read, and closes it if it was not (that is the cancel signal)."""
    if response.content.at_eof():
        response.release()
    else:
        response.close()


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
