"""Streamable HTTP with sessions: 2025-03-26, 2025-06-18, 2025-11-25."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

import structlog
from mcp.shared.inbound import MCP_PROTOCOL_VERSION_HEADER
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS, is_version_at_least

from gateway import jsonrpc
from gateway.bridge.announcements import Announcements
from gateway.bridge.stream_log import StreamLog
from gateway.calls import Caller, Principal
from gateway.edge.decoding import Refused
from gateway.edge.http import EVENT_STREAM, Request, accepts
from gateway.edge.methods import LegacyMethods, caller_of
from gateway.edge.outlets import Plain, PostOutlet
from gateway.edge.replay import Logged, Replays
from gateway.edge.replies import Reply
from gateway.edge.standing import Standing
from gateway.edge.subscriptions import Subscriptions
from gateway.sessions.changes import Changes
from gateway.sessions.model import GatewaySession
from gateway.sessions.registry import SessionRegistry

log = structlog.get_logger()

SESSION_HEADER: Final = "mcp-session-id"
BATCH: Final = 100
"""Messages in one batch: each of its requests is a task and, on a stream, an event that is kept."""

_PLAIN: Final = Plain()


class Streamable:
    """POST, GET and DELETE of legacy sessions."""

    def __init__(
        self,
        methods: LegacyMethods,
        registry: SessionRegistry,
        announcements: Announcements,
        subscriptions: Subscriptions,
        stream_log: StreamLog,
        changes: Changes,
        *,
        grace: float,
        keep_alive: float,
    ) -> None:
        self._methods = methods
        self._registry = registry
        self._announcements = announcements
        self._subscriptions = subscriptions
        self._stream_log = stream_log
        self._changes = changes
        self._grace = grace
        self._keep_alive = keep_alive
        self._replays = Replays(stream_log, changes, keep_alive=keep_alive)
        self._streams: dict[str, Standing] = {}

    async def session(self, request: Request, principal: Principal, endpoint: str) -> GatewaySession:
        """The session that the request names.

        Raises:
            Refused: no session header (400), or a protocol version that does not exist (400).
            SessionGone: no such session for this principal at this endpoint (404).
        """
        session_id = request.headers.get(SESSION_HEADER)
        if session_id is None:
            raise Refused(Reply(400, -32600, "Mcp-Session-Id header is missing; initialize first"))
        version = request.headers.get(MCP_PROTOCOL_VERSION_HEADER)
        if version is not None and version not in HANDSHAKE_PROTOCOL_VERSIONS:
            raise Refused(
                Reply(400, -32600, f"MCP-Protocol-Version is none of {', '.join(HANDSHAKE_PROTOCOL_VERSIONS)}")
            )
        return self._registry.find_cached(session_id, principal.id, endpoint) or await self._registry.resolve(
            session_id, principal.id, endpoint
        )

    async def initialize(self, request: Request, principal: Principal, endpoint: str, message: dict[str, Any]) -> None:
        """Answers `initialize` with a new session's id."""
        session, body = await self._methods.initialize(principal, endpoint, message)
        await request.respond(200, body, [(SESSION_HEADER.encode(), session.id.encode())])

    async def post(self, request: Request, principal: Principal, endpoint: str, message: dict[str, Any]) -> None:
        """Answers one decoded message on a session."""
        kind = jsonrpc.kind_of(message)
        if kind is jsonrpc.Kind.REQUEST and message["method"] == "initialize":
            await self.initialize(request, principal, endpoint, message)
            return
        session = await self.session(request, principal, endpoint)
        if kind is not jsonrpc.Kind.REQUEST:
            await self._unanswered(session, kind, message)
            await request.respond(202)
            return
        outlet = self._outlet(request, session)
        try:
            answered = await self._methods.answer(session, principal, message, outlet)
            if answered is None:  # cancelled: nothing more is said about it, but HTTP needs an end
                outlet.opened()
            else:
                await outlet.finish(*answered)
        finally:
            await outlet.close()

    def _outlet(self, request: Request, session: GatewaySession) -> PostOutlet:
        revision = session.protocol_version
        primed = is_version_at_least(revision, "2025-11-25")
        return PostOutlet(
            request,
            Logged(self._stream_log, session.upstreams.key, primed=primed),
            grace=self._grace,
            keep_alive=self._keep_alive,
            naming=self._methods.naming(session),
            survives=True,
        )

    async def _unanswered(self, session: GatewaySession, kind: jsonrpc.Kind, message: Mapping[str, Any]) -> None:
        if kind is jsonrpc.Kind.RESPONSE:
            await self._methods.response(session, message)
        else:
            await self._methods.notification(session, message)

    async def batch(
        self, request: Request, principal: Principal, endpoint: str, messages: list[dict[str, Any]]
    ) -> None:
        """A JSON-RPC batch, which only 2025-03-26 has; answered with one array (basic/transports of that revision)."""
        session = await self.session(request, principal, endpoint)
        if session.protocol_version != "2025-03-26":
            raise Refused(Reply(400, -32600, "Batches belong to revision 2025-03-26 only"))
        if len(messages) > BATCH:
            raise Refused(Reply(413, -32600, f"A batch holds at most {BATCH} messages"))
        kinds = [jsonrpc.kind_of(message) for message in messages]
        if any(message.get("method") == "initialize" for message in messages):
            raise Refused(Reply(400, -32600, "initialize must not be part of a batch"))
        requests = [m for m, kind in zip(messages, kinds, strict=True) if kind is jsonrpc.Kind.REQUEST]
        for message, kind in zip(messages, kinds, strict=True):
            if kind is not jsonrpc.Kind.REQUEST:
                await self._unanswered(session, kind, message)
        if not requests:
            await request.respond(202)
            return
        outlet = self._outlet(request, session)
        try:
            tasks = [
                asyncio.create_task(self._methods.answer(session, principal, message, outlet)) for message in requests
            ]
            bodies = [answered[1] for task in asyncio.as_completed(tasks) if (answered := await task) is not None]
            if outlet.streaming or not bodies:  # all cancelled: an empty array would be an answer
                outlet.opened()
                for body in bodies:
                    await outlet.write(body)
            else:
                await outlet.finish(200, b"[" + b",".join(bodies) + b"]")
        finally:
            await outlet.close()

    async def get(self, request: Request, principal: Principal, endpoint: str) -> None:
        """The standing stream of a session, or the replay of a broken one."""
        if not accepts(request.headers.get("accept"), EVENT_STREAM):
            raise Refused(Reply(406, -32600, f"Accept must list {EVENT_STREAM}"))
        session = await self.session(request, principal, endpoint)
        last_event_id = request.headers.get("last-event-id")
        if last_event_id is not None and await self._replays.serve(request, session.upstreams.key, last_event_id):
            return
        await self._stand(request, session, caller_of(session, principal))

    async def _stand(self, request: Request, session: GatewaySession, caller: Caller) -> None:
        standing = Standing(request, _PLAIN.event, keep_alive=self._keep_alive)
        key = session.upstreams.key
        if (older := self._streams.get(key)) is not None:
            older.end()  # each message goes to one stream, so a session has one: the newest
        self._streams[key] = standing

        close = self._announcements.open(caller, lambda method: standing.push(_notification(method), once=True))
        following = asyncio.create_task(self._subscriptions.follow(session, caller, standing))
        try:
            await standing.run(b": open\n\n")
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
            close()
            if self._streams.get(key) is standing:
                del self._streams[key]

    async def delete(self, request: Request, principal: Principal, endpoint: str) -> None:
        """Ends a session."""
        session = await self.session(request, principal, endpoint)
        await self._methods.close(session)
        if (standing := self._streams.get(session.upstreams.key)) is not None:
            standing.end()
        await request.respond(200)

    def end_all(self) -> None:
        """Ends every standing stream; clients reconnect, elsewhere if this replica goes away."""
        for standing in tuple(self._streams.values()):
            standing.end()


def _notification(method: str) -> bytes:
    return jsonrpc.dumps({"jsonrpc": "2.0", "method": method})
