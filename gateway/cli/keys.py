"""`mcp-gateway keys …`: API keys."""

from __future__ import annotations

import json
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, TypeVar

import click

from gateway.cli.storage_settings import CommandFailed, CommandMisused, database_url, key_ring, run
from gateway.identity.issuing import IssuedKey, KeyFieldWrong, KeyIssuer, KeyUnknown
from gateway.identity.model import KeyRecord
from gateway.storage.engine import Database
from gateway.storage.keys import PostgresKeyStore

T = TypeVar("T")

_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_DURATION = re.compile(r"([0-9]{1,9})([smhdw])")


class Duration(click.ParamType[float]):
    """Seconds, written with a unit: 90s, 15m, 1h, 30d, 2w."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        match = _DURATION.fullmatch(str(value))
        if match is None:
            self.fail(
                f"{value!r} is no duration; write a number and a unit, such as 90s, 15m, 1h, 30d or 2w", param, ctx
            )
        return float(int(match[1]) * _UNITS[match[2]])


@click.group()
def keys() -> None:
    """API keys of clients."""


@keys.command()
@click.option("--name", required=True, help="Whose key this is, for people to read.")
@click.option("--scope", "scopes", multiple=True, help="A scope the key has; may be repeated.")
@click.option("--grant", "grants", multiple=True, help="A pattern over exposed names, such as github__*; all if none.")
@click.option("--expires-in", "lifetime", type=Duration(), help="After which time the key ends, such as 30d.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def create(
    *, name: str, scopes: tuple[str, ...], grants: tuple[str, ...], lifetime: float | None, as_json: bool
) -> None:
    """Make a key and show it, once."""
    ring = key_ring()

    async def work(store: PostgresKeyStore) -> IssuedKey:
        issuer = KeyIssuer(store, ring, time.time)
        return await issuer.create(name, scopes=scopes, grants=grants or ("*",), lifetime=lifetime)

    _show_issued(_with_store(work), as_json=as_json)


@keys.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def list_(*, as_json: bool) -> None:
    """List all keys, without their texts."""
    records = _with_store(lambda store: store.all())
    if as_json:
        click.echo(json.dumps({"keys": [_facts(record) for record in records]}))
        return
    for record in records:
        scopes = " ".join(record.scopes) or "-"
        click.echo(
            f"{record.id}  {_state(record):<8}  {record.name}  grants: {' '.join(record.grants)}  scopes: {scopes}"
        )
    if not records:
        click.echo("There are no keys. Make one with `mcp-gateway keys create --name NAME`.")


@keys.command()
@click.argument("key_id", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def revoke(*, key_id: str, as_json: bool) -> None:
    """End a key now; every replica refuses it within a second."""

    async def work(store: PostgresKeyStore) -> KeyRecord | None:
        return await store.find(key_id) if await store.revoke(key_id, time.time()) else None

    record = _with_store(work)
    if record is None:
        raise CommandFailed(f"ID: there is no key {key_id}; `mcp-gateway keys list` shows all")
    click.echo(json.dumps(_facts(record)) if as_json else f"The key {key_id} ({record.name}) is revoked.")


@keys.command()
@click.argument("key_id", metavar="ID")
@click.option("--overlap", type=Duration(), default="1h", show_default=True, help="How long the old key works on.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def rotate(*, key_id: str, overlap: float, as_json: bool) -> None:
    """Make a key in place of another, for the same principal, and show it, once."""
    ring = key_ring()

    async def work(store: PostgresKeyStore) -> IssuedKey:
        return await KeyIssuer(store, ring, time.time).rotate(key_id, overlap=overlap)

    _show_issued(_with_store(work), as_json=as_json)


def _with_store(work: Callable[[PostgresKeyStore], Awaitable[T]]) -> T:
    url = database_url()

    async def connected() -> T:
        async with _store(url) as store:
            return await work(store)

    try:
        return run(connected())
    except KeyUnknown as error:
        raise CommandFailed(f"ID: {error.args[0]}; `mcp-gateway keys list` shows all") from error
    except KeyFieldWrong as error:
        raise CommandMisused(str(error)) from error


@asynccontextmanager
async def _store(url: str) -> AsyncIterator[PostgresKeyStore]:
    database = Database(url, pool_size=1)
    try:
        yield PostgresKeyStore(database)
    finally:
        await database.dispose()


def _show_issued(issued: IssuedKey, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({**_facts(issued.record), "key": issued.text}))
        return
    click.echo(issued.text)
    until = _written(issued.record.expires)
    ends = "does not end by itself" if until is None else f"ends at {until}"
    click.echo(
        f"This is the key {issued.record.id} ({issued.record.name}); it {ends}. It is not shown again.", err=True
    )


def _facts(record: KeyRecord) -> dict[str, Any]:
    return {
        "id": record.id,
        "name": record.name,
        "principal": record.principal,
        "scopes": list(record.scopes),
        "grants": list(record.grants),
        "state": _state(record),
        "created": _written(record.created),
        "expires": _written(record.expires),
        "revoked": _written(record.revoked),
    }


def _state(record: KeyRecord) -> str:
    if record.revoked is not None:
        return "revoked"
    return "valid" if record.is_valid_at(time.time()) else "expired"


def _written(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
