"""The three planes of an attack: what the client got, what the upstream saw, what was recorded."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from gateway.identity.issuing import KeyIssuer
from gateway.storage.engine import Database
from gateway.storage.keys import PostgresKeyStore
from tests.support.gateway import RING, Replica, ask_modern, replica, server
from tests.support.upstreams import ScriptedUpstream, Seen, scripted

REQUIRED = {"authentication": {"mode": "required"}}
# What the gateway sends of its own accord, with nothing of any caller in it.
_OWN = frozenset(
    {
        *("server/discover", "initialize", "notifications/initialized", "subscriptions/listen"),
        *("tools/list", "prompts/list", "resources/list", "resources/templates/list"),
    }
)


async def issue_key(database_url: str, *grants: str, scopes: tuple[str, ...] = ()) -> str:
    """The text of a new key, of a new principal; without grants it sees everything."""
    database = Database(database_url, pool_size=1)
    try:
        issuer = KeyIssuer(PostgresKeyStore(database), RING, time.time)
        return (await issuer.create("attacker", scopes=scopes, grants=grants or ("*",))).text
    finally:
        await database.dispose()


def bearer(key: str | None) -> dict[str, str]:
    """The header that carries a key."""
    return {} if key is None else {"authorization": f"Bearer {key}"}


@dataclass(slots=True)
class Since:
    """What the upstreams saw and what was recorded from some moment on."""

    _planes: Planes
    _seen: dict[str, int]
    _recorded: int

    @property
    def dispatched(self) -> list[Seen]:
        """Requests that carried something of a caller to any upstream."""
        return [
            seen
            for slug, upstream in self._planes.upstreams.items()
            for seen in upstream.seen[self._seen[slug] :]
            if seen.method == "POST" and seen.json.get("method") not in _OWN
        ]

    @property
    def arrived(self) -> list[Seen]:
        """Every request that any upstream saw."""
        return [seen for slug, upstream in self._planes.upstreams.items() for seen in upstream.seen[self._seen[slug] :]]

    @property
    def records(self) -> list[dict[str, Any]]:
        """Lines of the journal."""
        return self._planes.running.records()[self._recorded :]

    def nothing_happened(self) -> bool:
        """No request went out and no call was opened."""
        return not self.dispatched and not self.records


@dataclass(slots=True)
class Planes:
    """One replica with its upstreams by slug, and a client without cookies or redirects."""

    running: Replica
    upstreams: dict[str, ScriptedUpstream]
    http: aiohttp.ClientSession
    key: str | None = None

    @property
    def port(self) -> int:
        """The replica's."""
        return int(self.running.origin.rpartition(":")[2])

    @property
    def upstream(self) -> ScriptedUpstream:
        """The only one."""
        (only,) = self.upstreams.values()
        return only

    def since_now(self) -> Since:
        """Watches from now on."""
        seen = {slug: len(upstream.seen) for slug, upstream in self.upstreams.items()}
        return Since(self, seen, len(self.running.records()))

    async def ask(self, method: str, params: dict[str, Any] | None = None, **options: Any) -> tuple[int, Any]:
        """A modern request on the federated endpoint with the key, if there is one; `endpoint` names another URL."""
        headers = {**bearer(self.key), **options.pop("headers", {})}
        url = options.pop("endpoint", self.running.mcp)
        return await ask_modern(self.http, url, method, params, headers=headers, **options)

    async def call(self, name: str, arguments: dict[str, Any] | None = None, **options: Any) -> tuple[int, Any]:
        """A modern `tools/call`."""
        return await self.ask("tools/call", {"name": name, "arguments": arguments or {}}, **options)

    async def assert_alive(self) -> None:
        """The same replica answers the next good request: it reaches the upstream and is on record."""
        since = self.since_now()
        nonce = uuid.uuid4().hex
        slug = next(iter(self.upstreams))
        status, answer = await self.call(f"{slug}__echo", {"nonce": nonce})
        assert status == 200
        assert nonce in answer["result"]["content"][0]["text"]
        record = answer["result"]["_meta"]["dev.mcp-gateway/record"]
        assert [line["event"] for line in since.records if line["record"] == record] == ["opened", "closed"]
        assert any(nonce.encode() in seen.body for seen in since.dispatched)


@asynccontextmanager
async def planes(
    database_url: str,
    state_dir: Path,
    *,
    gateway: dict[str, Any] | None = None,
    settings: dict[str, dict[str, Any]] | None = None,
    key: str | None = None,
    others: dict[str, str] | None = None,
    **upstreams: ScriptedUpstream,
) -> AsyncIterator[Planes]:
    """Starts a replica in front of the named upstreams, and of `others`, which are given by slug and address.

    `settings` adds members to their configuration, by slug.
    """
    async with _all_served(upstreams):
        addresses = {slug: each.url for slug, each in upstreams.items()} | (others or {})
        declared = [server(slug, url, **(settings or {}).get(slug, {})) for slug, url in addresses.items()]
        async with (
            replica(database_url, state_dir, declared, gateway=gateway) as running,
            aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as http,
        ):
            found = Planes(running, upstreams, http, key)
            await found.ask("tools/list")  # waits until every upstream is known
            yield found


@asynccontextmanager
async def _all_served(upstreams: dict[str, ScriptedUpstream]) -> AsyncIterator[None]:
    if not upstreams:
        yield
        return
    (slug, first), *rest = upstreams.items()
    del slug
    async with scripted(first), _all_served(dict(rest)):
        yield
