"""How to connect: the lines a person copies into a client's configuration."""

from __future__ import annotations

import json
from typing import Any


def render(endpoint: str, key: str | None, seconds: float) -> str:
    """Endpoint, key and one snippet per client, ready to paste."""
    header = {"Authorization": f"Bearer {key}"} if key else {}
    vscode: dict[str, Any] = {"servers": {"gateway": {"type": "http", "url": endpoint}}}
    cursor: dict[str, Any] = {"mcpServers": {"gateway": {"url": endpoint}}}
    if header:
        vscode["servers"]["gateway"]["headers"] = header
        cursor["mcpServers"]["gateway"]["headers"] = header
    argument = f' --header "Authorization: Bearer {key}"' if key else ""
    return "\n".join(
        (
            f"mcp-gateway is ready ({seconds:.1f} s)",
            "",
            f"  endpoint  {endpoint}",
            f"  key       {key or 'none needed: anonymous on loopback'}",
            "  console   not part of this version",
            "",
            "Claude Code",
            f"  claude mcp add --transport http gateway {endpoint}{argument}",
            "",
            "VS Code (.vscode/mcp.json)",
            f"  {json.dumps(vscode)}",
            "",
            "Cursor (.cursor/mcp.json)",
            f"  {json.dumps(cursor)}",
            "",
            "Inspector",
            f"  npx @modelcontextprotocol/inspector --cli {endpoint} --transport http --method tools/list{argument}",
            "",
            "Ctrl-C stops everything.",
        )
    )
