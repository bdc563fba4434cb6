"""What HTTP responses carry: messages in order, kept so that a reader whose connection broke can go on reading."""

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

MAX_EVENTS: Final = 1024
MAX_BYTES: Final = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Event:
    position: int
    """1, 2, 3 … in its stream."""
    message: bytes
    droppable: bool


class Stream:
    """An append-only list that at most one reader follows; it neither waits for the reader nor needs one.

    A replayable stream keeps what was read, for a reader that comes back. Beyond the limits above the oldest events go,
    of those that were read or may be dropped: an unread response or question is never lost.
    """

    def __init__(self, number: int, *, replayable: bool) -> None:
        self.number = number
        self.read = 0
        """The position up to which a reader has been given events."""
        self.ended = False
        self.bytes_kept = 0
        self._replayable = replayable
        self._reader: object | None = None
        self._events: deque[Event] = deque()
        self._position = 0
        self._changed = asyncio.Event()

    @property
    def full(self) -> bool:
        return len(self._events) > MAX_EVENTS or self.bytes_kept > MAX_BYTES

    @property
    def followed(self) -> bool:
        return self._reader is not None

    def append(self, message: bytes, *, droppable: bool = False) -> None:
        if self.ended:
            return
        self._position += 1
        self._events.append(Event(self._position, message, droppable))
        self.bytes_kept += len(message)
        while self.full and (dispensable := self._oldest_dispensable()) is not None:
            self._drop(dispensable)
        self._wake()

    def end(self, message: bytes | None = None) -> None:
        """No more messages after this one."""
        if message is not None:
            self.append(message)
        self.ended = True
        self._wake()

    @contextmanager
    def followed_by(self) -> Iterator[object]:
        """Be the one reader. A connection that broke unnoticed must not go on reading beside its successor."""
        reader = self._reader = object()
        self._wake()
        try:
            yield reader
        finally:
            if self._reader is reader:
                self._reader = None

    async def after(self, position: int, reader: object) -> list[Event] | None:
        """The events behind `position`, waiting for one; None when there will be none for this reader."""
        while self._reader is reader:
            self.read = max(self.read, position)
            while not self._replayable and self._events and self._events[0].position <= self.read:
                self._drop(self._events[0])
            if events := [event for event in self._events if event.position > position]:
                return events
            if self.ended:
                break
            await self._changed.wait()
        return None

    def _oldest_dispensable(self) -> Event | None:
        newest = self._events[-1]
        return next((e for e in self._events if e is not newest and (e.droppable or e.position <= self.read)), None)

    def _drop(self, event: Event) -> None:
        self._events.remove(event)
        self.bytes_kept -= len(event.message)

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
