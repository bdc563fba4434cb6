"""The composition root: from settings to a running ASGI application. The only module here that knows every class."""

from __future__ import annotations

import asyncio
import os
import ssl
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Final

import orjson
import structlog

from catalogue import declared
from catalogue.live import Catalogue
from catalogue.model import Definition, Server
from catalogue.storage import PostgresDefinitionStore
from gateway.bridge.announcements import Announcements
from gateway.bridge.lists import Lists
from gateway.bridge.request_state import RequestStates
from gateway.bridge.server_requests import ServerRequests
from gateway.dispatch import Dispatch
from gateway.edge.app import Edge
from gateway.edge.authentication import Authentication
from gateway.edge.guard import Guard
from gateway.edge.http import Receive, Scope, Send
from gateway.edge.http_sse import HttpSse
from gateway.edge.inflight import InFlight
from gateway.edge.listening import Listening
from gateway.edge.methods import LegacyMethods
from gateway.edge.modern import Modern
from gateway.edge.streamable import Streamable
from gateway.edge.subscriptions import Subscriptions
from gateway.errors import StorageUnavailable
from gateway.identity.api_keys import ApiKeys
from gateway.keys import KeyRing
from gateway.policy.standard import standard
from gateway.sessions.model import UpstreamSession
from gateway.sessions.registry import SessionRegistry
from gateway.settings import Settings
from gateway.storage.changes import Changes
from gateway.storage.engine import Database
from gateway.storage.journal import Journal
from gateway.storage.keys import PostgresKeyStore
from gateway.storage.sessions import PostgresSessionStore
from gateway.storage.stream_log import PostgresStreamLog
from gateway.upstream.pool import Pool

log = structlog.get_logger()

READY_WITHOUT_DATABASE: Final = 60.0
"""Seconds for which a replica that has lost Postgres stays in service: to end all replicas at once helps nobody."""


class Gateway:
    """One replica: an ASGI application with a lifespan. Everything it keeps is in Postgres or can be lost.

    `clock` gives seconds that only go forward, as `time.monotonic`.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        database_url: str,
        keys: KeyRing,
        host: str,
        port: int,
        state_dir: Path,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        section = settings.gateway
        self._database = Database(database_url)
        self._changes = Changes(self._database, clock=clock)
        self._stream_log = PostgresStreamLog(self._database, self._changes, clock=time.time)
        self._registry = SessionRegistry(
            PostgresSessionStore(self._database, keys),
            self._changes,
            clock=time.time,
            idle=timedelta(seconds=section.session_idle),
            expired=self._end_expired,
        )
        self._definitions = PostgresDefinitionStore(self._database.connect)
        self._catalogue = Catalogue(declared.servers(settings.servers), time.monotonic)
        self._journal = Journal(state_dir / "records" / f"{os.getpid()}.jsonl")
        self._background: set[asyncio.Task[None]] = set()
        self._upstreams = Pool(
            self._catalogue,
            self._registry,
            tls=ssl.create_default_context(),
            refresh=section.refresh,
            published=self._save,
        )
        dispatch = Dispatch(
            self._catalogue,
            standard(self._journal),
            self._upstreams,
            Lists(keys, page_size=section.page_size, cache_bytes=section.list_cache_bytes),
            RequestStates(keys),
        )
        announcements = Announcements(self._catalogue)
        api_keys = ApiKeys(PostgresKeyStore(self._database), keys, self._changes, clock=time.time)
        methods = LegacyMethods(
            dispatch, self._registry, self._upstreams, ServerRequests(keys), InFlight(self._changes)
        )
        self._listening = Listening(dispatch, announcements, keep_alive=section.keep_alive)
        subscriptions = Subscriptions(dispatch, self._registry, self._changes)
        self._streamable = Streamable(
            methods,
            self._registry,
            announcements,
            subscriptions,
            self._stream_log,
            self._changes,
            grace=section.stream_grace,
            keep_alive=section.keep_alive,
        )
        self._http_sse = HttpSse(
            methods,
            announcements,
            subscriptions,
            self._stream_log,
            self._changes,
            keep_alive=section.keep_alive,
            max_body=section.max_body_bytes,
        )
        self._edge = Edge(
            guard=Guard(
                host=host,
                port=port,
                public_url=section.public_url,
                hosts=section.allowed_hosts,
                origins=section.allowed_origins,
            ),
            authentication=Authentication(api_keys, anonymous=section.authentication.mode == "anonymous"),
            dispatch=dispatch,
            modern=Modern(dispatch, self._listening, grace=section.stream_grace, keep_alive=section.keep_alive),
            streamable=self._streamable,
            http_sse=self._http_sse,
            ready=self._ready,
            max_body=section.max_body_bytes,
        )
        self._draining = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        else:
            await self._edge(scope, receive, send)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        async with self.running():
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": "lifespan.shutdown.complete"})

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Everything that runs beside requests."""
        await self._changes.start()
        await self._registry.start()
        await self._stream_log.start()
        await self._load()
        self._upstreams.start()
        try:
            yield
        finally:
            await self._upstreams.close()
            await self._stream_log.stop()
            await self._registry.stop()
            await self._changes.stop()
            await asyncio.gather(*self._background, return_exceptions=True)
            await self._database.dispose()
            self._journal.close()

    def drain(self) -> None:
        """Begins to go away: not ready any more, standing streams end so that their clients go elsewhere."""
        self._draining = True
        self._listening.end_all()
        self._streamable.end_all()
        self._http_sse.end_all()

    async def _ready(self) -> tuple[int, bytes]:
        """Readiness is ours alone: no upstream's health is in it."""
        if self._draining:
            return 503, b'{"status":"draining"}'
        if self._changes.healthy:
            return 200, b'{"status":"ok"}'
        away = self._changes.unheard_for
        if away >= READY_WITHOUT_DATABASE:
            return 503, b'{"status":"database unavailable"}'
        return 200, orjson.dumps({"status": "degraded", "detail": f"database unavailable for {away:.0f} s"})

    def _end_expired(self, left: Sequence[tuple[str, UpstreamSession]]) -> None:
        """Holders have expired: their upstream sessions are ended in the background."""
        for holder_key, session in left:
            task = asyncio.get_running_loop().create_task(self._upstreams.end_sessions(holder_key, [session]))
            self._background.add(task)
            task.add_done_callback(self._background.discard)

    # --- definitions outlive the process: a server that is away when we start is still listed

    async def _load(self) -> None:
        kept = await self._definitions.load_all()
        for server in self._catalogue.servers:
            if (found := kept.get((server.slug, server.version))) is not None:
                self._catalogue.publish(server, Definition.from_json(found[1]))
                self._catalogue.publish(server, None)

    def _save(self, server: Server, definition: Definition) -> None:
        task = asyncio.get_running_loop().create_task(self._save_now(server, definition))
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _save_now(self, server: Server, definition: Definition) -> None:
        try:
            body = definition.to_json()
            await self._definitions.save(server.slug, server.version, definition.digest, body)
        except StorageUnavailable as error:
            log.warning("definition_not_kept", upstream=server.slug, error=str(error))
