"""Database URLs: which are understood, and how a wrong one is refused."""

from __future__ import annotations

import pytest

from gateway.errors import ConfigurationError, StorageUnavailable
from gateway.storage.engine import Database


@pytest.mark.parametrize("url", ["", "sqlite:///x", "postgresql", "mysql://u:hush@h/d", "postgresql+psycopg://h/d"])
def test_any_other_url_is_refused_by_the_name_of_the_setting_and_without_its_value(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^MCP_GATEWAY_DATABASE_URL: ") as refusal:
        Database(url)
    assert "hush" not in str(refusal.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:hush@127.0.0.1:1/d",
        "postgres://u:hush@127.0.0.1:1/d?sslmode=disable",
        "postgresql+asyncpg://u:hush@127.0.0.1:1/d",
        "postgresql://u:hush@/d?host=/nonexistent&port=5432",
    ],
)
async def test_a_postgres_that_is_not_there_is_unavailable_under_every_form_of_url(url: str) -> None:
    database = Database(url)
    try:
        for enter in (database.begin, database.connect):
            with pytest.raises(StorageUnavailable) as refusal:
                async with enter():
                    raise AssertionError("there is nothing to connect to")
            assert "hush" not in str(refusal.value)
        with pytest.raises(StorageUnavailable):
            await database.connect_apart()
    finally:
        await database.dispose()
