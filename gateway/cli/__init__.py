"""The command line: `mcp-gateway …`."""

import click


@click.group()
def main() -> None:
    """One MCP endpoint for many MCP servers."""
