"""The storage ports in memory. They keep what the Postgres adapters keep, and the same contract suites hold them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection

from gateway.bridge.stream_log import (
    KIND,
    MAX_BYTES,
    MAX_EVENTS,
    StreamPage,
    StreamUnknown,
    announced_id,
    holder_of,
)
from gateway.errors import StorageUnavailable
from gateway.identity.model import KeyRecord
from gateway.sessions.changes import EVERYTHING, Changes
from gateway.sessions.model import UpstreamSession
from gateway.sessions.store import StoredSession


class MemoryBus:
    """Joins the `MemoryChanges` of several replicas; `held` keeps back what one tells the others."""

    def __init__(self) -> None:
        self.replicas: list[MemoryChanges] = []
        self.held = False
        self._waiting: list[tuple[MemoryChanges, str, str]] = []

    def send(self, sender: MemoryChanges, kind: str, changed: str) -> None:
        self._waiting.append((sender, kind, changed))
        if not self.held:
            self.deliver()

    def deliver(self) -> None:
        waiting, self._waiting = self._waiting, []
        for sender, kind, changed in waiting:
            for replica in self.replicas:
                if replica is not sender:
                    replica.tell(kind, changed)


class MemoryChanges:
    """One replica's end of a bus. `healthy` is what a test says."""

    def __init__(self, bus: MemoryBus | None = None) -> None:
        self._bus = bus or MemoryBus()
        self._bus.replicas.append(self)
        self._subscribers: dict[str, list[Callable[[str], None]]] = {}
        self.healthy = True
        self.published: list[tuple[str, str]] = []

    def subscribe(self, kind: str, callback: Callable[[str], None]) -> Callable[[], None]:
        callbacks = self._subscribers.setdefault(kind, [])
        callbacks.append(callback)
        return lambda: callbacks.remove(callback)

    def publish(self, kind: str, id: str) -> None:  # noqa: A002 - it is one
        self.published.append((kind, id))
        self.tell(kind, id)
        self._bus.send(self, kind, id)

    def tell(self, kind: str, changed: str) -> None:
        for callback in tuple(self._subscribers.get(kind, ())):
            callback(changed)

    def reconnect(self) -> None:
        """As after a time in which changes went unheard."""
        self.tell(EVERYTHING, "")
        self.healthy = True


class Availability:
    """Whether a store answers, and how often it was asked."""

    def __init__(self) -> None:
        self.away = False
        self.asked = 0

    def check(self) -> None:
        self.asked += 1
        if self.away:
            raise StorageUnavailable("The store is away.")


