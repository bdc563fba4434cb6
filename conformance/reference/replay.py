"""The event log that lets a client of 2025-11-25 leave a stream and come back to it."""

from collections import deque
from itertools import count

from mcp.server.streamable_http import EventCallback, EventId, EventMessage, EventStore, StreamId
from mcp_types import JSONRPCMessage

KEPT_EVENTS = 1000


class SessionLog(EventStore):
    """The events of one session, newest `KEPT_EVENTS` only.

    One log per session and not one per server: the SDK names a stream after the JSON-RPC id of its request, and two
    clients use the same ids. In a shared log one could be replayed the other's events.
    """

    def __init__(self) -> None:
        self._events: deque[tuple[EventId, StreamId, JSONRPCMessage | None]] = deque(maxlen=KEPT_EVENTS)
        self._numbers = count(1)

    async def store_event(self, stream_id: StreamId, message: JSONRPCMessage | None) -> EventId:
        event_id = f"{stream_id}-{next(self._numbers)}"
        self._events.append((event_id, stream_id, message))
        return event_id

    async def replay_events_after(self, last_event_id: EventId, send_callback: EventCallback) -> StreamId | None:
        events = list(self._events)
        position = next((index for index, event in enumerate(events) if event[0] == last_event_id), None)
        if position is None:
            return None
        stream = events[position][1]
        for event_id, stream_id, message in events[position + 1 :]:
            # Priming events hold no message: they only mark a position to resume from.
            if stream_id == stream and message is not None:
                await send_callback(EventMessage(message, event_id))
        return stream
