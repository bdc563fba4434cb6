"""Definitions in Postgres."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from catalogue.tables import definitions


class PostgresDefinitionStore:
    """Works on connections that `connect` lends, each statement its own transaction."""

    def __init__(self, connect: Callable[[], AbstractAsyncContextManager[AsyncConnection]]) -> None:
        self._connect = connect

    async def save(self, slug: str, version: str, digest: str, body: bytes) -> None:
        new = insert(definitions).values(slug=slug, version=version, digest=digest, body=body)
        upsert = new.on_conflict_do_update(
            index_elements=[definitions.c.slug, definitions.c.version],
            set_={"digest": new.excluded.digest, "body": new.excluded.body, "saved": func.now()},
            where=definitions.c.digest != new.excluded.digest,
        )
        async with self._connect() as connection:
            await connection.execute(upsert)

    async def load_all(self) -> dict[tuple[str, str], tuple[str, bytes]]:
        table = definitions.c
        async with self._connect() as connection:
            rows = await connection.execute(select(table.slug, table.version, table.digest, table.body))
            return {(slug, version): (digest, bytes(body)) for slug, version, digest, body in rows}
