"""What commands that work on the database need: where it is, the keys, and errors said in one line."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import click

from gateway.errors import ConfigurationError, GatewayError
from gateway.keys import SETTING as KEYS_SETTING
from gateway.keys import KeyRing
from gateway.settings import secret
from gateway.storage.engine import SETTING as DATABASE_SETTING

T = TypeVar("T")


class CommandFailed(click.ClickException):
    """Shown on stderr as `Error: …`, exit status 1."""


class CommandMisused(CommandFailed):
    """A setting or an argument is wrong: exit status 2."""

    exit_code = 2


def database_url() -> str:
    """The URL of the database that is in the environment."""
    url = secret(DATABASE_SETTING.removeprefix("MCP_GATEWAY_"))
    if url is None:
        raise CommandMisused(
            f"{DATABASE_SETTING}: is not set; set it to the gateway's Postgres, "
            "such as postgresql://user:password@host:5432/database"
        )
    return url


def key_ring() -> KeyRing:
    """The key ring that is in the environment."""
    keys = secret(KEYS_SETTING.removeprefix("MCP_GATEWAY_"))
    if keys is None:
        raise CommandMisused(
            f"{KEYS_SETTING}: is not set; set it to the master keys that the gateway runs with "
            "(a first one is made by `openssl rand -base64 32 | tr '+/' '-_'`)"
        )
    try:
        return KeyRing.parse(keys)
    except ConfigurationError as error:
        raise CommandMisused(str(error)) from error


def run(work: Coroutine[Any, Any, T]) -> T:
    """Runs it to its end; what the product raises on purpose becomes a line on stderr and an exit status."""
    try:
        return asyncio.run(work)
    except ConfigurationError as error:
        raise CommandMisused(str(error)) from error
    except GatewayError as error:
        raise CommandFailed(str(error)) from error
