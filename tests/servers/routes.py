"""Servers that other people wrote, and the routes on which a test can talk to them: stdio, or a gateway's `/mcp`."""

import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcp import Client
from mcp.client.client import ConnectMode
from mcp.client.context import ClientRequestContext
from mcp.client.stdio import StdioServerParameters
from mcp_types import BlobResourceContents, CallToolResult, ElicitRequestParams, ElicitResult, TextResourceContents

from tests.support.foreign import SERVERS, Endpoint, client_of, node_environment, python_environment


@dataclass(frozen=True)
class Desk:
    """The files the servers work on, and how each server is started."""

    documents: Path
    repository: Path
    commands: Mapping[str, tuple[str, ...]]
    """Command by slug."""


def laid_out(folder: Path) -> Desk:
    """A desk in an empty folder: one document, a repository with one commit, an empty memory."""
    documents, repository = folder / "documents", folder / "repository"
    documents.mkdir()
    (documents / "tea.txt").write_text("two spoons a pot")
    subprocess.run(["git", "init", "--quiet", "--initial-branch=main", repository], check=True)
    author = ["-c", "user.name=Ada", "-c", "user.email=ada@example.test"]
    commit = ["commit", "--quiet", "--allow-empty", "--message", "Put the kettle on"]
    subprocess.run(["git", *author, *commit], cwd=repository, check=True)
    npm = node_environment(SERVERS / "npm") / "@modelcontextprotocol"
    pypi = python_environment(SERVERS / "pypi").parent

    def node(server: str, *arguments: str) -> tuple[str, ...]:
        return ("node", str(npm / server / "dist" / "index.js"), *arguments)

    commands = {
        "everything": node("server-everything", "stdio"),
        "filesystem": node("server-filesystem", str(documents)),
        # Without a file of its own this server writes into the folder it is installed in.
        "memory": ("env", f"MEMORY_FILE_PATH={folder / 'memory.jsonl'}", *node("server-memory")),
        "thinking": node("server-sequential-thinking"),
        "git": (str(pypi / "mcp-server-git"), "--repository", str(repository)),
        "time": (str(pypi / "mcp-server-time"), "--local-timezone", "UTC"),
        "fetch": (str(pypi / "mcp-server-fetch"), "--allow-private-ips", "--ignore-robots-txt"),
    }
    return Desk(documents, repository, commands)


async def ada_answers(context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
    """What the person in front of the client says to every question."""
    return ElicitResult(action="accept", content={"name": "Ada Lovelace"})


@asynccontextmanager
async def over_stdio(command: tuple[str, ...], *, answers: bool = True) -> AsyncIterator[Client]:
    """A client of a server of its own; `answers` is whether it offers to ask its user."""
    program, *arguments = command
    parameters = StdioServerParameters(command=program, args=arguments)
    async with Client(parameters, elicitation_callback=ada_answers if answers else None) as client:
        yield client


@dataclass(frozen=True)
class Peer:
    """One server as a test talks to it: by the server's own names, over whichever route."""

    client: Client
    tool_prefix: str = ""
    uri_prefix: str = ""

    async def call(self, tool: str, arguments: Mapping[str, Any], **options: Any) -> CallToolResult:
        return await self.client.call_tool(self.tool_prefix + tool, dict(arguments), **options)

    async def read(self, uri: str) -> TextResourceContents | BlobResourceContents:
        """The one content of a resource; `uri` is the server's own."""
        return await self.follow(self.uri_prefix + uri)

    async def follow(self, uri: str) -> TextResourceContents | BlobResourceContents:
        """The one content of a resource; `uri` is as it was told on this route."""
        (contents,) = (await self.client.read_resource(uri)).contents
        return contents


@dataclass(frozen=True)
class Route:
    """Straight to a server's stdio, or through the endpoint of a gateway with a client of one era."""

    desk: Desk
    endpoint: Endpoint | None
    era: ConnectMode

    @asynccontextmanager
    async def to(self, slug: str) -> AsyncIterator[Peer]:
        if self.endpoint is None:
            async with over_stdio(self.desk.commands[slug]) as client:
                yield Peer(client)
        else:
            async with client_of(self.endpoint, self.era, ada_answers) as client:
                yield Peer(client, tool_prefix=f"{slug}__", uri_prefix=f"{slug}+")
