"""The root of the command line; each command has a module of its own, loaded when it is asked for."""

from __future__ import annotations

import importlib
from typing import Final

import click

_COMMANDS: Final = {
    "serve": "gateway.cli.serve",
    "worker": "gateway.cli.worker",
    "dev": "gateway.cli.dev",
    "wrap": "gateway.cli.wrap",
    "db": "gateway.cli.db",
    "keys": "gateway.cli.keys",
}


class _OnDemand(click.Group):
    """Loads a command's module at its first use: the SDK and SQLAlchemy cost seconds that `--help` need not pay."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        module = _COMMANDS.get(cmd_name)
        if module is None:
            return None
        command: click.Command = getattr(importlib.import_module(module), cmd_name)
        return command


@click.group(cls=_OnDemand, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="mcp-gateway")
def main() -> None:
    """One MCP endpoint for many MCP servers."""
