"""The first revision's transport: one standing GET carries all answers, POSTs are acknowledged only.

The replica that holds the socket does all the work of a channel. A POST that reaches another replica is put into the
stream log and the owner is told, so a load balancer needs no affinity.
"""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass, field
from typing import Any, Final

import structlog

from gateway import jsonrpc
from gateway.bridge.announcements import Announcements
from gateway.bridge.stream_log import StreamLog
from gateway.calls import Caller, Message, Principal
from gateway.edge.decoding import Refused, decode, read_json_body
from gateway.edge.http import EVENT_STREAM, Request, accepts
from gateway.edge.methods import LegacyMethods, caller_of
from gateway.edge.outlets import Plain, message_text
from gateway.edge.replies import Reply, for_error
from gateway.edge.standing import Standing
from gateway.edge.subscriptions import Subscriptions
from gateway.errors import GatewayError, InvalidParams, SessionGone
from gateway.sessions.changes import Changes
from gateway.sessions.model import GatewaySession

log = structlog.get_logger()

RELAYED: Final = "sse"
"""The kind of change that says: a POST for this channel waits in the stream log."""

_PLAIN: Final = Plain()
_DOOR: Final = "door"


@dataclass(slots=True, eq=False)
class Channel:
    """One standing GET on this replica."""

    key: str
    principal: Principal
    standing: Standing
    session: GatewaySession | None = None
    tasks: set[asyncio.Task[None]] = field(default_factory=set)


class ChannelOutlet:
    """The outlet of a request on a channel: everything goes down the one stream."""

    def __init__(self, channel: Channel, methods: LegacyMethods) -> None:
        self._channel = channel
        self._methods = methods

    async def send(self, message: Message) -> None:
        """Queues a notification or a server request."""
        session = self._channel.session
        naming = None if session is None else self._methods.naming(session)
        self._channel.standing.push(message_text(message, naming))

    def opened(self) -> None:
        """The stream is open anyway."""


