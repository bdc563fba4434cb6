"""Reading into a cache that others invalidate.

A value may change between the moment the store reads it and the moment it would enter the cache; the notice of that
change has then been spent already, and the old value would stay. So every load can be overtaken, and what was
overtaken is given to those who wait for it but is not kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Load(Generic[T]):
    """One load under way; `current` until a change overtakes it."""

    __slots__ = ("current", "task")

    def __init__(self) -> None:
        self.current = True
        self.task: asyncio.Task[T]


class Loads(Generic[T]):
    """At most one current load per key; whoever asks meanwhile shares it."""

    def __init__(self) -> None:
        self._running: dict[str, Load[T]] = {}

    async def shared(self, key: str, read: Callable[[Load[T]], Awaitable[T]]) -> T:
        """What `read` returns. It decides, without awaiting in between, by `load.current` whether to keep it."""
        load = self._running.get(key)
        if load is None:
            load = Load()
            # A task of its own: the first to ask may be cancelled while others wait.
            load.task = asyncio.create_task(self._run(key, load, read))
            self._running[key] = load
        return await asyncio.shield(load.task)

    def overtake(self, key: str) -> None:
        """The key has changed: the load under way is not to be kept, and who asks from now on starts another."""
        load = self._running.pop(key, None)
        if load is not None:
            load.current = False

    def overtake_all(self) -> None:
        for key in list(self._running):
            self.overtake(key)

    async def _run(self, key: str, load: Load[T], read: Callable[[Load[T]], Awaitable[T]]) -> T:
        try:
            return await read(load)
        finally:
            if self._running.get(key) is load:
                del self._running[key]
