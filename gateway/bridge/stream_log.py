"""The port of the stream log: events of legacy clients' streams, which any replica can replay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from gateway.sessions.model import session_key

KIND = "stream"
"""The kind of change under which `announced_id` is published at every append and end."""

MAX_EVENTS = 1_000
MAX_BYTES = 1024 * 1024
"""What is kept of one stream: the newest event always, older ones while they fit both bounds."""

KEPT_AFTER_END = 15 * 60.0
"""Seconds."""


class StreamUnknown(LookupError):
    """The stream was never opened for this session, or is purged."""


@dataclass(frozen=True, slots=True)
class StreamPage:
    """What a stream holds after some event: (sequence number, event) in order.

    `ended` is true only if nothing will follow these events. `known` is false for a stream that is not the session's.
    When the first number is not the one that was to follow, older events have gone.
    """

    events: list[tuple[int, bytes]]
    ended: bool
    known: bool


class StreamLog(Protocol):
    """Streams by (session, stream). A session is given by its id or by its key; only the key is kept.

    Sequence numbers ascend; the writer chooses them. Raises StorageUnavailable.
    """

    async def open(self, session: str, stream: str) -> None:
        """Makes an empty stream; one that exists stays as it is."""

    async def append(
        self, session: str, stream: str, seq: int, event: bytes, upstream_event_id: str | None = None
    ) -> None:
        """Adds an event; it is durable when this returns. The same event again is no error, another one is.

        Raises:
            StreamUnknown: there is no such stream.
            ValueError: another event has this number.
        """

    async def end(self, session: str, stream: str) -> None:
        """Notes that nothing will follow."""

    async def read(self, session: str, stream: str, after: int) -> StreamPage:
        """The events whose number is greater than `after`."""


def holder_of(session: str) -> str:
    """The key under which a session's streams are kept."""
    return session if ":" in session else session_key(session)


def announced_id(session: str, stream: str) -> str:
    """The id under which changes of a stream are published."""
    return f"{holder_of(session)}/{stream}"