class HttpSse:
    """GET and POST at `/sse`."""

    def __init__(
        self,
        methods: LegacyMethods,
        announcements: Announcements,
        subscriptions: Subscriptions,
        stream_log: StreamLog,
        changes: Changes,
        *,
        keep_alive: float,
        max_body: int,
    ) -> None:
        self._methods = methods
        self._announcements = announcements
        self._subscriptions = subscriptions
        self._log = stream_log
        self._changes = changes
        self._keep_alive = keep_alive
        self._max_body = max_body
        self._channels: dict[str, Channel] = {}
        self._relaying: set[asyncio.Task[None]] = set()
        changes.subscribe(RELAYED, self._relayed)

    async def get(self, request: Request, principal: Principal) -> None:
        """Opens a channel: an `endpoint` event first, then messages."""
        if not accepts(request.headers.get("accept"), EVENT_STREAM):
            raise Refused(Reply(406, -32600, f"Accept must list {EVENT_STREAM}"))
        standing = Standing(request, _PLAIN.event, keep_alive=self._keep_alive)
        channel = Channel(secrets.token_urlsafe(32), principal, standing)
        self._channels[channel.key] = channel
        await self._log.open(_mailbox(channel.key, principal), _DOOR)
        close = None
        try:
            close = self._announcements.open(
                Caller(principal, "", "2024-11-05", {}), lambda method: self._announce(channel, method)
            )
            await standing.run(f"event: endpoint\ndata: /sse?channel={channel.key}\n\n".encode())
        finally:
            del self._channels[channel.key]
            if close is not None:
                close()
            for task in tuple(channel.tasks):
                task.cancel()
            await asyncio.gather(*channel.tasks, return_exceptions=True)
            await self._log.end(_mailbox(channel.key, principal), _DOOR)
            if channel.session is not None:
                await self._methods.close(channel.session)

    @staticmethod
    def _announce(channel: Channel, method: str) -> None:
        if channel.session is not None:
            channel.standing.push(jsonrpc.dumps({"jsonrpc": "2.0", "method": method}), once=True)

    async def post(self, request: Request, principal: Principal) -> None:
        """Takes one message for a channel, here or on the replica that holds it."""
        key = _channel_of(request)
        body = await read_json_body(request, self._max_body)
        message = await decode(body)
        jsonrpc.kind_of(message)  # while there is still a response that can say so
        channel = self._channels.get(key)
        if channel is None:
            await self._relay(key, principal, body)
        elif channel.principal.id != principal.id:
            raise SessionGone("not this principal's")
        else:
            self._begin(channel, message)
        await request.respond(202, b"Accepted", json=False)

    async def _relay(self, key: str, principal: Principal, body: bytes) -> None:
        mailbox = _mailbox(key, principal)
        page = await self._log.read(mailbox, _DOOR, 0)
        if not page.known or page.ended:
            raise SessionGone("no such channel")
        letter = secrets.token_hex(12)
        await self._log.open(mailbox, letter)
        await self._log.append(mailbox, letter, 1, body)
        await self._log.end(mailbox, letter)
        self._changes.publish(RELAYED, f"{key}:{letter}")

    def _relayed(self, change: str) -> None:
        key, _, letter = change.partition(":")
        if (channel := self._channels.get(key)) is not None:
            task = asyncio.get_running_loop().create_task(self._fetch(channel, letter))
            self._relaying.add(task)
            task.add_done_callback(self._relaying.discard)

    async def _fetch(self, channel: Channel, letter: str) -> None:
        page = await self._log.read(_mailbox(channel.key, channel.principal), letter, 0)
        for _, body in page.events:
            self._begin(channel, await decode(body))

    def _begin(self, channel: Channel, message: dict[str, Any]) -> None:
        task = asyncio.create_task(self._take(channel, message))
        channel.tasks.add(task)
        task.add_done_callback(channel.tasks.discard)

    async def _take(self, channel: Channel, message: dict[str, Any]) -> None:
        try:
            await self._answer(channel, message)
        except GatewayError as error:
            reply = for_error(error, method=str(message.get("method")), revision="2024-11-05", modern=False)
            if "id" in message:
                channel.standing.push(reply.body(message["id"]))
        except Exception:
            log.exception("request_failed", method=message.get("method"))

    async def _answer(self, channel: Channel, message: dict[str, Any]) -> None:
        kind = jsonrpc.kind_of(message)
        session = channel.session
        if kind is jsonrpc.Kind.REQUEST and message["method"] == "initialize":
            if session is not None:
                raise InvalidParams("this channel has been initialized")
            channel.session, body = await self._methods.initialize(channel.principal, "sse", message)
            channel.standing.push(body)
            caller = caller_of(channel.session, channel.principal)
            await self._subscriptions.follow(channel.session, caller, channel.standing)
        elif session is None:
            if kind is jsonrpc.Kind.REQUEST:
                channel.standing.push(Reply(400, -32600, "initialize first").body(message["id"]))
        elif kind is jsonrpc.Kind.REQUEST:
            outlet = ChannelOutlet(channel, self._methods)
            answered = await self._methods.answer(session, channel.principal, message, outlet)
            if answered is not None:
                channel.standing.push(answered[1])
        elif kind is jsonrpc.Kind.RESPONSE:
            await self._methods.response(session, message)
        else:
            await self._methods.notification(session, message)

    def end_all(self) -> None:
        """Ends every channel."""
        for channel in tuple(self._channels.values()):
            channel.standing.end()


def _channel_of(request: Request) -> str:
    query = request.scope.get("query_string", b"").decode("latin-1")
    for part in query.split("&"):
        name, _, value = part.partition("=")
        if name == "channel":
            return str(value)
    raise SessionGone("no channel named")


def _mailbox(key: str, principal: Principal) -> str:
    """Bound to the principal: nobody else's POST finds the channel."""
    return f"sse:{key}:{principal.id}"
