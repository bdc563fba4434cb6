"""Gateway sessions, the same on every replica.

The store is the truth. What is remembered here is invalidated by changes that other replicas publish; while those may
go unheard, nothing remembered is believed. Last use is noted in the background, at most once a minute per session.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import structlog

from gateway.errors import SessionGone, StorageUnavailable
from gateway.sessions.cache import Cache
from gateway.sessions.changes import EVERYTHING, Changes
from gateway.sessions.copies import Copies, refresh_session, refresh_upstreams
from gateway.sessions.loads import Load, Loads
from gateway.sessions.model import (
    Clock,
    GatewaySession,
    UpstreamSession,
    UpstreamSessions,
    principal_key,
    session_key,
)
from gateway.sessions.periodic import Periodic
from gateway.sessions.store import SessionStore, StoredSession

log = structlog.get_logger()

T = TypeVar("T")

KIND = "session"
"""The kind of change under which holder keys are published."""

Expired = Callable[[Sequence[tuple[str, UpstreamSession]]], None]

_FORM = re.compile(r"[A-Za-z0-9_-]{43}", re.ASCII)
_NOTE_EVERY = 60.0
# The noted use lags by up to a minute for each of: our own interval, and that of a replica which noted it first.
_LAG = 2 * _NOTE_EVERY


class SessionRegistry:
    """Opens, finds and closes gateway sessions, and keeps the upstream sessions of their holders.

    `expired` is told of the upstream sessions, with their holder's key, that are left when their holders expire.
    """

    def __init__(
        self,
        store: SessionStore,
        changes: Changes,
        *,
        clock: Clock,
        idle: timedelta,
        cache_size: int = 50_000,
        expired: Expired | None = None,
    ) -> None:
        self._store = store
        self._changes = changes
        self._clock = clock
        self._idle = idle.total_seconds()
        # An entry that was not used here for so long may have been used elsewhere, or be expired: the store knows.
        self._trusted = max(self._idle - _NOTE_EVERY, self._idle / 2)
        self._expired = expired
        self._sessions: Cache[GatewaySession] = Cache(cache_size)
        self._principals: Cache[UpstreamSessions] = Cache(cache_size)
        self._session_loads: Loads[GatewaySession | None] = Loads()
        self._principal_loads: Loads[UpstreamSessions] = Loads()
        self._touched: set[str] = set()
        self._copies = Copies()
        self._upkeep = Periodic("session-upkeep", _NOTE_EVERY, self._keep_up)
        changes.subscribe(KIND, self._changed)
        changes.subscribe(EVERYTHING, self._all_changed)

    async def start(self) -> None:
        """Begins to note last use and to purge what expired, once a minute."""
        self._upkeep.start()

    async def stop(self) -> None:
        """Ends that, after noting what was used last, if the store answers."""
        await self._upkeep.stop()
        try:
            await self.flush()
        except StorageUnavailable as error:
            log.warning("last_use_not_noted", sessions=len(self._touched), error=str(error))

    async def open(
        self,
        *,
        principal: str,
        endpoint: str,
        protocol_version: str,
        client_info: Mapping[str, Any],
        client_capabilities: Mapping[str, Any],
    ) -> GatewaySession:
        """Makes a session whose id is 256 random bits in visible ASCII; the store gets only the id's hash."""
        session_id = secrets.token_urlsafe(32)
        key = session_key(session_id)
        now = self._clock()
        stored = StoredSession(principal, endpoint, protocol_version, client_info, client_capabilities, now)
        await self._store.create(key, stored)
        session = self._copies.make(session_id, key, stored, {})
        self._sessions.put(session_id, key, session, now)
        return session

    def find_cached(self, session_id: str, principal: str, endpoint: str) -> GatewaySession | None:
        """The session if this replica can tell without asking the store; None is not an answer, `resolve` gives it."""
        sessions = self._sessions
        entry = sessions.by_name.get(session_id)
        if entry is None or entry.epoch != sessions.epoch:
            return None
        session = entry.value
        if session.principal != principal or session.endpoint != endpoint or not self._changes.healthy:
            return None
        now = self._clock()
        if now - entry.used > self._trusted:
            return None
        entry.used = now
        self._touched.add(entry.key)
        return session

    async def resolve(self, session_id: str, principal: str, endpoint: str) -> GatewaySession:
        """The session of this id, if it is the principal's own at this endpoint.

        Raises:
            SessionGone: unknown, expired, deleted, somebody else's or another endpoint's, all alike.
        """
        found = self.find_cached(session_id, principal, endpoint)
        if found is not None:
            return found
        if not _FORM.fullmatch(session_id):
            raise _gone()
        key = session_key(session_id)
        session = self._certain(self._sessions, session_id)
        if session is None:
            session = await self._session_loads.shared(key, lambda load: self._load_session(session_id, key, load))
        if session is None or session.principal != principal or session.endpoint != endpoint:
            raise _gone()
        self._used(self._sessions, session_id, key)
        return session

    async def close(self, session: GatewaySession) -> list[UpstreamSession]:
        """Deletes the session everywhere; returns its upstream sessions, which the caller ends."""
        key = session.upstreams.key
        left = await self._store.delete(key)
        self._announce(key)
        self._sessions.drop(key)
        self._touched.discard(key)
        return left

    async def set_log_level(self, session: GatewaySession, level: str | None) -> None:
        """Sets the least level of log messages that the client wants. Raises SessionGone."""
        if not await self._store.set_log_level(session.upstreams.key, level):
            raise self._gone(session.upstreams.key)
        session.log_level = level
        self._announce(session.upstreams.key)

    async def subscribe(self, session: GatewaySession, uri: str) -> None:
        """Adds an exposed resource URI to the session's subscriptions. Raises SessionGone."""
        if not await self._store.subscribe(session.upstreams.key, uri):
            raise self._gone(session.upstreams.key)
        session.subscriptions |= {uri}
        self._announce(session.upstreams.key)

    async def unsubscribe(self, session: GatewaySession, uri: str) -> None:
        """Removes it. Raises SessionGone."""
        if not await self._store.unsubscribe(session.upstreams.key, uri):
            raise self._gone(session.upstreams.key)
        session.subscriptions -= {uri}
        self._announce(session.upstreams.key)

    async def for_principal(self, principal: str, fingerprint: str) -> UpstreamSessions:
        """What the principal's session-less clients hold at the upstreams; `fingerprint` tells unlike clients apart."""
        key = principal_key(principal, fingerprint)
        holder = self._certain(self._principals, key)
        if holder is None:
            holder = await self._principal_loads.shared(key, lambda load: self._load_principal(key, load))
        self._used(self._principals, key, key if holder.by_slug else None)
        return holder

    async def attach(
        self, holder: UpstreamSessions, opened: UpstreamSession, *, replacing: UpstreamSession | None = None
    ) -> UpstreamSession:
        """Keeps `opened` as the holder's session at its slug, unless another replica was first.

        Returns the one that is kept; a caller whose own was not kept ends its own. `replacing` is the session that
        `opened` takes the place of. Raises SessionGone when the holder is a session that was closed meanwhile.
        """
        kept = await self._store.attach(holder.key, opened, replacing, self._clock())
        if kept is None:
            raise self._gone(holder.key)
        holder.by_slug = {**holder.by_slug, opened.slug: kept}
        self._announce(holder.key)
        return kept

    async def detach(self, holder: UpstreamSessions, slug: str) -> UpstreamSession | None:
        """Forgets the upstream session that the holder knows at this slug, not one that took its place meanwhile.

        Returns it if it was still kept: the caller ends it.
        """
        lost = holder.by_slug.get(slug)
        if lost is None:
            return None
        was_kept = await self._store.detach(holder.key, lost)
        holder.by_slug = {name: session for name, session in holder.by_slug.items() if session is not lost}
        self._announce(holder.key)
        return lost if was_kept else None

    async def flush(self) -> None:
        """Notes the use of every holder used since the last time, and forgets those that are gone."""
        touched, self._touched = self._touched, set()
        if not touched:
            return
        try:
            there = await self._store.touch(touched, self._clock(), _NOTE_EVERY)
        except BaseException:
            self._touched |= touched
            raise
        # A replica that died between a change and its notice left us with what is no longer true.
        for key in touched - there:
            self._changed(key)

    async def purge(self) -> None:
        """Forgets what has not been used for the idle time; one replica at a time does it."""
        left = await self._store.purge(self._oldest_use())
        if left and self._expired is not None:
            self._expired(left)

    # --- what is remembered here

    async def _keep_up(self) -> None:
        await self.flush()
        await self.purge()

    def _oldest_use(self) -> float:
        return self._clock() - self._idle - _LAG

    def _used(self, cache: Cache[T], name: str, key: str | None) -> None:
        entry = cache.find(name)
        if entry is not None:
            entry.used = self._clock()
        if key is not None:
            self._touched.add(key)

    def _certain(self, cache: Cache[T], name: str) -> T | None:
        """The remembered value when it is beyond doubt, whoever asks for it."""
        entry = cache.find(name)
        if entry is None or not cache.is_fresh(entry) or not self._changes.healthy:
            return None
        return entry.value if self._clock() - entry.used <= self._trusted else None

    async def _load_session(
        self, session_id: str, key: str, load: Load[GatewaySession | None]
    ) -> GatewaySession | None:
        row = await self._store.find(key)
        if row is None or row[0].last_used < self._oldest_use():
            if load.current:
                self._sessions.drop(key)
            return None
        stored, by_slug = row
        entry = self._sessions.find(session_id)
        if load.current and entry is not None:
            refresh_session(entry.value, stored, by_slug)
            entry.epoch = self._sessions.epoch
            return entry.value
        session = self._copies.make(session_id, key, stored, by_slug)
        if load.current:
            self._sessions.put(session_id, key, session, self._clock())
        return session

    async def _load_principal(self, key: str, load: Load[UpstreamSessions]) -> UpstreamSessions:
        by_slug = await self._store.find_upstreams(key)
        entry = self._principals.find(key)
        if load.current and entry is not None:
            refresh_upstreams(entry.value, by_slug)
            entry.epoch = self._principals.epoch
            return entry.value
        holder = UpstreamSessions(key, by_slug)
        if load.current:
            self._principals.put(key, key, holder, self._clock())
        return holder

    def _announce(self, key: str) -> None:
        """Tells every replica, this one included: what it remembers is read again at its next use, and so is a load
        that began before the change."""
        self._changes.publish(KIND, key)

    def _gone(self, key: str) -> SessionGone:
        self._changed(key)
        return _gone()

    def _changed(self, key: str) -> None:
        self._session_loads.overtake(key)
        self._principal_loads.overtake(key)
        self._sessions.mark_stale(key)
        self._principals.mark_stale(key)

    def _all_changed(self, _: str) -> None:
        self._session_loads.overtake_all()
        self._principal_loads.overtake_all()
        self._sessions.mark_all_stale()
        self._principals.mark_all_stale()


def _gone() -> SessionGone:
    return SessionGone("There is no such session.")
