"""Fixtures: one PostgreSQL for the test run, an empty database for each test module.

A plugin, which tests/conftest.py names: imported as a module, its fixtures would be made once for every importer.
"""

from __future__ import annotations

import asyncio
import shutil
import uuid
from collections.abc import Iterator

import asyncpg
import pytest

from gateway.cli.postgres import EmbeddedPostgres
from gateway.storage import migrate


@pytest.fixture(scope="session")
def postgres_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a PostgreSQL that lives as long as the run."""
    server = EmbeddedPostgres(tmp_path_factory.mktemp("postgres"))
    try:
        yield server.start()
    finally:
        server.stop()
        shutil.rmtree(server.files.home, ignore_errors=True)


@pytest.fixture(scope="module")
def empty_database_url(postgres_url: str) -> str:
    """The URL of a database without any table, this module's own."""
    name = f"test_{uuid.uuid4().hex}"
    asyncio.run(_execute(postgres_url, f'CREATE DATABASE "{name}" TEMPLATE template0'))
    # No test cuts the power, so none needs to wait for the disk.
    asyncio.run(_execute(postgres_url, f'ALTER DATABASE "{name}" SET synchronous_commit = off'))
    before, _, after = postgres_url.rpartition("?")
    server, _, _ = before.rpartition("/")
    return f"{server}/{name}?{after}"


@pytest.fixture(scope="module")
def database_url(empty_database_url: str) -> str:
    """The URL of a database with the gateway's tables, this module's own."""
    asyncio.run(migrate.upgrade(empty_database_url))
    return empty_database_url


async def _execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
