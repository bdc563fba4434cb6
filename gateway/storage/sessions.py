"""Gateway sessions and their upstream sessions in Postgres."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Any

import structlog
from sqlalchemy import ColumnElement, LargeBinary, and_, case, delete, func, literal, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.keys import KeyRing, SealBroken
from gateway.sessions.model import UpstreamSession
from gateway.sessions.store import StoredSession
from gateway.storage.engine import Database
from gateway.storage.locks import PURGE_SESSIONS, take_for_transaction
from gateway.storage.tables import gateway_sessions, streams, upstream_sessions

LABEL = "upstream-session"

_ATTEMPTS = 5
_PURGED_AT_ONCE = 1_000
_FOREIGN_KEY = "23503"

log = structlog.get_logger()

_sessions = gateway_sessions.c
_upstreams = upstream_sessions.c


class PostgresSessionStore:
    """The `SessionStore` of every replica that shares a database. Upstream session ids are sealed."""

    def __init__(self, database: Database, ring: KeyRing) -> None:
        self._database = database
        self._ring = ring

    async def create(self, key: str, session: StoredSession) -> None:
        now = _moment(session.last_used)
        row = insert(gateway_sessions).values(
            key=key,
            principal=session.principal,
            endpoint=session.endpoint,
            protocol_version=session.protocol_version,
            client_info=_json(session.client_info),
            client_capabilities=_json(session.client_capabilities),
            log_level=session.log_level,
            subscriptions=[_octets(uri) for uri in sorted(session.subscriptions)],
            opened=now,
            last_used=now,
        )
        async with self._database.connect() as connection:
            await connection.execute(row)

    async def find(self, key: str) -> tuple[StoredSession, dict[str, UpstreamSession]] | None:
        async with self._database.connect() as connection:
            row = (await connection.execute(select(gateway_sessions).where(_sessions.key == key))).one_or_none()
            if row is None:
                return None
            by_slug = await self._of_holder(connection, key)
        session = StoredSession(
            principal=row.principal,
            endpoint=row.endpoint,
            protocol_version=row.protocol_version,
            client_info=json.loads(row.client_info),
            client_capabilities=json.loads(row.client_capabilities),
            last_used=row.last_used.timestamp(),
            log_level=row.log_level,
            subscriptions=frozenset(uri.decode("utf-8", "surrogatepass") for uri in row.subscriptions),
        )
        return session, by_slug

    async def delete(self, key: str) -> list[UpstreamSession]:
        async with self._database.begin() as connection:
            return [session for _, session in await self._forget(connection, [key])]

    async def set_log_level(self, key: str, level: str | None) -> bool:
        return await self._change(key, {"log_level": level})

    async def subscribe(self, key: str, uri: str) -> bool:
        one = literal(_octets(uri), LargeBinary)
        there = one == func.any(_sessions.subscriptions)
        added = case((there, _sessions.subscriptions), else_=func.array_append(_sessions.subscriptions, one))
        return await self._change(key, {"subscriptions": added})

    async def unsubscribe(self, key: str, uri: str) -> bool:
        one = literal(_octets(uri), LargeBinary)
        return await self._change(key, {"subscriptions": func.array_remove(_sessions.subscriptions, one)})

    async def find_upstreams(self, holder: str) -> dict[str, UpstreamSession]:
        async with self._database.connect() as connection:
            return await self._of_holder(connection, holder)

    async def attach(
        self, holder: str, opened: UpstreamSession, replacing: UpstreamSession | None, now: float
    ) -> UpstreamSession | None:
        new = insert(upstream_sessions).values(
            holder=holder,
            slug=opened.slug,
            session=holder if holder.startswith("s:") else None,
            version=opened.version,
            protocol_version=opened.protocol_version,
            capabilities=_json(opened.capabilities),
            sealed_id=self._seal(holder, opened),
            fingerprint=self._fingerprints(holder, opened)[0],
            last_used=_moment(now),
        )
        taken = ("session", "version", "protocol_version", "capabilities", "sealed_id", "fingerprint", "last_used")
        unless_taken = new.on_conflict_do_nothing()
        if replacing is not None:
            unless_taken = new.on_conflict_do_update(
                index_elements=[_upstreams.holder, _upstreams.slug],
                set_={name: new.excluded[name] for name in taken},
                where=_upstreams.fingerprint.in_(self._fingerprints(holder, replacing)),
            )
        place = and_(_upstreams.holder == holder, _upstreams.slug == opened.slug)
        async with self._database.connect() as connection:
            # Whoever was first may be gone again by the time we look, so a few attempts are made.
            for _ in range(_ATTEMPTS):
                try:
                    won = await connection.execute(unless_taken.returning(_upstreams.slug))
                except IntegrityError as error:
                    if getattr(error.orig, "sqlstate", None) == _FOREIGN_KEY:
                        return None
                    raise
                if won.one_or_none() is not None:
                    return opened
                row = (await connection.execute(select(upstream_sessions).where(place))).one_or_none()
                if row is None:
                    continue
                winner = self._session(row)
                if winner is not None:
                    return winner
                await connection.execute(delete(upstream_sessions).where(place, _upstreams.sealed_id == row.sealed_id))
        raise RuntimeError(f"the upstream session of {opened.slug} changed hands {_ATTEMPTS} times while it was kept")

    async def detach(self, holder: str, lost: UpstreamSession) -> bool:
        row = delete(upstream_sessions).where(
            _upstreams.holder == holder,
            _upstreams.slug == lost.slug,
            _upstreams.fingerprint.in_(self._fingerprints(holder, lost)),
        )
        async with self._database.connect() as connection:
            return (await connection.execute(row)).rowcount > 0

    async def touch(self, keys: Collection[str], now: float, apart: float) -> set[str]:
        moment, before = _moment(now), _moment(now - apart)
        there: set[str] = set()
        # Sorted, so that two replicas never wait for each other's rows.
        sessions = sorted(key for key in keys if key.startswith("s:"))
        holders = sorted(key for key in keys if not key.startswith("s:"))
        async with self._database.connect() as connection:
            for column, table, names in (
                (_sessions.key, gateway_sessions, sessions),
                (_upstreams.holder, upstream_sessions, holders),
            ):
                if not names:
                    continue
                given = column == func.any(names)
                aged = and_(given, table.c.last_used <= before)
                locked = select(column).where(aged).order_by(column).with_for_update().cte("locked")
                noted = update(table).where(column.in_(select(locked))).values(last_used=moment).returning(column)
                rows = await connection.execute(select(column).where(given).add_cte(noted.cte("noted")))
                there.update(rows.scalars())
        return there

    async def purge(self, unused_since: float) -> list[tuple[str, UpstreamSession]]:
        left: list[tuple[str, UpstreamSession]] = []
        moment = _moment(unused_since)
        while True:
            async with self._database.begin() as connection:
                if not await take_for_transaction(connection, PURGE_SESSIONS):
                    return left
                old = select(_sessions.key).where(_sessions.last_used < moment).limit(_PURGED_AT_ONCE)
                keys = list((await connection.execute(old.with_for_update(skip_locked=True))).scalars())
                left += await self._forget(connection, keys)
                if len(keys) == _PURGED_AT_ONCE:
                    continue
                unused = and_(_upstreams.session.is_(None), _upstreams.last_used < moment)
                left += await self._delete_upstreams(connection, unused)
                return left

    # --- rows

    async def _forget(self, connection: AsyncConnection, keys: list[str]) -> list[tuple[str, UpstreamSession]]:
        """Deletes sessions with all they have; their rows are locked first, so that nothing is attached meanwhile."""
        chosen = _sessions.key == func.any(keys)
        await connection.execute(select(_sessions.key).where(chosen).order_by(_sessions.key).with_for_update())
        left = await self._delete_upstreams(connection, _upstreams.session == func.any(keys))
        await connection.execute(delete(streams).where(streams.c.session == func.any(keys)))
        await connection.execute(delete(gateway_sessions).where(chosen))
        return left

    async def _delete_upstreams(
        self, connection: AsyncConnection, which: ColumnElement[bool]
    ) -> list[tuple[str, UpstreamSession]]:
        rows = await connection.execute(delete(upstream_sessions).where(which).returning(upstream_sessions))
        return [(row.holder, session) for row in rows if (session := self._session(row)) is not None]

    async def _change(self, key: str, values: Mapping[str, Any]) -> bool:
        async with self._database.connect() as connection:
            row = update(gateway_sessions).where(_sessions.key == key).values(values)
            return (await connection.execute(row)).rowcount > 0

    async def _of_holder(self, connection: AsyncConnection, holder: str) -> dict[str, UpstreamSession]:
        rows = await connection.execute(select(upstream_sessions).where(_upstreams.holder == holder))
        return {row.slug: session for row in rows if (session := self._session(row)) is not None}

    def _session(self, row: Any) -> UpstreamSession | None:
        """None when the id cannot be unsealed: such a session cannot be used, only opened again."""
        session_id = None
        if row.sealed_id is not None:
            try:
                opened = self._ring.open(LABEL, row.sealed_id, _bound_to(row.holder, row.slug))
            except SealBroken:
                log.warning("upstream_session_unreadable", upstream=row.slug)
                return None
            session_id = opened.decode("utf-8", "surrogatepass")
        return UpstreamSession(row.slug, row.version, session_id, row.protocol_version, json.loads(row.capabilities))

    def _seal(self, holder: str, session: UpstreamSession) -> str | None:
        if session.session_id is None:
            return None
        return self._ring.seal(LABEL, _octets(session.session_id), _bound_to(holder, session.slug))

    def _fingerprints(self, holder: str, session: UpstreamSession) -> tuple[bytes, ...]:
        facts = [holder, session.slug, session.version, session.protocol_version, session.session_id]
        return self._ring.macs(LABEL, json.dumps(facts).encode())


def _bound_to(holder: str, slug: str) -> bytes:
    # So that a row copied to another holder opens nothing there.
    return json.dumps([holder, slug]).encode()


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value)


def _octets(words: str) -> bytes:
    return words.encode("utf-8", "surrogatepass")


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
