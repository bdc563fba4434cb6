"""The root of the command line; each command has a module of its own, loaded when it is asked for."""

from __future__ import annotations

import importlib
from typing import Final

import click

# Command -> module and the line `--help` shows; `worker` is internal.
_COMMANDS: Final = {
    "serve": ("gateway.cli.serve", "Start the gateway."),
    "dev": ("gateway.cli.dev", "Start the gateway with everything it needs on this machine."),
    "wrap": ("gateway.cli.wrap", "Turn a stdio server into Streamable HTTP."),
    "keys": ("gateway.cli.keys", "Create, list, rotate and revoke API keys."),
    "db": ("gateway.cli.db", "Upgrade the database, or show its state."),
    "worker": ("gateway.cli.worker", None),
}


class _OnDemand(click.Group):
    """Loads a command's module at its first use: the SDK and SQLAlchemy cost seconds that `--help` need not pay."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for name, (_, line) in _COMMANDS.items() if line is not None]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = getattr(importlib.import_module(_COMMANDS[cmd_name][0]), cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in _COMMANDS.items() if line is not None])


@click.group(cls=_OnDemand, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="mcp-gateway")
def main() -> None:
    """One MCP endpoint for many MCP servers."""
