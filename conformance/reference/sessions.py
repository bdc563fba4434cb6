"""What the revisions up to 2025-11-25 keep per session: the log level, the watched resources, whom to notify."""

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import get_args

import anyio
import mcp_types as types
from mcp.server.context import CallNext, HandlerResult
from mcp.server.session import ServerSession

from conformance.reference.rounds import Context

# Oldest sessions are forgotten first. A forgotten session still works, it only misses notifications.
KEPT_SESSIONS = 256

_LEVELS: tuple[types.LoggingLevel, ...] = get_args(types.LoggingLevel)

ListChanged = (
    types.ToolListChangedNotification | types.PromptListChangedNotification | types.ResourceListChangedNotification
)


@dataclass
class _Session:
    channel: ServerSession
    level: types.LoggingLevel = "debug"
    watched: set[str] = field(default_factory=set)


class Sessions:
    def __init__(self) -> None:
        self._known: OrderedDict[str, _Session] = OrderedDict()

    async def remember(self, ctx: Context, call_next: CallNext) -> HandlerResult:
        """Server middleware: a session is worth notifying once its client says that it is initialized."""
        if ctx.method == "notifications/initialized" and (key := self._key(ctx)) is not None:
            self._known[key] = _Session(ctx.session)
            while len(self._known) > KEPT_SESSIONS:
                self._known.popitem(last=False)
        return await call_next(ctx)

    def set_level(self, context: Context, level: types.LoggingLevel) -> None:
        if (session := self._session(context)) is not None:
            session.level = level

    def wants(self, context: Context, level: types.LoggingLevel) -> bool:
        """Whether the session's level lets a log message through; requests without a session carry their own level."""
        session = self._session(context)
        return session is None or _LEVELS.index(level) >= _LEVELS.index(session.level)

    def watch(self, context: Context, uri: str) -> None:
        if (session := self._session(context)) is not None:
            session.watched.add(uri)

    def unwatch(self, context: Context, uri: str) -> None:
        if (session := self._session(context)) is not None:
            session.watched.discard(uri)

    async def list_changed(self, notification: ListChanged) -> None:
        for session in list(self._known.values()):
            await self._notify(session, notification)

    async def resource_updated(self, uri: str) -> None:
        notification = types.ResourceUpdatedNotification(params=types.ResourceUpdatedNotificationParams(uri=uri))
        for session in list(self._known.values()):
            if uri in session.watched:
                await self._notify(session, notification)

    async def _notify(self, session: _Session, notification: types.ServerNotification) -> None:
        # A client that has stopped reading its stream must not hold up the others.
        with anyio.move_on_after(1):
            await session.channel.send_notification(notification)

    def _session(self, context: Context) -> _Session | None:
        key = self._key(context)
        return self._known.get(key) if key is not None else None

    @staticmethod
    def _key(context: Context) -> str | None:
        return context.request.headers.get("mcp-session-id") if context.request is not None else None
