"""The database schema: up, down, up again, and equal to what the code believes it to be."""

from __future__ import annotations

import asyncio
import json

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from click.testing import CliRunner
from sqlalchemy import Connection, MetaData, inspect, text

from catalogue import tables as catalogue_tables
from gateway.cli.db import db
from gateway.errors import ConfigurationError
from gateway.storage import migrate, tables
from gateway.storage.engine import Database
from gateway.storage.keys import PostgresKeyStore

OURS = {*tables.metadata.tables, *catalogue_tables.metadata.tables}


def drop_all(config: Config) -> None:
    command.downgrade(config, "base")


async def present(url: str) -> set[str]:
    database = Database(url, pool_size=1)
    try:
        async with database.connect() as connection:
            return set(await connection.run_sync(lambda connected: inspect(connected).get_table_names()))
    finally:
        await database.dispose()


@pytest.fixture
async def url(empty_database_url: str) -> str:
    """Without tables at the beginning of every test."""
    await migrate.migrate(empty_database_url, drop_all)
    assert await present(empty_database_url) <= {"alembic_version"}
    return empty_database_url


async def test_the_schema_goes_up_and_down_and_up_again(url: str) -> None:
    before = await migrate.status(url)
    assert (before.current, before.up_to_date) == (None, False)
    after = await migrate.upgrade(url)
    assert after == migrate.SchemaStatus(after.head, after.head, newer=False)
    assert await present(url) == OURS | {"alembic_version"}
    await migrate.migrate(url, drop_all)
    assert await present(url) == {"alembic_version"}
    assert (await migrate.upgrade(url)).up_to_date
    assert await present(url) == OURS | {"alembic_version"}


async def test_the_schema_is_what_the_tables_in_the_code_say(url: str) -> None:
    await migrate.upgrade(url)

    def differences(connection: Connection) -> list[object]:
        options = {"compare_type": True, "compare_server_default": True}
        context = MigrationContext.configure(connection, opts=options)
        metadata = MetaData()
        for part in (tables.metadata, catalogue_tables.metadata):
            for table in part.tables.values():
                table.to_metadata(metadata)
        return list(compare_metadata(context, metadata))

    database = Database(url, pool_size=1)
    try:
        async with database.connect() as connection:
            assert await connection.run_sync(differences) == []
            await connection.execute(text("ALTER TABLE api_keys ADD COLUMN stray text"))
            assert await connection.run_sync(differences) != []
    finally:
        await database.dispose()


async def test_alembic_itself_finds_nothing_to_add(url: str) -> None:
    await migrate.upgrade(url)
    await migrate.migrate(url, command.check)


async def test_many_replicas_that_start_at_once_bring_the_schema_up_together(url: str) -> None:
    results = await asyncio.gather(*(migrate.upgrade(url) for _ in range(6)))
    assert all(result.up_to_date for result in results)


async def test_a_schema_of_a_later_release_is_left_as_it_is(url: str) -> None:
    await migrate.upgrade(url)
    database = Database(url, pool_size=1)
    try:
        async with database.connect() as connection:
            await connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        found = await migrate.upgrade(url)
        assert (found.current, found.newer, found.up_to_date) == ("9999", True, True)
        async with database.connect() as connection:
            await connection.execute(text("UPDATE alembic_version SET version_num = :head"), {"head": found.head})
    finally:
        await database.dispose()


async def test_a_database_without_tables_is_told_with_the_command_that_makes_them(url: str) -> None:
    database = Database(url, pool_size=1)
    try:
        with pytest.raises(ConfigurationError, match="run `mcp-gateway db upgrade`"):
            await PostgresKeyStore(database).all()
    finally:
        await database.dispose()


def test_the_command_line_tells_and_brings_up_the_schema(empty_database_url: str) -> None:
    asyncio.run(migrate.migrate(empty_database_url, drop_all))
    cli = CliRunner(env={"MCP_GATEWAY_DATABASE_URL": empty_database_url})
    before = cli.invoke(db, ["status", "--json"])
    assert before.exit_code == 1
    assert json.loads(before.stdout)["current"] is None
    assert "mcp-gateway db upgrade" in before.stderr
    done = cli.invoke(db, ["upgrade", "--json"])
    assert (done.exit_code, json.loads(done.stdout)["up_to_date"]) == (0, True)
    after = cli.invoke(db, ["status"])
    assert (after.exit_code, after.stderr) == (0, "")
    assert "up to date" in after.stdout


@pytest.mark.parametrize(
    ("environment", "status", "words"),
    [
        ({"MCP_GATEWAY_DATABASE_URL": ""}, 2, "MCP_GATEWAY_DATABASE_URL: is not set; set it to"),
        ({"MCP_GATEWAY_DATABASE_URL": "sqlite:///x"}, 2, "MCP_GATEWAY_DATABASE_URL: is no PostgreSQL URL"),
        ({"MCP_GATEWAY_DATABASE_URL": "postgresql://u:hush@127.0.0.1:1/x"}, 1, "Postgres does not answer"),
        ({"MCP_GATEWAY_DATABASE_URL": "postgresql://u:hush@127.0.0.1:port/x"}, 2, "cannot be understood"),
    ],
    ids=["missing", "other", "unreachable", "garbled"],
)
def test_a_wrong_database_setting_is_named_with_its_fix_and_without_the_password(
    environment: dict[str, str], status: int, words: str
) -> None:
    result = CliRunner(env=environment).invoke(db, ["upgrade"])
    assert result.exit_code == status
    assert words in result.stderr
    assert "hush" not in result.output
