"""API keys in Postgres.

Changes of keys are published in their own transaction: they are rare, and a revocation whose notice got lost with the
process that made it would leave the key open on the other replicas.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import func, insert, null, or_, select, update

from gateway.identity.api_keys import KIND
from gateway.identity.model import KeyRecord
from gateway.storage.changes import notify
from gateway.storage.engine import Database
from gateway.storage.tables import api_keys

_keys = api_keys.c


class PostgresKeyStore:
    """The `KeyStore` of every replica that shares a database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, key_id: str) -> KeyRecord | None:
        async with self._database.connect() as connection:
            row = (await connection.execute(select(api_keys).where(_keys.id == key_id))).one_or_none()
        return None if row is None else _record(row)

    async def all(self) -> list[KeyRecord]:
        async with self._database.connect() as connection:
            return [
                _record(row) for row in await connection.execute(select(api_keys).order_by(_keys.created, _keys.id))
            ]

    async def add(self, record: KeyRecord) -> None:
        async with self._database.begin() as connection:
            await connection.execute(insert(api_keys).values(_values(record)))
            await notify(connection, (KIND, record.id))

    async def revoke(self, key_id: str, now: float) -> bool:
        row = update(api_keys).where(_keys.id == key_id).values(revoked=func.coalesce(_keys.revoked, _moment(now)))
        async with self._database.begin() as connection:
            if (await connection.execute(row)).rowcount == 0:
                return False
            await notify(connection, (KIND, key_id))
        return True

    async def replace(self, key_id: str, expires: float, successor: KeyRecord) -> bool:
        valid = or_(_keys.expires.is_(null()), _keys.expires > _moment(successor.created))
        row = (
            update(api_keys)
            .where(_keys.id == key_id, _keys.revoked.is_(null()), valid)
            .values(expires=func.least(_keys.expires, _moment(expires)))
        )
        async with self._database.begin() as connection:
            if (await connection.execute(row)).rowcount == 0:
                return False
            await connection.execute(insert(api_keys).values(_values(successor)))
            await notify(connection, (KIND, key_id), (KIND, successor.id))
        return True

    async def renew_mac(self, key_id: str, old: bytes, new: bytes) -> None:
        row = update(api_keys).where(_keys.id == key_id, _keys.mac == old).values(mac=new)
        async with self._database.begin() as connection:
            await connection.execute(row)
            await notify(connection, (KIND, key_id))


def _values(record: KeyRecord) -> dict[str, Any]:
    return {
        "id": record.id,
        "principal": record.principal,
        "name": record.name,
        "mac": record.mac,
        "scopes": list(record.scopes),
        "grants": list(record.grants),
        "created": _moment(record.created),
        "expires": None if record.expires is None else _moment(record.expires),
        "revoked": None if record.revoked is None else _moment(record.revoked),
    }


def _record(row: Any) -> KeyRecord:
    return KeyRecord(
        id=row.id,
        principal=row.principal,
        name=row.name,
        mac=bytes(row.mac),
        scopes=tuple(row.scopes),
        grants=tuple(row.grants),
        created=row.created.timestamp(),
        expires=None if row.expires is None else row.expires.timestamp(),
        revoked=None if row.revoked is None else row.revoked.timestamp(),
    )


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
