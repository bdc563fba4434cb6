"""Streams that a client of revision 2025-11-25 can come back to after its connection broke."""

from collections import deque
from typing import Any

from mcp.server.streamable_http import EventCallback, EventMessage, EventStore, StreamableHTTPServerTransport
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp_types import JSONRPCMessage


class RecentEvents(EventStore):
    """The last events of one session."""

    def __init__(self) -> None:
        self._events: deque[tuple[int, str, JSONRPCMessage | None]] = deque(maxlen=256)
        self._number = 0

    async def store_event(self, stream_id: str, message: JSONRPCMessage | None) -> str:
        self._number += 1
        self._events.append((self._number, stream_id, message))
        return str(self._number)

    async def replay_events_after(self, last_event_id: str, send_callback: EventCallback) -> str | None:
        stream_id = next((stream for number, stream, _ in self._events if str(number) == last_event_id), None)
        for number, stream, message in list(self._events):
            if stream == stream_id and number > int(last_event_id) and message is not None:
                await send_callback(EventMessage(message, str(number)))
        return stream_id


class ResumableSessions(StreamableHTTPSessionManager):
    """Each session has events of its own, since streams are numbered within one: `1` here is not `1` there."""

    def _admit_session(self, requestor: Any) -> StreamableHTTPServerTransport | None:
        self.event_store = RecentEvents()
        return super()._admit_session(requestor)
