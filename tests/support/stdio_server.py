"""A stdio server made with the official SDK, which serves both eras: legacy after `initialize`, else 2026-07-28."""

import os
from typing import Annotated

from mcp.server.mcpserver import Context, Elicit, MCPServer, Resolve
from mcp_types import LoggingMessageNotification, LoggingMessageNotificationParams
from pydantic import BaseModel

server = MCPServer("stdio-reference", version="1.0")
notes: list[str] = []


class Name(BaseModel):
    name: str


def who_asks() -> Elicit[Name]:
    return Elicit("Who are you?", Name)


@server.tool()
def note(text: str) -> list[str]:
    """Remember a text for as long as this process lives."""
    notes.append(text)
    return notes


@server.tool()
def pid() -> int:
    return os.getpid()


@server.tool()
async def greet(person: Annotated[Name, Resolve(who_asks)]) -> str:
    """Ask for a name, by a request or by InputRequiredResult as the era has it."""
    return f"Hello {person.name}"


@server.tool()
async def climb(steps: int, context: Context) -> str:
    """Report each step, and a log line."""
    for step in range(1, steps + 1):
        await context.report_progress(step, steps)
    line = LoggingMessageNotificationParams(level="info", data="at the top")
    await context.session.send_notification(LoggingMessageNotification(params=line), context.request_id)
    return "climbed"


@server.tool()
async def publish(context: Context) -> str:
    await context.notify_tools_changed()
    return "published"


if __name__ == "__main__":
    server.run()
