"""A replica in front of scripted upstreams, and clients of any revision for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from gateway.identity.issuing import KeyIssuer
from gateway.storage.engine import Database
from gateway.storage.keys import PostgresKeyStore
from tests.support.clients import SECONDS, Client, connected
from tests.support.gateway import RING, Replica, replica, server
from tests.support.listening import listening
from tests.support.upstreams import Act, ScriptedUpstream, Seen


@dataclass
class Federation:
    """The replica, its upstreams by slug, and an HTTP client to reach it by."""

    replica: Replica
    upstreams: Mapping[str, ScriptedUpstream]
    http: aiohttp.ClientSession
    database_url: str

    def client(
        self,
        revision: str,
        *,
        endpoint: str = "",
        capabilities: Mapping[str, Any] | None = None,
        key: str | None = None,
    ) -> AbstractAsyncContextManager[Client]:
        """A connected client."""
        return connected(self.http, self.replica, revision, endpoint=endpoint, capabilities=capabilities, key=key)

    async def key(self, *grants: str, scopes: tuple[str, ...] = ()) -> str:
        """An API key of a principal of its own."""
        database = Database(self.database_url)
        try:
            issuer = KeyIssuer(PostgresKeyStore(database), RING, time.time)
            return (await issuer.create("test", grants=grants or ("*",), scopes=scopes)).text
        finally:
            await database.dispose()


@contextmanager
def acting(upstream: ScriptedUpstream, method: str, act: Act) -> Iterator[None]:
    """Lets a shared upstream answer a method otherwise for a while."""
    before = upstream.acts.get(method)
    upstream.acts[method] = act
    try:
        yield
    finally:
        del upstream.acts[method]
        if before is not None:
            upstream.acts[method] = before


def last(upstream: ScriptedUpstream, method: str) -> Seen:
    """The last request of a method that an upstream saw."""
    return next(seen for seen in reversed(upstream.seen) if seen.body and seen.json.get("method") == method)


@asynccontextmanager
async def federation(
    database_url: str,
    state_dir: Path,
    upstreams: Mapping[str, ScriptedUpstream],
    *,
    extra: Mapping[str, Mapping[str, Any]] | None = None,
    **gateway: Any,
) -> AsyncIterator[Federation]:
    """Serves all of it, once every upstream has been discovered; the upstreams share one origin.

    `extra` are settings of a server, by slug; `gateway` those of the gateway's section.
    """

    async def serve(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await upstreams[scope["path"].split("/")[1]](scope, receive, send)

    async with AsyncExitStack() as stack:
        origin = await stack.enter_async_context(listening(serve))
        for slug, upstream in upstreams.items():
            upstream.url = f"{origin}/{slug}/mcp"
        servers = [server(slug, each.url, **(extra or {}).get(slug, {})) for slug, each in upstreams.items()]
        running = await stack.enter_async_context(replica(database_url, state_dir, servers, gateway=gateway))
        async with asyncio.timeout(SECONDS):  # what discovery asks must not mix with what a test's calls ask
            for discovery in running.gateway._upstreams._discoveries.values():
                await discovery.settled.wait()
        http = await stack.enter_async_context(aiohttp.ClientSession())
        yield Federation(running, upstreams, http, database_url)