class MemorySessionStore(Availability):
    """`SessionStore` in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.sessions: dict[str, StoredSession] = {}
        self.upstreams: dict[tuple[str, str], tuple[UpstreamSession, float]] = {}

    async def create(self, key: str, session: StoredSession) -> None:
        self.check()
        self.sessions[key] = session

    async def find(self, key: str) -> tuple[StoredSession, dict[str, UpstreamSession]] | None:
        self.check()
        session = self.sessions.get(key)
        return None if session is None else (session, self._of(key))

    async def delete(self, key: str) -> list[UpstreamSession]:
        self.check()
        self.sessions.pop(key, None)
        left = list(self._of(key).values())
        for session in left:
            del self.upstreams[key, session.slug]
        return left

    async def set_log_level(self, key: str, level: str | None) -> bool:
        return self._change(key, lambda session: dataclasses.replace(session, log_level=level))

    async def subscribe(self, key: str, uri: str) -> bool:
        return self._change(
            key, lambda session: dataclasses.replace(session, subscriptions=session.subscriptions | {uri})
        )

    async def unsubscribe(self, key: str, uri: str) -> bool:
        return self._change(
            key, lambda session: dataclasses.replace(session, subscriptions=session.subscriptions - {uri})
        )

    async def find_upstreams(self, holder: str) -> dict[str, UpstreamSession]:
        self.check()
        return self._of(holder)

    async def attach(
        self, holder: str, opened: UpstreamSession, replacing: UpstreamSession | None, now: float
    ) -> UpstreamSession | None:
        self.check()
        if holder.startswith("s:") and holder not in self.sessions:
            return None
        kept = self.upstreams.get((holder, opened.slug))
        if kept is not None and not _is_same(kept[0], replacing):
            return kept[0]
        self.upstreams[holder, opened.slug] = (opened, now)
        return opened

    async def detach(self, holder: str, lost: UpstreamSession) -> bool:
        self.check()
        kept = self.upstreams.get((holder, lost.slug))
        if kept is None or not _is_same(kept[0], lost):
            return False
        del self.upstreams[holder, lost.slug]
        return True

    async def touch(self, keys: Collection[str], now: float, apart: float) -> set[str]:
        self.check()
        there = set()
        for key in keys:
            if key in self.sessions:
                there.add(key)
                session = self.sessions[key]
                if session.last_used <= now - apart:
                    self.sessions[key] = dataclasses.replace(session, last_used=now)
        for (holder, slug), (session_there, used) in list(self.upstreams.items()):
            if holder in keys:
                there.add(holder)
                if used <= now - apart:
                    self.upstreams[holder, slug] = (session_there, now)
        return there

    async def purge(self, unused_since: float) -> list[tuple[str, UpstreamSession]]:
        self.check()
        left = []
        for key in [key for key, session in self.sessions.items() if session.last_used < unused_since]:
            del self.sessions[key]
        for (holder, slug), (session, used) in list(self.upstreams.items()):
            is_old = holder not in self.sessions if holder.startswith("s:") else used < unused_since
            if is_old:
                left.append((holder, session))
                del self.upstreams[holder, slug]
        return left

    def _of(self, holder: str) -> dict[str, UpstreamSession]:
        # Copies, as everything that is read from a database is.
        kept = ((slug, session) for (name, slug), (session, _) in self.upstreams.items() if name == holder)
        return {slug: dataclasses.replace(session) for slug, session in kept}

    def _change(self, key: str, change: Callable[[StoredSession], StoredSession]) -> bool:
        self.check()
        if key not in self.sessions:
            return False
        self.sessions[key] = change(self.sessions[key])
        return True


class MemoryKeyStore(Availability):
    """`KeyStore` in memory; its changes come out of every bus end it is given."""

    def __init__(self, *changes: MemoryChanges) -> None:
        super().__init__()
        self.records: dict[str, KeyRecord] = {}
        self._changes = changes

    async def find(self, key_id: str) -> KeyRecord | None:
        self.check()
        return self.records.get(key_id)

    async def all(self) -> list[KeyRecord]:
        self.check()
        return sorted(self.records.values(), key=lambda record: (record.created, record.id))

    async def add(self, record: KeyRecord) -> None:
        self.check()
        self._keep(record)

    async def revoke(self, key_id: str, now: float) -> bool:
        self.check()
        record = self.records.get(key_id)
        if record is None:
            return False
        self._keep(dataclasses.replace(record, revoked=now if record.revoked is None else record.revoked))
        return True

    async def replace(self, key_id: str, expires: float, successor: KeyRecord) -> bool:
        self.check()
        record = self.records.get(key_id)
        if record is None or not record.is_valid_at(successor.created):
            return False
        sooner = expires if record.expires is None else min(expires, record.expires)
        self._keep(dataclasses.replace(record, expires=sooner))
        self._keep(successor)
        return True

    async def renew_mac(self, key_id: str, old: bytes, new: bytes) -> None:
        self.check()
        if self.records[key_id].mac == old:
            self._keep(dataclasses.replace(self.records[key_id], mac=new))

    def _keep(self, record: KeyRecord) -> None:
        self.records[record.id] = record
        for changes in self._changes:
            if changes.healthy:
                changes.tell("key", record.id)


class MemoryStreamLog:
    """`StreamLog` in memory."""

    def __init__(self, changes: Changes) -> None:
        self._changes = changes
        self._events: dict[tuple[str, str], dict[int, bytes]] = {}
        self._ended: set[tuple[str, str]] = set()

    async def open(self, session: str, stream: str) -> None:
        self._events.setdefault((holder_of(session), stream), {})

    async def append(
        self, session: str, stream: str, seq: int, event: bytes, upstream_event_id: str | None = None
    ) -> None:
        del upstream_event_id
        events = self._events.get((holder_of(session), stream))
        if events is None:
            raise StreamUnknown(f"there is no stream {stream} of this session")
        if events.setdefault(seq, event) != event:
            raise ValueError(f"another event of stream {stream} has number {seq}")
        while len(events) > MAX_EVENTS or (len(events) > 1 and sum(map(len, events.values())) > MAX_BYTES):
            del events[min(events)]
        self._changes.publish(KIND, announced_id(session, stream))

    async def end(self, session: str, stream: str) -> None:
        self._ended.add((holder_of(session), stream))
        self._changes.publish(KIND, announced_id(session, stream))

    async def read(self, session: str, stream: str, after: int) -> StreamPage:
        key = (holder_of(session), stream)
        events = self._events.get(key)
        if events is None:
            return StreamPage([], ended=False, known=False)
        return StreamPage(
            sorted((seq, event) for seq, event in events.items() if seq > after), key in self._ended, True
        )


class MemoryDefinitionStore:
    """`DefinitionStore` in memory."""

    def __init__(self) -> None:
        self._definitions: dict[tuple[str, str], tuple[str, bytes]] = {}

    async def save(self, slug: str, version: str, digest: str, body: bytes) -> None:
        self._definitions[slug, version] = (digest, body)

    async def load_all(self) -> dict[tuple[str, str], tuple[str, bytes]]:
        return dict(self._definitions)


def _is_same(one: UpstreamSession, other: UpstreamSession | None) -> bool:
    return other is not None and dataclasses.replace(one, capabilities={}) == dataclasses.replace(
        other, capabilities={}
    )
