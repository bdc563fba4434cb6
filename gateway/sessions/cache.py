"""What one replica remembers of sessions. Never the truth: the store is, and every entry can be dropped at any time."""

from __future__ import annotations

from typing import Generic, TypeVar

T = TypeVar("T")

_STALE = -1
_SECOND_CHANCES = 16


class Entry(Generic[T]):
    """One remembered value. `used` is Unix time; it is fresh while its epoch is the cache's."""

    __slots__ = ("epoch", "key", "used", "value")

    def __init__(self, key: str, value: T, used: float, epoch: int) -> None:
        self.key = key
        self.value = value
        self.used = used
        self.epoch = epoch


class Cache(Generic[T]):
    """Entries by name, which is what a request brings, and by key, which is what a notice of change brings.

    A stale entry stays, so that the same object can be brought up to date and whoever holds it sees that.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self.epoch = 0
        self.by_name: dict[str, Entry[T]] = {}
        self._names: dict[str, str] = {}

    def find(self, name: str) -> Entry[T] | None:
        return self.by_name.get(name)

    def is_fresh(self, entry: Entry[T]) -> bool:
        return entry.epoch == self.epoch

    def put(self, name: str, key: str, value: T, used: float) -> Entry[T]:
        """Remembers a value just read; makes room by forgetting one that has not been used lately."""
        if name not in self.by_name and len(self.by_name) >= self._size:
            self._make_room(used)
        entry = self.by_name[name] = Entry(key, value, used, self.epoch)
        self._names[key] = name
        return entry

    def mark_stale(self, key: str) -> None:
        name = self._names.get(key)
        if name is not None:
            self.by_name[name].epoch = _STALE

    def mark_all_stale(self) -> None:
        self.epoch += 1

    def drop(self, key: str) -> None:
        name = self._names.pop(key, None)
        if name is not None:
            del self.by_name[name]

    def _make_room(self, now: float) -> None:
        # The oldest entries get a second chance if they were used within the last minute: close to
        # least-recently-used, at no cost to the look-up.
        for _ in range(_SECOND_CHANCES):
            name = next(iter(self.by_name))
            entry = self.by_name.pop(name)
            if now - entry.used >= 60.0:
                break
            self.by_name[name] = entry
        else:
            name = next(iter(self.by_name))
            entry = self.by_name.pop(name)
        del self._names[entry.key]
