"""Learns what an upstream offers, on a session of its own, and keeps it current."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import structlog

from catalogue import schemas
from catalogue.model import Definition, Freshness, Kind, Server
from gateway.calls import Answer
from gateway.errors import UpstreamError, UpstreamProtocolError, UpstreamRefused
from gateway.sessions.model import UpstreamSession
from gateway.upstream.exchange import SessionLost
from gateway.upstream.http_sse import Connection
from gateway.upstream.permits import Housekeeping, HousekeepingPermit
from gateway.upstream.upstream import Era, Upstream

log = structlog.get_logger()

PAGES: Final = 100
"""Pages of one list that are read; an upstream with more is cut off with a finding."""
LIST_CHANGES: Final[Mapping[str, tuple[Kind, ...]]] = {
    "notifications/tools/list_changed": (Kind.TOOL,),
    "notifications/prompts/list_changed": (Kind.PROMPT,),
    "notifications/resources/list_changed": (Kind.RESOURCE, Kind.TEMPLATE),
}

_FETCH_SECONDS = 10.0
_DEBOUNCE_SECONDS = 0.05
_LEAST_REFRESH_SECONDS = 5.0
_METHODS = {
    Kind.TOOL: Housekeeping.LIST_TOOLS,
    Kind.PROMPT: Housekeeping.LIST_PROMPTS,
    Kind.RESOURCE: Housekeeping.LIST_RESOURCES,
    Kind.TEMPLATE: Housekeeping.LIST_TEMPLATES,
}
_CAPABILITY = {Kind.TOOL: "tools", Kind.PROMPT: "prompts", Kind.RESOURCE: "resources", Kind.TEMPLATE: "resources"}
_MALFORMED = {
    Kind.TOOL: schemas.malformed_tool,
    Kind.PROMPT: schemas.malformed_prompt,
    Kind.RESOURCE: schemas.malformed_resource,
    Kind.TEMPLATE: schemas.malformed_template,
}

Hint = tuple[float, Freshness | None]
"""When a page was read, and what it says of its freshness."""
Publish = Callable[[Server, Definition | None, frozenset[Kind]], None]
"""Takes (server, its definition or None while it is unavailable, kinds the upstream itself said had changed)."""


@dataclass(slots=True)
class Line:
    """Discovery's own way to the upstream, with what the handshake said."""

    era: Era
    hello: Mapping[str, Any]
    session: UpstreamSession | None = None
    connection: Connection | None = None


