"""The upstream that every foreign client is shown: one small thing of each kind, in both protocol eras.

Run as a process of its own: `python fixture_upstream.py PORT`. It answers on `http://127.0.0.1:PORT/mcp`.
"""

import base64
import sys

from mcp.server.mcpserver import Context, Image, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from pydantic import BaseModel

PICTURE = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
ITEMS = {"1": "one kettle", "2": "two cups"}

server = MCPServer("fixture-upstream", version="1.0.0", instructions="Adds numbers, counts down, shows a picture.")


class Sum(BaseModel):
    """What `add` answers; a model, so that the tool has an output schema and a structured result."""

    total: int


@server.tool()
def add(a: int, b: int) -> Sum:
    """Add two whole numbers."""
    return Sum(total=a + b)


@server.tool(structured_output=False)
async def countdown(start: int, ctx: Context) -> str:
    """Count down from `start` to zero and report every step as progress."""
    for done in range(start + 1):
        await ctx.report_progress(done, start, f"{start - done} to go")
    return f"counted down from {start}"


@server.tool(structured_output=False)
def picture() -> Image:
    """Show a picture of one pixel."""
    return Image(data=PICTURE, format="png")


@server.tool(structured_output=False)
def fail(reason: str) -> str:
    """Fail for the reason given."""
    raise ToolError(f"failed because {reason}")


@server.prompt()
def greet(name: str) -> str:
    """Greet someone by name."""
    return f"Please greet {name} warmly."


@server.resource("fixture://motd", mime_type="text/plain")
def motd() -> str:
    """The message of the day."""
    return "kettle on"


@server.resource("fixture://items/{number}", mime_type="text/plain")
def item(number: str) -> str:
    """One item of the stock list."""
    return ITEMS[number]


if __name__ == "__main__":
    server.settings.log_level = "WARNING"
    server.run("streamable-http", host="127.0.0.1", port=int(sys.argv[1]))
