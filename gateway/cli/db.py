"""`mcp-gateway db …`: the database schema."""

from __future__ import annotations

import json

import click

from gateway.cli.storage_settings import CommandFailed, database_url, run
from gateway.storage import migrate
from gateway.storage.migrate import SchemaStatus


@click.group()
def db() -> None:
    """The database schema."""


@db.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def upgrade(*, as_json: bool) -> None:
    """Bring the schema up to date. Safe to run from many places at once."""
    _show(run(migrate.upgrade(database_url())), as_json=as_json)


@db.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def status(*, as_json: bool) -> None:
    """Tell where the schema stands; exit status 1 when an upgrade is needed."""
    found = run(migrate.status(database_url()))
    _show(found, as_json=as_json)
    if not found.up_to_date:
        raise CommandFailed("the database schema: is not up to date; run `mcp-gateway db upgrade`")


def _show(found: SchemaStatus, *, as_json: bool) -> None:
    if as_json:
        facts = {"current": found.current, "head": found.head, "up_to_date": found.up_to_date, "newer": found.newer}
        click.echo(json.dumps(facts))
    elif found.newer:
        click.echo(f"The schema is at {found.current}, of a later release than this one ({found.head}).")
    elif found.up_to_date:
        click.echo(f"The schema is up to date ({found.current}).")
    else:
        click.echo(f"The schema is at {found.current or 'nothing'}; this release needs {found.head}.")
