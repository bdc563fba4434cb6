"""What a replica needs of Postgres: nothing per call, little per session, and what it does while Postgres is away."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import httpx
import pytest

from gateway.app import READY_WITHOUT_DATABASE, Gateway
from gateway.cli.postgres import EmbeddedPostgres
from gateway.cli.postgres_programs import find_leftovers
from gateway.identity.issuing import KeyIssuer
from gateway.keys import KeyRing
from gateway.settings import parse
from gateway.storage.engine import Database
from gateway.storage.keys import PostgresKeyStore
from tests.support.clients import Events, ModernClient, SessionClient
from tests.support.gateway import BOTH, modern_headers, modern_message, server
from tests.support.processes import KEYS, PROC, GatewayProcess, eventually, gateway_process, readiness, until
from tests.support.session_upstream import SessionUpstream
from tests.support.severed import Wire
from tests.support.upstreams import ScriptedUpstream, scripted

LEGACY = "2025-11-25"
CALLS = 500
WARM_SESSIONS, IDLE_SESSIONS, AT_ONCE = 100, 500, 10
KIB_PER_SESSION = 10.0
PING = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
UNAVAILABLE = (503, "1")
"""A status and its Retry-After."""


@dataclass
class Place:
    """A gateway process on a Postgres of its own, which tests may stop, kill and start."""

    postgres: EmbeddedPostgres
    gateway: GatewayProcess
    upstream: SessionUpstream
    key: str
    http: aiohttp.ClientSession

    async def session(self) -> SessionClient:
        return await SessionClient(self.http, self.gateway.mcp, LEGACY, self.key).open(None)

    def signal_postgres(self, number: int) -> None:
        """To the postmaster and to every process of its own."""
        for pid in find_leftovers(self.postgres.files.name):
            with suppress(ProcessLookupError):  # some end as soon as another does
                os.kill(pid, number)

    async def notices_its_absence(self) -> None:
        async def noticed() -> bool:
            _, told = await readiness(self.http, self.gateway.origin)
            return bool(told["status"] == "degraded")

        await eventually(noticed, "that Postgres is away")

    async def is_well(self) -> None:
        async def well() -> bool:
            status, told = await readiness(self.http, self.gateway.origin)
            return (status, told) == (200, {"status": "ok"})

        await eventually(well, "readiness", 30)

    async def outcome(self, body: dict[str, Any], headers: dict[str, str]) -> tuple[int, str | None]:
        """Status and Retry-After of a POST."""
        async with self.http.post(self.gateway.mcp, json=body, headers=headers) as response:
            return response.status, response.headers.get("retry-after")

    async def outcomes(self, held: SessionClient) -> dict[str, tuple[int, str | None]]:
        """What each kind of request gets, all asked at once."""
        call = modern_message("tools/call", {"name": "fast__echo", "arguments": {}})
        tools = modern_message("tools/list")
        hello = {"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
        opening = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello}
        bearer = {"authorization": f"Bearer {self.key}"}
        asked = {
            "call of nobody in particular": (call, modern_headers(call)),
            "list of nobody in particular": (tools, modern_headers(tools)),
            "call with a key": (call, {**modern_headers(call), **bearer}),
            "session in use": (PING, held.headers),
            "session of another replica": (PING, {**held.headers, "mcp-session-id": secrets.token_urlsafe(32)}),
            "new session": (opening, {"content-type": "application/json", "accept": BOTH}),
        }
        answers = await asyncio.gather(*(self.outcome(*request) for request in asked.values()))
        return dict(zip(asked, answers, strict=True))


AWAY = {
    "call of nobody in particular": (200, None),
    "list of nobody in particular": (200, None),
    "call with a key": UNAVAILABLE,
    "session in use": UNAVAILABLE,
    "session of another replica": UNAVAILABLE,
    "new session": UNAVAILABLE,
}
BACK = {**dict.fromkeys(AWAY, (200, None)), "session of another replica": (404, None)}


@pytest.fixture(scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Place]:
    async with AsyncExitStack() as stack:
        postgres = EmbeddedPostgres(tmp_path_factory.mktemp("postgres"))
        stack.callback(shutil.rmtree, postgres.files.home, ignore_errors=True)
        stack.callback(postgres.stop)
        url = postgres.start()
        upstream, fast = SessionUpstream(), ScriptedUpstream("modern")
        await stack.enter_async_context(scripted(upstream))
        await stack.enter_async_context(scripted(fast))
        # On a busy machine an answer may take longer than usual, and a stream is logged where a plain answer is not.
        section = {"authentication": {"mode": "anonymous"}, "stream_grace": 5}
        config = {"gateway": section, "servers": [server("kept", upstream.url), server("fast", fast.url)]}
        starting = gateway_process(tmp_path_factory.mktemp("gateway"), config, DATABASE_URL=url, MASTER_KEYS=KEYS)
        gateway = await stack.enter_async_context(starting)
        database = Database(url, pool_size=1)
        issued = await KeyIssuer(PostgresKeyStore(database), KeyRing.parse(KEYS), time.time).create("test")
        await database.dispose()
        http = await stack.enter_async_context(aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(60)))
        yield Place(postgres, gateway, upstream, issued.text, http)


async def test_calls_in_steady_state_ask_postgres_nothing(place: Place) -> None:
    session = await place.session()
    modern = ModernClient(place.http, place.gateway.mcp, None, place.key)
    connection = await asyncpg.connect(place.postgres.url)

    async def last_asked() -> dict[int, Any]:
        """By backend, when its last statement began; the one that listens for changes asks all the time."""
        query = "SELECT pid, query_start FROM pg_stat_activity WHERE application_name = 'mcp-gateway' AND query <> $1"
        return {row["pid"]: row["query_start"] for row in await connection.fetch(query, "SELECT 1")}

    async def without_a_question() -> bool:
        before = await last_asked()
        for number in range(CALLS // 4):
            for client, name in ((session, "kept__echo"), (session, "fast__echo"), (modern, "kept__echo")):
                assert (await client.call(name, n=number))["content"]
            await modern.result("tools/list")
        assert before, "the gateway has no connections"
        after = await last_asked()
        return before == after

    try:
        for client in (session, modern):
            await client.call("kept__echo")
        # Once a minute use is noted, old rows are purged and the key is read again. No two minutes follow at once.
        assert await without_a_question() or await without_a_question()
    finally:
        await connection.close()


async def test_an_idle_session_costs_little_memory(place: Place) -> None:
    (worker,) = place.gateway.workers

    def resident_kib() -> int:
        lines = (PROC / str(worker) / "status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))

    async def open_sessions(many: int) -> None:
        for _ in range(0, many, AT_ONCE):
            await asyncio.gather(*(place.session() for _ in range(AT_ONCE)))

    await open_sessions(WARM_SESSIONS)  # what grows in steps has grown by then
    before = resident_kib()
    await open_sessions(IDLE_SESSIONS)
    each = (resident_kib() - before) / IDLE_SESSIONS
    print(f"\n{each:.2f} KiB per idle session")
    assert each <= KIB_PER_SESSION


async def test_while_postgres_hangs_what_needs_it_waits_and_the_rest_goes_on(place: Place) -> None:
    session = await place.session()
    place.signal_postgres(signal.SIGSTOP)
    try:
        await place.notices_its_absence()
        waiting = asyncio.create_task(session.call("kept__echo", n=1))
        for _ in range(10):
            answer = await ModernClient(place.http, place.gateway.mcp, None, None).call("fast__echo", n=2)
            assert answer["content"][0]["text"] == '{"n":2}'
        assert not waiting.done()
    finally:
        place.signal_postgres(signal.SIGCONT)
    assert (await waiting)["content"][0]["text"] == str({"n": 1})
    await place.is_well()


async def test_while_postgres_is_dead_nobody_is_told_a_falsehood_and_afterwards_all_goes_on(place: Place) -> None:
    held, calling = await place.session(), await place.session()
    await ModernClient(place.http, place.gateway.mcp, None, place.key).call("fast__echo")
    async with calling.post("tools/call", {"name": "kept__hold", "arguments": {"gate": "dead"}}) as response:
        place.signal_postgres(signal.SIGKILL)
        try:
            await place.notices_its_absence()
            began = time.monotonic()
            assert await place.outcomes(held) == AWAY
            print(f"\nsix requests without Postgres were answered within {(time.monotonic() - began) * 1000:.0f} ms")
            status, told = await readiness(place.http, place.gateway.origin)
            assert (status, told["status"]) == (200, "degraded")
            assert told["detail"].startswith("database unavailable for ")
            place.upstream.gates["dead"].set()  # a call under way needs no Postgres
            assert (await Events(response).message())["result"]["content"][0]["text"] == "held"
        finally:
            place.postgres.stop()
            place.postgres.start()
    back = time.monotonic()
    await place.is_well()
    print(f"\nready {time.monotonic() - back:.2f} s after Postgres was")
    assert await place.outcomes(held) == BACK
    for session in (held, calling):
        assert (await session.call("kept__echo"))["content"]


class Clock:
    """A monotonic clock that can be put forward."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead


async def test_without_postgres_a_replica_is_ready_for_a_minute_and_not_longer(
    database_url: str, tmp_path: Path
) -> None:
    clock = Clock()
    ring = KeyRing.parse(KEYS)
    async with Wire(database_url) as wire:
        app = Gateway(
            parse({}), database_url=wire.url, keys=ring, host="127.0.0.1", port=1, state_dir=tmp_path, clock=clock
        )
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:

            async def ready() -> tuple[int, str]:
                response = await http.get("/readyz")
                return response.status_code, response.json()["status"]

            assert await ready() == (503, "database unavailable")  # never yet heard of it
            async with app.running():
                assert await ready() == (200, "ok")
                wire.swallow()
                await until(lambda: not app._changes.healthy, "that Postgres is away")
                assert await ready() == (200, "degraded")
                clock.ahead = READY_WITHOUT_DATABASE - 5
                assert await ready() == (200, "degraded")
                clock.ahead = READY_WITHOUT_DATABASE
                assert await ready() == (503, "database unavailable")
                wire.let_pass()
                await until(lambda: app._changes.healthy, "that Postgres is back")
                assert await ready() == (200, "ok")
                app.drain()
                assert await ready() == (503, "draining")
