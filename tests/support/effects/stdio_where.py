"""A stdio server of 2025-11-25 with one tool, which says where it runs and what it was given."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any


def answer(method: str) -> dict[str, Any] | None:
    """The result of a method, None for one that this server does not have."""
    if method == "initialize":
        info = {"name": "where", "version": "1"}
        return {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": info}
    if method == "tools/list":
        return {"tools": [{"name": "where", "inputSchema": {"type": "object"}}]}
    if method == "tools/call":
        facts = {"cwd": str(Path.cwd()), "GIVEN": os.environ.get("GIVEN")}
        return {"content": [{"type": "text", "text": json.dumps(facts)}]}
    return None


def main() -> None:
    """Answers line by line until its input ends."""
    for line in sys.stdin:
        message = json.loads(line)
        if "id" in message and "method" in message:
            result = answer(message["method"])
            outcome = {"error": {"code": -32601, "message": "no"}} if result is None else {"result": result}
            sys.stdout.write(json.dumps({"jsonrpc": "2.0", "id": message["id"], **outcome}) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
