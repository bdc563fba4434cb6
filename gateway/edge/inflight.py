"""Requests in flight of legacy sessions, so that a cancellation finds them: here, or told to the other replicas."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

from gateway import jsonrpc
from gateway.sessions.changes import Changes

CANCEL: Final = "cancel"
"""The kind of change under which cancellations travel."""
LONGEST_ID: Final = 200
"""Characters of a request id that are told to other replicas; no client counts that far."""


@dataclass(slots=True, eq=False)
class Flight:
    """One request in flight; `cancelled` is set when its client asked for that."""

    key: str
    task: asyncio.Task[object]
    cancelled: bool = False


class InFlight:
    """Keyed by session and request id with its JSON type: 1 and "1" are different requests."""

    def __init__(self, changes: Changes) -> None:
        self._changes = changes
        self._flights: dict[str, Flight] = {}
        changes.subscribe(CANCEL, self._told)

    def begin(self, session_key: str, request_id: str | int) -> Flight:
        """Enters the current task as the one that answers the request."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - requests are answered in tasks
        flight = Flight(_key(session_key, request_id), task)
        self._flights[flight.key] = flight
        return flight

    def end(self, flight: Flight) -> None:
        """The request is answered."""
        if self._flights.get(flight.key) is flight:
            del self._flights[flight.key]

    def cancel(self, session_key: str, request_id: object) -> None:
        """Cancels the request on whichever replica runs it; one that is not running is ignored."""
        if not isinstance(request_id, str | int) or isinstance(request_id, bool) or len(str(request_id)) > LONGEST_ID:
            return
        key = _key(session_key, request_id)
        if not self._cancel_here(key):
            self._changes.publish(CANCEL, key)

    def _told(self, key: str) -> None:
        self._cancel_here(key)

    def _cancel_here(self, key: str) -> bool:
        flight = self._flights.get(key)
        if flight is None:
            return False
        flight.cancelled = True
        flight.task.cancel()
        return True


def _key(session_key: str, request_id: str | int) -> str:
    return f"{session_key}:{jsonrpc.dumps(request_id).decode()}"  # integers of any size
