"""How much each open stream holds, so that the oldest events can go without counting in the database."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from gateway.bridge.stream_log import MAX_BYTES, MAX_EVENTS

Key = tuple[str, str]
"""(session, stream)"""

_MOST_STREAMS = 10_000
_MOST_EVENTS = 500_000


class _Size:
    __slots__ = ("events", "total")

    def __init__(self, events: Iterable[tuple[int, int]] = ()) -> None:
        self.events = deque(events)
        self.total = sum(length for _, length in self.events)


class Sizes:
    """By stream, (sequence number, length) of each event, oldest first. What is not known here is in the database."""

    def __init__(self) -> None:
        self._sizes: dict[Key, _Size] = {}
        self._events = 0

    def __contains__(self, key: Key) -> bool:
        return key in self._sizes

    def begin(self, keys: Iterable[Key]) -> None:
        """These streams are new and empty."""
        for key in keys:
            self._keep(key, _Size())

    def load(self, key: Key, events: list[tuple[int, int]]) -> None:
        """This is what the stream holds."""
        self._keep(key, _Size(events))

    def add(self, key: Key, seq: int, length: int) -> None:
        """An event was added to a stream that is known here, or was until too many were."""
        size = self._sizes.get(key)
        if size is not None:
            size.events.append((seq, length))
            size.total += length
            self._events += 1

    def cut(self, keys: Iterable[Key]) -> dict[Key, int]:
        """For streams that hold too much: up to which number their events must go. They count as gone from now on."""
        cuts: dict[Key, int] = {}
        for key in keys:
            size = self._sizes.get(key)
            while size is not None and len(size.events) > 1 and _is_too_much(size):
                seq, length = size.events.popleft()
                size.total -= length
                self._events -= 1
                cuts[key] = seq
        return cuts

    def forget(self, keys: Iterable[Key]) -> None:
        for key in keys:
            size = self._sizes.pop(key, None)
            if size is not None:
                self._events -= len(size.events)

    def _keep(self, key: Key, size: _Size) -> None:
        self.forget([key])
        while self._sizes and (len(self._sizes) >= _MOST_STREAMS or self._events >= _MOST_EVENTS):
            self.forget([next(iter(self._sizes))])
        self._sizes[key] = size
        self._events += len(size.events)


def _is_too_much(size: _Size) -> bool:
    return len(size.events) > MAX_EVENTS or size.total > MAX_BYTES
