"""`/mcp` of a wrapper: Streamable HTTP of both eras in front of stdio servers."""

import re
from typing import Final

import anyio
from mcp.shared.inbound import (
    ERROR_CODE_HTTP_STATUS,
    InboundLadderRejection,
    classify_inbound_request,
    find_duplicated_routing_header,
)
from mcp_types import HEADER_MISMATCH, INTERNAL_ERROR, INVALID_REQUEST
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS, LATEST_MODERN_VERSION, is_version_at_least
from starlette.types import Receive, Scope, Send

from gateway.cli.stdio import message as jsonrpc
from gateway.cli.stdio.calls import BusyError, Call
from gateway.cli.stdio.children import Children, FullError, StartError
from gateway.cli.stdio.message import ID, Message
from gateway.cli.stdio.replies import (
    EVENTS,
    JSON,
    accepts,
    headers_of,
    host_name,
    read_body,
    reply,
    reply_stream,
    while_connected,
)
from gateway.cli.stdio.session import STANDALONE, Session
from gateway.jsonrpc import InvalidMessage, Kind

SESSION_ID: Final = "mcp-session-id"
PROTOCOL_VERSION: Final = "mcp-protocol-version"
LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})

START_PATIENCE: Final = 120.0
"""Seconds a server may take to answer `initialize`: with `npx` or `uvx` it is first downloaded."""

LEGACY_COMMIT: Final = 0.25
MODERN_COMMIT: Final = 15.0
"""Seconds without a message after which the response becomes a stream. Before that a response can be plain JSON. Legacy
clients get the stream soon, as only its event ids let them come back after a broken connection; modern ones cannot come
back, and only plain JSON can carry the HTTP status that their errors should have."""


_event_id = re.compile(r"([0-9]{1,15})-([0-9]{1,15})")