class Discovery:
    """One task per upstream: fetch, publish, watch; with backoff while the upstream is away."""

    def __init__(self, upstream: Upstream, publish: Publish, refresh: float) -> None:
        self._upstream = upstream
        self._publish = publish
        self._refresh = refresh
        self._line: Line | None = None
        self._changed = asyncio.Event()
        self._told: set[Kind] = set()
        self._watch: asyncio.Task[None] | None = None
        self._fetching = asyncio.Lock()
        self.settled = asyncio.Event()

    def tell(self, method: str) -> None:
        """The upstream said that a list changed, on whatever stream."""
        self._told.update(LIST_CHANGES[method])
        self._changed.set()

    async def run(self) -> None:
        """Runs until cancelled."""
        failures = 0
        try:
            while True:
                try:
                    definition = await self.fetch()
                except (UpstreamError, TimeoutError, ValueError) as error:
                    failures += 1
                    self._upstream.doubt(error)
                    self._publish(self._upstream.server, None, frozenset())
                    self.settled.set()
                    words = str(error) or f"no answer within {_FETCH_SECONDS:g} s"
                    log.warning("discovery_failed", upstream=self._upstream.server.slug, error=words)
                    await self._forget()
                    await asyncio.sleep(min(30.0, 0.5 * 2 ** min(failures, 6)) * random.uniform(0.5, 1.0))  # noqa: S311
                    continue
                failures = 0
                await self._wait(definition)
        finally:
            await self._forget()

    async def fetch(self) -> Definition:
        """Reads every list once and publishes; callers at the same time take turns."""
        async with self._fetching:
            self._changed.clear()
            told, self._told = frozenset(self._told), set()
            async with asyncio.timeout(_FETCH_SECONDS):
                try:
                    definition = await self._read()
                except SessionLost:
                    await self._forget()
                    definition = await self._read()
            self._publish(self._upstream.server, definition, told)
            self.settled.set()
            return definition

    async def _wait(self, definition: Definition) -> None:
        """Returns when the lists should be read again."""
        if self._watch is None or self._watch.done():
            listening = self._listen(definition, self._line)
            self._watch = asyncio.create_task(listening, name=f"watch {self._upstream.server.slug}")
        wait = self._refresh
        if (ttl := definition.least_ttl) is not None:
            wait = min(max(ttl / 1000, _LEAST_REFRESH_SECONDS), self._refresh)
        try:
            async with asyncio.timeout(wait):
                await self._changed.wait()
        except TimeoutError:
            return
        await asyncio.sleep(_DEBOUNCE_SECONDS)

    # --- reading

    async def _read(self) -> Definition:
        line = self._line or await self._connect()
        if line.era is not Era.MODERN:  # nothing to keep there: asking again is how a new version is noticed
            self._line = line
        capabilities = line.hello.get("capabilities")
        if not isinstance(capabilities, dict):
            raise self._protocol_error("declared no capabilities")
        findings: list[str] = []
        kinds = [kind for kind in Kind if _CAPABILITY[kind] in capabilities]
        read = await asyncio.gather(*(self._list(line, kind, findings) for kind in kinds))
        info = line.hello.get("serverInfo") or _meta(line.hello).get("io.modelcontextprotocol/serverInfo")
        instructions = line.hello.get("instructions")
        return Definition(
            items={kind: items for kind, (items, _) in zip(kinds, read, strict=True)},
            capabilities=capabilities,
            server_info=info if isinstance(info, dict) else {},
            instructions=instructions if isinstance(instructions, str) else None,
            findings=tuple(findings),
            freshness={
                kind: fresh for kind, (_, hints) in zip(kinds, read, strict=True) if (fresh := _left(hints)) is not None
            },
        )

    async def _connect(self) -> Line:
        upstream = self._upstream
        era = upstream.era or await upstream.probe()
        if era is Era.MODERN:
            answer = await upstream.modern.housekeep(HousekeepingPermit(Housekeeping.DISCOVER), {})
            return Line(era, answer.value)
        if era is Era.LEGACY:
            session, answer = await upstream.legacy.handshake(_DECLARED)
            return Line(era, answer.value, session=session)
        connection = await upstream.http_sse.open({}, self._aside)
        return Line(era, {} if connection.hello is None else connection.hello.value, connection=connection)

    async def _list(
        self, line: Line, kind: Kind, findings: list[str]
    ) -> tuple[tuple[Mapping[str, Any], ...], list[Hint]]:
        items: dict[str, Mapping[str, Any]] = {}
        cursor: str | None = None
        hints: list[Hint] = []
        for _ in range(PAGES):
            try:
                answer = await self._ask(line, _METHODS[kind], {} if cursor is None else {"cursor": cursor})
            except UpstreamRefused as error:
                if error.code == -32601 and kind is Kind.TEMPLATE:  # declared by `resources`, yet optional in practice
                    break
                raise
            page = answer.exact()
            listed = page.get(kind.value)
            if not isinstance(listed, list):
                raise self._protocol_error(f"answered {kind.method} without {kind.value}")
            for item in listed:
                if (reason := _MALFORMED[kind](item)) is not None:
                    name = item.get(kind.key) if isinstance(item, dict) else None
                    findings.append(f"{kind.value}: {name!r} is left out: {reason}")
                    log.warning("item_left_out", upstream=self._upstream.server.slug, item=str(name), reason=reason)
                else:
                    items.setdefault(item[kind.key], item)
            hints.append((time.monotonic(), Freshness.of(page)))
            next_cursor = page.get("nextCursor")
            if not isinstance(next_cursor, str) or next_cursor == cursor:
                break
            cursor = next_cursor
        else:
            findings.append(f"{kind.value}: more than {PAGES} pages; the rest is left out")
        return tuple(items.values()), hints

    async def _ask(self, line: Line, method: Housekeeping, params: Mapping[str, Any]) -> Answer:
        permit = HousekeepingPermit(method)
        upstream = self._upstream
        if line.session is not None:
            return await upstream.legacy.housekeep(line.session, permit, params)
        if line.connection is not None:
            return await upstream.http_sse.housekeep(line.connection, permit, params)
        return await upstream.modern.housekeep(permit, params)

    # --- watching

    def _aside(self, method: str, params: dict[str, Any]) -> None:
        del params
        if method in LIST_CHANGES:
            self.tell(method)

    async def _listen(self, definition: Definition, line: Line | None) -> None:
        """Holds the stream on which list changes are told; when it breaks, the lists are read again too."""
        wanted = {
            f"{name}ListChanged": True
            for name in ("tools", "prompts", "resources")
            if isinstance(section := definition.capabilities.get(name), dict) and section.get("listChanged")
        }
        if not wanted or (line is not None and line.connection is not None):
            return
        failures = 0
        while True:
            started = time.monotonic()
            try:
                if line is None or line.session is None:
                    permit = HousekeepingPermit(Housekeeping.LISTEN)
                    await self._upstream.modern.listen(permit, wanted, self._aside)
                elif not await self._upstream.legacy.listen(line.session, self._aside):
                    return
            except SessionLost:
                self._line = None
                self._changed.set()
                return
            except UpstreamRefused:
                return
            except (UpstreamError, TimeoutError):
                pass
            failures = 0 if time.monotonic() - started > 30 else failures + 1
            await asyncio.sleep(min(30.0, 0.2 * 2 ** min(failures, 8)) * random.uniform(0.5, 1.0))  # noqa: S311
            self._changed.set()

    async def _forget(self) -> None:
        """Lets go of the discovery session and its stream."""
        watch, self._watch = self._watch, None
        line, self._line = self._line, None
        if watch is not None:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)
        if line is not None and line.session is not None:
            await self._upstream.legacy.close(line.session)
        if line is not None and line.connection is not None:
            await line.connection.close()

    def _protocol_error(self, what: str) -> UpstreamProtocolError:
        slug = self._upstream.server.slug
        return UpstreamProtocolError(slug, f"The server {slug} {what}.")


# Declared so that upstreams list the tools they offer to interactive clients; nobody is ever asked on this session.
_DECLARED: Mapping[str, Any] = {"elicitation": {"form": {}, "url": {}}}


def _left(hints: Sequence[Hint]) -> Freshness | None:
    """What is left now for a list of these pages: as fresh as its oldest page, public only if all are."""
    if all(fresh is None for _, fresh in hints):
        return None
    now = time.monotonic()
    left = min(0 if fresh is None else fresh.ttl_ms - math.ceil((now - at) * 1000) for at, fresh in hints)
    return Freshness(max(0, left), all(fresh is not None and fresh.public for _, fresh in hints))


def _meta(value: Mapping[str, Any]) -> Mapping[str, Any]:
    meta = value.get("_meta")
    return meta if isinstance(meta, dict) else {}
