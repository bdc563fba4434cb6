"""Upstreams of the first revision's transport: one standing GET carries everything, POSTs are only acknowledged.

The socket lives on one replica, so these sessions are kept here and not in the registry: another replica that serves
the same client opens a connection of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import urljoin, urlsplit

from mcp_types.version import LATEST_HANDSHAKE_VERSION

from catalogue.model import Server
from gateway import jsonrpc
from gateway.calls import Answer, Call, Caller, Message, MessageKind, Outlet, new_id
from gateway.errors import UpstreamError, UpstreamProtocolError, UpstreamUnavailable
from gateway.policy.pipeline import CallPermit
from gateway.upstream import wire
from gateway.upstream.exchange import AT_ONCE, Aside, Exchange, NotSpoken
from gateway.upstream.modern import SILENT
from gateway.upstream.permits import Housekeeping, HousekeepingPermit
from gateway.upstream.response import Response
from gateway.upstream.sse import Event, EventParser
from gateway.upstream.transport import EVENT_STREAM, Transport, UnknownOutcome, target_of

CONNECTIONS: Final = 1000
"""Standing connections to one upstream; the least recently used goes first."""

_HANDSHAKE_SECONDS = 10.0
_ASKABLE = {"sampling/createMessage": "sampling", "roots/list": "roots", "elicitation/create": "elicitation"}
_NOT_ALLOWED = {"code": -32601, "message": "Method not found"}


class Connection:
    """One standing GET and the requests in flight over it.

    Nothing on this channel says to which call a request of the server belongs, so while an interactive capability
    is declared only one call is in flight: another user's, or another call's, question can never be shown.
    """

    def __init__(self, server: Server, transport: Transport, capabilities: Mapping[str, Any], aside: Aside) -> None:
        self._server = server
        self._transport = transport
        self._key = f"{server.slug}@{server.version}"
        self._capabilities = capabilities
        self._aside = aside
        self._pending: dict[str, tuple[Exchange, asyncio.Future[Answer]]] = {}
        self._one_at_a_time = asyncio.Lock() if capabilities else None
        self._address = ""
        self._reader: asyncio.Task[None] | None = None
        self.hello: Answer | None = None
        self.used_at = time.monotonic()

    @property
    def alive(self) -> bool:
        """Does the standing GET still stand?"""
        return self._reader is not None and not self._reader.done()

    async def open(self) -> None:
        """Opens the GET, learns the address for POSTs, and shakes hands.

        Raises:
            NotSpoken: no event stream here.
            UpstreamProtocolError: the endpoint is missing, or of another origin.
        """
        response = await self._transport.request("GET", self._transport.target, {"accept": EVENT_STREAM})
        if response.status != 200 or response.content_type != EVENT_STREAM:
            response.settle()
            raise NotSpoken(self._server.slug, response.status)
        named: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._reader = asyncio.create_task(self._read(response, named), name=f"http+sse {self._server.slug}")
        try:
            async with asyncio.timeout(_HANDSHAKE_SECONDS):
                self._address = await named
                await self._shake_hands()
        except BaseException as error:
            await self.close()
            if isinstance(error, TimeoutError):
                slug = self._server.slug
                raise UpstreamUnavailable(slug, f"The server {slug} did not complete the handshake.") from error
            raise

    async def _shake_hands(self) -> None:
        offered = LATEST_HANDSHAKE_VERSION if self._server.protocol == "auto" else self._server.protocol
        self.hello = await self.request(
            Housekeeping.INITIALIZE,
            {"protocolVersion": offered, "capabilities": self._capabilities, "clientInfo": wire.CLIENT_INFO},
            SILENT,
        )
        await self._post(wire.legacy_body(Housekeeping.INITIALIZED, None, None))

    async def call(self, call: Call, outlet: Outlet) -> Answer:
        """Sends a permitted call over this connection."""
        params = dict(call.params)
        if self._one_at_a_time is None:
            return await self.request(call.method.value, params, outlet, call)
        async with self._one_at_a_time:
            return await self.request(call.method.value, params, outlet, call)

    async def request(self, method: str, params: Mapping[str, Any], outlet: Outlet, call: Call | None = None) -> Answer:
        """Posts one request and waits for its answer on the standing GET."""
        if not self.alive and method != Housekeeping.INITIALIZE:
            raise UnknownOutcome(self._server.slug, f"The stream of the server {self._server.slug} ended.")
        request_id = new_id()
        if call is not None and (meta := wire.call_meta(call, request_id, modern=False)):
            params = {**params, "_meta": meta}

        async def asked(asked_method: str, asked_params: dict[str, Any], upstream_id: str | int) -> None:
            needed = _ASKABLE.get(asked_method)
            if asked_method == "ping":
                await self.reply(upstream_id, {"result": {}})
            elif call is None or needed is None or needed not in self._capabilities:
                await self.reply(upstream_id, {"error": _NOT_ALLOWED})
            else:
                await outlet.send(
                    Message(MessageKind.REQUEST, asked_method, Answer(asked_params), upstream_id, self._key)
                )

        exchange = Exchange(
            self._server,
            request_id,
            outlet,
            aside=self._aside,
            asked=asked,
            progress_token=None if call is None else call.progress_token,
            log_level=None if call is None else call.caller.log_level or (None if call.caller.modern else "debug"),
        )
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._pending[request_id] = (exchange, future)
        self.used_at = time.monotonic()
        try:
            await self._post(wire.legacy_body(method, request_id, params))
            return await future
        except asyncio.CancelledError:
            if call is not None:
                with contextlib.suppress(UpstreamUnavailable, UpstreamProtocolError, TimeoutError):
                    async with asyncio.timeout(1.0):
                        await self._post(wire.legacy_body("notifications/cancelled", None, {"requestId": request_id}))
            raise
        finally:
            del self._pending[request_id]

    async def reply(self, upstream_id: str | int, body: Mapping[str, Any]) -> None:
        """Posts the answer to a request of the server."""
        await self._post(jsonrpc.dumps({"jsonrpc": "2.0", "id": upstream_id, **body}))

    async def _post(self, body: bytes) -> None:
        response = await self._transport.request("POST", self._address, wire.legacy_headers(None, None), body)
        status = response.status
        response.settle()
        if status >= 300:
            raise NotSpoken(self._server.slug, status)

    async def _read(self, response: Response, named: asyncio.Future[str]) -> None:
        parser = EventParser(self._server.max_event_bytes)
        slug = self._server.slug
        failure: Exception = UnknownOutcome(slug, f"The stream of the server {slug} ended.")
        try:
            async for chunk in self._transport.chunks(response):
                for number, event in enumerate(parser.feed(chunk), 1):
                    if event.event == "endpoint":
                        self._name(event, named)
                    elif event.has_data:
                        await self._message(event.data)
                    if number % AT_ONCE == 0:
                        await asyncio.sleep(0)
        except UpstreamProtocolError as error:
            failure = error
        except (ValueError, UpstreamError) as error:  # no JSON, an event above the cap, or answers it does not take
            failure = UpstreamProtocolError(slug, f"The server {slug} broke the protocol on its event stream.")
            failure.__cause__ = error
        finally:
            response.settle()
            if not named.done():
                named.set_exception(failure)
            for _, future in self._pending.values():
                if not future.done():
                    future.set_exception(failure)

    def _name(self, event: Event, named: asyncio.Future[str]) -> None:
        address = urljoin(self._server.url, event.data.decode("utf-8", "replace"))
        if _origin(address) != _origin(self._server.url):  # an address elsewhere would carry our requests there
            slug = self._server.slug
            raise UpstreamProtocolError(slug, f"The server {slug} named an endpoint of another origin.")
        if not named.done():
            named.set_result(target_of(address))

    async def _message(self, data: bytes) -> None:
        decoded = jsonrpc.loads(data)
        if not isinstance(decoded, dict):
            return
        for request_id, (exchange, future) in list(self._pending.items()):
            if future.done() or not self._belongs(decoded, request_id):
                continue
            try:
                answer = await exchange.message(data)
            except Exception as error:  # noqa: BLE001 - the waiting call decides what its failure means
                if not future.done():
                    future.set_exception(error)
                return
            if answer is not None and not future.done():
                future.set_result(answer)
            return
        await self._uncorrelated(decoded)

    def _belongs(self, decoded: Mapping[str, Any], request_id: str) -> bool:
        method = decoded.get("method")
        if method is None:
            return decoded.get("id") == request_id
        params = decoded.get("params")
        if method == "notifications/progress":
            return isinstance(params, dict) and params.get("progressToken") == request_id
        return len(self._pending) == 1

    async def _uncorrelated(self, decoded: Mapping[str, Any]) -> None:
        method = decoded.get("method")
        if not isinstance(method, str):
            return
        params = decoded.get("params")
        if "id" not in decoded:
            self._aside(method, params if isinstance(params, dict) else {})
        elif isinstance(decoded["id"], str | int):
            await self.reply(decoded["id"], {"result": {}} if method == "ping" else {"error": _NOT_ALLOWED})

    async def set_level(self, level: str) -> None:
        """Sets the least level of log messages, if the server has any."""
        if self.hello is not None and "logging" in (self.hello.value.get("capabilities") or ()):
            await self.request(Housekeeping.SET_LEVEL, {"level": level}, SILENT)

    async def ended(self) -> None:
        """Returns when the standing GET has ended."""
        if self._reader is not None:
            await asyncio.wait((self._reader,))

    async def close(self) -> None:
        """Ends the standing GET; what is in flight fails with an unknown outcome."""
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)


class HttpSse:
    """The HTTP+SSE side of one upstream: a connection per holder."""

    def __init__(self, server: Server, transport: Transport) -> None:
        self._server = server
        self._transport = transport
        self._connections: OrderedDict[str, Connection] = OrderedDict()
        self._opening: dict[str, asyncio.Lock] = {}

    async def forward(self, permit: CallPermit, outlet: Outlet, aside: Aside, key: str) -> Answer:
        """Sends a permitted call over the connection of the caller's holder, whose key is given."""
        connection = await self._connection(key, permit.call.caller, aside)
        return await connection.call(permit.call, outlet)

    async def watch(self, permits: Sequence[CallPermit], aside: Aside, key: str) -> None:
        """Subscribes to the resources of permitted calls on the holder's connection; returns when that has ended."""
        connection = await self._connection(key, permits[0].call.caller, aside)
        for permit in permits:
            await connection.request("resources/subscribe", {"uri": permit.call.params["uri"]}, SILENT)
        await connection.ended()

    async def set_level(self, key: str, level: str) -> None:
        """Sets the least level of log messages on the holder's connection; one that is opened later begins with it."""
        if (connection := self._connections.get(key)) is not None and connection.alive:
            await connection.set_level(level)

    async def _connection(self, key: str, caller: Caller, aside: Aside) -> Connection:
        async with self._opening.setdefault(key, asyncio.Lock()):
            connection = self._connections.get(key)
            if connection is None or not connection.alive:
                connection = await self.open({} if caller.modern else wire.bridgeable(caller, self._server), aside)
                self._connections[key] = connection
                if caller.log_level is not None:
                    await connection.set_level(caller.log_level)
            self._connections.move_to_end(key)
        if len(self._connections) > CONNECTIONS:
            old_key, oldest = self._connections.popitem(last=False)
            self._opening.pop(old_key, None)
            await oldest.close()
        return connection

    async def open(self, capabilities: Mapping[str, Any], aside: Aside) -> Connection:
        """A connection outside the table, for discovery."""
        connection = Connection(self._server, self._transport, capabilities, aside)
        await connection.open()
        return connection

    def find(self, key: str) -> Connection | None:
        """The holder's connection on this replica."""
        return self._connections.get(key)

    async def housekeep(self, connection: Connection, permit: HousekeepingPermit, params: Mapping[str, Any]) -> Answer:
        """Sends a request that carries nothing of any caller."""
        return await connection.request(permit.method.value, params, SILENT)

    async def end(self, key: str) -> None:
        """Ends the holder's connection."""
        self._opening.pop(key, None)
        if (connection := self._connections.pop(key, None)) is not None:
            await connection.close()

    async def close(self) -> None:
        """Ends every connection."""
        for key in list(self._connections):
            await self.end(key)


def _origin(address: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(address)
    return parts.scheme, parts.hostname, parts.port
