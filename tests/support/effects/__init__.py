"""What each setting does, one function per setting: it changes the setting alone and watches what becomes different."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from tests.support.gateway import Replica, replica

Effect = Callable[["Bench"], Awaitable[None]]
EFFECTS: dict[str, Effect] = {}
"""By the path of the setting, as a file has it."""

_SLUGS = itertools.count(1)


def effect(*paths: str) -> Callable[[Effect], Effect]:
    """Enters a function as the one that shows what these settings do."""

    def enter(function: Effect) -> Effect:
        for path in paths:
            assert path not in EFFECTS, path
            EFFECTS[path] = function
        return function

    return enter


@dataclass(slots=True)
class Running:
    """A replica and a client's HTTP session."""

    replica: Replica
    http: aiohttp.ClientSession

    async def status(self, path: str = "/mcp", **headers: str) -> int:
        """Of a request that is good but for what its headers may be."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.http.get(f"{self.replica.origin}{path}", headers=named) as response:
            return response.status


@dataclass(slots=True)
class Bench:
    """Where effects are watched: a database, and folders for replicas."""

    database_url: str
    folder: Path

    @property
    def slug(self) -> str:
        """One that nobody has used: what an earlier server of the same slug published is kept in the database."""
        return f"s{next(_SLUGS)}"

    @asynccontextmanager
    async def running(self, *servers: dict[str, Any], **gateway: Any) -> AsyncIterator[Running]:
        """A replica with these servers and these settings of the gateway's own section."""
        state_dir = self.folder / self.slug
        async with (
            replica(self.database_url, state_dir, servers, gateway=gateway) as started,
            aiohttp.ClientSession() as http,
        ):
            yield Running(started, http)
