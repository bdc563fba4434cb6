"""The database schema: brought up to date at start, by whichever replica is first.

Revisions only ever add what the release before can live without, so that replicas of two releases share a database
while an upgrade rolls through them, and so that a release can be taken back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import structlog
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

import migrations
from gateway.storage.engine import Database
from gateway.storage.locks import MIGRATE, wait_for_transaction

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class SchemaStatus:
    """`current` is the database's revision, None before the first upgrade; `head` is the one this release needs.

    `newer` is true for a revision that a later release has made: this release works with it.
    """

    current: str | None
    head: str
    newer: bool

    @property
    def up_to_date(self) -> bool:
        return self.newer or self.current == self.head


async def upgrade(url: str) -> SchemaStatus:
    """Brings the schema up to date. Replicas that start at once wait for the first of them.

    Raises:
        StorageUnavailable: Postgres does not answer.
        ConfigurationError: the URL is wrong.
    """

    def step(config: Config) -> None:
        before = _status(config, config.attributes["connection"])
        if before.newer:
            log.warning("schema_newer_than_release", current=before.current, head=before.head)
        elif not before.up_to_date:
            command.upgrade(config, "head")

    await migrate(url, step)
    return await status(url)


async def status(url: str) -> SchemaStatus:
    """Where the schema stands. Changes nothing. Raises as `upgrade`."""
    database = Database(url, pool_size=1)
    try:
        async with database.connect() as connection:
            return await connection.run_sync(lambda connected: _status(_config(connected), connected))
    finally:
        await database.dispose()


async def migrate(url: str, step: Callable[[Config], None]) -> None:
    """Runs an Alembic command alone and in one transaction: all of it happens, or nothing."""
    # Neither the wait for another replica nor a migration is bounded by the time a statement may take.
    database = Database(url, pool_size=1, command_timeout=None)
    try:
        async with database.begin() as connection:
            await wait_for_transaction(connection, MIGRATE)
            await connection.run_sync(lambda connected: step(_config(connected)))
    finally:
        # Shielded, so that an interrupted start leaves no connection behind.
        await asyncio.shield(database.dispose())


def _config(connection: Connection) -> Config:
    config = Config()
    # Alembic expands % in its options.
    config.set_main_option("script_location", str(Path(migrations.__file__).parent).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def _status(config: Config, connection: Connection) -> SchemaStatus:
    scripts = ScriptDirectory.from_config(config)
    current = MigrationContext.configure(connection).get_current_revision()
    head = scripts.get_current_head() or ""
    known = {script.revision for script in scripts.walk_revisions()}
    return SchemaStatus(current, head, newer=current is not None and current not in known)
