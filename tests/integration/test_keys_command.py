"""API keys on the command line, against a real Postgres."""

from __future__ import annotations

import asyncio
import json
import time

import pytest
from click.testing import CliRunner

from gateway.cli.keys import keys
from gateway.errors import Unauthenticated
from gateway.identity.api_keys import ApiKeys
from gateway.identity.key_text import find_id
from gateway.keys import KeyRing
from gateway.storage.engine import Database
from gateway.storage.keys import PostgresKeyStore
from tests.support.stores import MemoryChanges

RING = KeyRing.generate()


@pytest.fixture
def cli(database_url: str) -> CliRunner:
    return CliRunner(env={"MCP_GATEWAY_DATABASE_URL": database_url, "MCP_GATEWAY_MASTER_KEYS": RING})


def authenticates(url: str, text: str) -> bool:
    async def ask() -> bool:
        database = Database(url, pool_size=1)
        try:
            keys = ApiKeys(PostgresKeyStore(database), KeyRing.parse(RING), MemoryChanges(), clock=time.time)
            await keys.authenticate(text)
        except Unauthenticated:
            return False
        finally:
            await database.dispose()
        return True

    return asyncio.run(ask())


def test_a_key_made_on_the_command_line_works_until_it_is_revoked_there(cli: CliRunner, database_url: str) -> None:
    arguments = [
        "create",
        "--name",
        "ci",
        "--scope",
        "b",
        "--scope",
        "a",
        "--grant",
        "github__*",
        "--expires-in",
        "30d",
    ]
    made = json.loads(cli.invoke(keys, [*arguments, "--json"]).stdout)
    assert find_id(made["key"]) == made["id"]
    assert (made["scopes"], made["grants"], made["state"]) == (["a", "b"], ["github__*"], "valid")
    assert authenticates(database_url, made["key"])
    listed = cli.invoke(keys, ["list", "--json"]).stdout
    assert [key["id"] for key in json.loads(listed)["keys"] if key["id"] == made["id"]] == [made["id"]]
    assert made["key"] not in listed
    assert cli.invoke(keys, ["revoke", made["id"]]).exit_code == 0
    assert not authenticates(database_url, made["key"])
    assert f"{made['id']}  revoked" in cli.invoke(keys, ["list"]).stdout


def test_a_key_rotated_on_the_command_line_overlaps_with_the_old_one(cli: CliRunner, database_url: str) -> None:
    shown = cli.invoke(keys, ["create", "--name", "ci"])
    old = shown.stdout.strip()
    assert "not shown again" in shown.stderr
    new = json.loads(cli.invoke(keys, ["rotate", str(find_id(old)), "--overlap", "1h", "--json"]).stdout)
    assert new["principal"] == f"key:{find_id(old)}"
    assert authenticates(database_url, old)
    assert authenticates(database_url, new["key"])
    assert cli.invoke(keys, ["rotate", new["id"], "--overlap", "0s"]).exit_code == 0
    assert not authenticates(database_url, new["key"])


@pytest.mark.parametrize(
    ("arguments", "environment", "status", "words"),
    [
        (["list"], {"MCP_GATEWAY_DATABASE_URL": None}, 2, "MCP_GATEWAY_DATABASE_URL: is not set; set it to"),
        (
            ["create", "--name", "x"],
            {"MCP_GATEWAY_MASTER_KEYS": None},
            2,
            "MCP_GATEWAY_MASTER_KEYS: is not set; set it",
        ),
        (["create", "--name", "x"], {"MCP_GATEWAY_MASTER_KEYS": "hush"}, 2, "MCP_GATEWAY_MASTER_KEYS: entry 1 of 1"),
        (["create", "--name", "x", "--expires-in", "soon"], {}, 2, "--expires-in"),
        (["create", "--name", ""], {}, 2, "name: must be 1 to 100"),
        (["revoke", "nosuchkey"], {}, 1, "ID: there is no key nosuchkey"),
        (["rotate", "nosuchkey"], {}, 1, "ID: there is no valid key nosuchkey"),
    ],
    ids=["url", "ring", "weak ring", "duration", "name", "revoke", "rotate"],
)
def test_a_wrong_argument_or_setting_is_named_with_its_fix(
    cli: CliRunner, arguments: list[str], environment: dict[str, str | None], status: int, words: str
) -> None:
    result = cli.invoke(keys, arguments, env=environment)
    assert result.exit_code == status
    assert words in result.stderr
    assert "hush" not in result.output