class Endpoint:
    """The ASGI application. `hosts` are the names in `Host` and `Origin` that it answers to."""

    def __init__(self, children: Children, hosts: frozenset[str] = LOOPBACK) -> None:
        self._children = children
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = headers_of(scope)
        # A page that a browser loaded from elsewhere must not reach a server on this machine, not by a DNS name that
        # turns into our address (Host) and not directly (Origin).
        if host_name(headers.get("host", "")) not in self._hosts:
            await _refuse(send, 421, "this Host is not served here")
        elif "origin" in headers and host_name(headers["origin"]) not in self._hosts:
            await _refuse(send, 403, "this Origin may not call")
        elif scope["path"] != "/mcp":
            await _refuse(send, 404, "the endpoint is /mcp")
        elif scope["method"] == "POST":
            await self._post(headers, scope, receive, send)
        elif scope["method"] not in ("GET", "DELETE") or headers.get(PROTOCOL_VERSION) == LATEST_MODERN_VERSION:
            await reply(send, 405, headers={"allow": "GET, POST, DELETE"})
        elif (session := await self._session(headers, send)) is not None:
            if scope["method"] == "DELETE":
                await self._children.drop(session, "the client ended the session")
                await reply(send, 204)
            else:
                await self._get(session, headers, receive, send)

    async def _post(self, headers: dict[str, str], scope: Scope, receive: Receive, send: Send) -> None:
        if headers.get("content-type", "").partition(";")[0].strip().lower() != JSON:
            return await _refuse(send, 415, f"Content-Type must be {JSON}")
        if not accepts(headers, JSON, EVENTS):
            return await _refuse(send, 406, f"Accept must list {JSON} and {EVENTS}")
        body = await read_body(receive)
        if body is None:
            return await _refuse(send, 413, "the request body is too large")
        try:
            message = jsonrpc.from_client(body)
        except InvalidMessage as error:
            return await _refuse(send, 400, error.reason, error.code)
        try:
            await self._dispatch(message, headers, scope, receive, send)
        except BusyError:
            await _refuse(send, 503, "too many requests are waiting for this server", INTERNAL_ERROR, message)
        except FullError as error:
            await _refuse(send, 503, str(error), INTERNAL_ERROR, message)
        except StartError as error:
            await _refuse(send, 500, str(error), INTERNAL_ERROR, message)

    async def _dispatch(
        self, message: Message, headers: dict[str, str], scope: Scope, receive: Receive, send: Send
    ) -> None:
        version = headers.get(PROTOCOL_VERSION)
        session = self._children.find(headers.get(SESSION_ID))
        # A server may negotiate a legacy revision that we have never heard of.
        is_legacy = version in (None, *HANDSHAKE_PROTOCOL_VERSIONS) or (
            session is not None and session.version == version
        )
        if not is_legacy:
            return await self._modern(message, headers, scope, receive, send)
        if message.kind is Kind.REQUEST and message.method == "initialize":
            if session is not None:
                return await _refuse(send, 400, "this session is initialized already", INVALID_REQUEST, message)
            return await self._initialize(message, receive, send)
        if session is None and (session := await self._session(headers, send)) is None:
            return None
        with self._children.using(session):
            call = session.submit(message) if message.kind is Kind.REQUEST else None
            async with while_connected(receive):
                await session.child.written()
                if call is not None:
                    await self._legacy_response(call, session, send)
                elif message.kind is Kind.RESPONSE and not session.answer(message):
                    await _refuse(send, 400, "no request to the client with this id is open")
                else:
                    if message.kind is Kind.NOTIFICATION:
                        session.notify(message)
                    await reply(send, 202)
        return None

    async def _session(self, headers: dict[str, str], send: Send) -> Session | None:
        """The session of the request; None when the request has been refused."""
        session_id = headers.get(SESSION_ID)
        session = self._children.find(session_id)
        if session_id is None:
            await _refuse(send, 400, "the Mcp-Session-Id header is missing; a session begins with initialize")
        elif session is None:
            await _refuse(send, 404, "there is no such session, or no more; begin a new one with initialize")
        return session

    async def _initialize(self, message: Message, receive: Receive, send: Send) -> None:
        session = await self._children.open(message)
        call = session.submit(message)
        events = None
        async with while_connected(receive):
            with anyio.move_on_after(START_PATIENCE):
                with call.stream.followed_by() as reader:
                    events = await call.stream.after(0, reader)
        answer = events[-1].message if events else None
        if answer is not None and call.failed is None:
            version = jsonrpc.from_server(answer).value(("result", "protocolVersion"))
            self._children.establish(session, version if isinstance(version, str) else "")
            return await reply(send, 200, answer, {SESSION_ID: session.id})
        # Nobody will know this session: its server goes, also when the client has left before the answer.
        await self._children.drop(session, "it was not initialized")
        if answer is None:
            why = f"no answer to initialize in {START_PATIENCE:g} seconds"
            answer = jsonrpc.error(call.client_id, INTERNAL_ERROR, why)
        return await reply(send, 200, answer)

    async def _legacy_response(self, call: Call, session: Session, send: Send) -> None:
        """A client that goes away has not cancelled: the call goes on, and its stream waits for a GET to resume it."""
        with call.stream.followed_by() as reader:
            events = None
            with anyio.move_on_after(LEGACY_COMMIT):
                events = await call.stream.after(0, reader)
            if events is not None and len(events) == 1 and call.stream.ended:
                await reply(send, 200, events[0].message)
            else:
                session.keep(call.stream)
                prime = is_version_at_least(session.version, "2025-11-25")
                await reply_stream(send, call.stream, 0, reader, ids=True, prime=prime)

    async def _get(self, session: Session, headers: dict[str, str], receive: Receive, send: Send) -> None:
        if not accepts(headers, EVENTS):
            return await _refuse(send, 406, f"Accept must list {EVENTS}")
        last = headers.get("last-event-id")
        event_id = _event_id.fullmatch(last or f"{STANDALONE}-{session.standalone.read}")
        stream = session.find_stream(int(event_id[1])) if event_id is not None else None
        if event_id is None or stream is None:
            return await _refuse(send, 400, "the stream of this Last-Event-ID is not kept any more")
        prime = last is None and is_version_at_least(session.version, "2025-11-25")
        with self._children.using(session), stream.followed_by() as reader:
            async with while_connected(receive):
                await reply_stream(send, stream, int(event_id[2]), reader, ids=True, prime=prime)
        return None

    async def _modern(
        self, message: Message, headers: dict[str, str], scope: Scope, receive: Receive, send: Send
    ) -> None:
        shared = await self._children.shared()
        if shared is None:
            # As a server of before 2026-07-28 answers. A modern error would say that this is a modern server.
            why = f"Unsupported protocol version; this server speaks {', '.join(HANDSHAKE_PROTOCOL_VERSIONS)}"
            return await _refuse(send, 400, why, INVALID_REQUEST, message)
        if message.kind is Kind.NOTIFICATION:
            return await reply(send, 202)
        if message.kind is Kind.RESPONSE:
            return await _refuse(send, 400, "a 2026-07-28 client sends no responses")
        pairs = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]]
        if (name := find_duplicated_routing_header(pairs)) is not None:
            return await _refuse(send, 400, f"the {name} header is given twice", HEADER_MISMATCH, message)
        route = classify_inbound_request(message.body, headers=headers)
        if isinstance(route, InboundLadderRejection):
            status = ERROR_CODE_HTTP_STATUS.get(route.code, 400)
            return await reply(send, status, jsonrpc.error(message.bytes_of(ID), route.code, route.message, route.data))
        with self._children.using(shared):
            call = shared.submit(message)
            try:
                async with while_connected(receive):
                    await shared.child.written()
                    await self._modern_response(call, send)
            finally:
                shared.cancel(call)
        return None

    async def _modern_response(self, call: Call, send: Send) -> None:
        with call.stream.followed_by() as reader:
            events = None
            with anyio.move_on_after(MODERN_COMMIT):
                events = await call.stream.after(0, reader)
            if events is not None and len(events) == 1 and call.stream.ended:
                await reply(send, ERROR_CODE_HTTP_STATUS.get(call.failed or 0, 200), events[0].message)
            else:
                await reply_stream(send, call.stream, 0, reader, ids=False, prime=False)


async def _refuse(
    send: Send, status: int, why: str, code: int = INVALID_REQUEST, message: Message | None = None
) -> None:
    """A JSON-RPC error with the id of the request, if it has one."""
    request_id = message.bytes_of(ID) if message is not None else None
    await reply(send, status, jsonrpc.error(request_id, code, why))
