"""Advisory locks: work that one replica at a time does. One number per kind of work, in one place."""

from __future__ import annotations

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

# The first half tells our locks from those of other programs in the same database ("mcpg").
_OURS = 0x6D637067 << 32

MIGRATE = _OURS + 1
PURGE_SESSIONS = _OURS + 2
PURGE_STREAMS = _OURS + 3


async def take_for_transaction(connection: AsyncConnection, lock: int) -> bool:
    """True if nobody else holds the lock; it is held until the transaction ends."""
    return bool(await connection.scalar(select(func.pg_try_advisory_xact_lock(lock))))


async def wait_for_transaction(connection: AsyncConnection, lock: int) -> None:
    """Waits until nobody else holds the lock; it is held until the transaction ends."""
    await connection.execute(select(func.pg_advisory_xact_lock(lock)))
