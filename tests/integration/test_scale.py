"""A hundred upstreams: the first list, a hung and a dead one among them, restarts, and the same order everywhere."""

from __future__ import annotations

import asyncio
import statistics
import time
import uuid
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest

from benchmarks.programs.upstream import TOOLS
from tests.support.clients import ModernClient
from tests.support.gateway import server
from tests.support.processes import (
    GatewayProcess,
    free_port,
    gateway_process,
    until,
    upstream_program,
    waited_for_a_core,
)

UPSTREAMS = 100
SILENT = ("silent", "gone")
FIRST_LIST_SECONDS = 2.0
STUCK_CALLS = 50
CALLS = 40
WINDOWS = 5


@pytest.fixture(scope="module")
async def upstreams(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[AsyncExitStack, str]]:
    """The origin of a hundred healthy upstreams and two that are not, and the stack that ends them."""
    async with AsyncExitStack() as stack:
        log = tmp_path_factory.mktemp("upstream") / "output.log"
        yield stack, await stack.enter_async_context(upstream_program("benchmarks.programs.upstream", log))


@pytest.fixture(scope="module")
async def databases(postgres_url: str) -> tuple[str, str]:
    """Two databases in which there is nothing, not even a table."""
    made = []
    connection = await asyncpg.connect(postgres_url)
    for _ in range(2):
        name = f"scale_{uuid.uuid4().hex}"
        await connection.execute(f'CREATE DATABASE "{name}" TEMPLATE template0')
        made.append(postgres_url.replace("/gateway?", f"/{name}?"))
    await connection.close()
    return made[0], made[1]


def healthy(origin: str) -> list[dict[str, Any]]:
    return [server(f"u{number}", f"{origin}/u{number}/mcp") for number in range(UPSTREAMS)]


def tools_of(config: dict[str, Any]) -> list[str]:
    """What is to be listed, in order: that of the configuration, and of each upstream."""
    slugs = [server["slug"] for server in config["servers"] if server["slug"] not in SILENT]
    return [f"{slug}__{tool['name']}" for slug in slugs for tool in TOOLS]


def configuration(servers: Iterable[dict[str, Any]]) -> dict[str, Any]:
    return {"gateway": {"authentication": {"mode": "anonymous"}}, "servers": list(servers)}


async def names(http: aiohttp.ClientSession, gateway: GatewayProcess) -> list[str]:
    """Every tool of the federated list, in its order."""
    tools = await ModernClient(http, gateway.mcp, None, None).all("tools/list", "tools")
    return [tool["name"] for tool in tools]


async def first_list(http: aiohttp.ClientSession, gateway: GatewayProcess) -> tuple[list[str], float]:
    """The first list that has every healthy tool, and the seconds since the gateway was ready.

    Not counted is the time in which neighbours on this machine kept the gateway from a core.
    """
    began, waited = time.monotonic(), waited_for_a_core(gateway.workers[0])
    while True:
        found = await names(http, gateway)
        seconds = time.monotonic() - began
        kept_waiting = waited_for_a_core(gateway.workers[0]) - waited
        if len([name for name in found if name.startswith("u")]) == UPSTREAMS * len(TOOLS):
            print(f"\nfirst complete list after {seconds:.2f} s, {kept_waiting:.2f} s of it without a core")
            return found, seconds - kept_waiting
        assert seconds - kept_waiting < FIRST_LIST_SECONDS, f"only {len(found)} tools"


async def test_a_hundred_cold_upstreams_are_all_in_the_list_within_two_seconds(
    upstreams: tuple[AsyncExitStack, str], databases: tuple[str, str], tmp_path: Path
) -> None:
    config = configuration(healthy(upstreams[1]))
    async with gateway_process(tmp_path, config, DATABASE_URL=databases[0]) as gateway, aiohttp.ClientSession() as http:
        found, seconds = await first_list(http, gateway)
        assert seconds <= FIRST_LIST_SECONDS
        assert found == tools_of(config)


async def test_a_hung_and_a_dead_upstream_change_neither_list_nor_calls_and_the_list_outlives_all_upstreams(
    upstreams: tuple[AsyncExitStack, str], databases: tuple[str, str], tmp_path: Path
) -> None:
    stack, origin = upstreams
    more = [
        server(SILENT[0], f"{origin}/dead/mcp"),  # accepts connections and says nothing
        server(SILENT[1], f"http://127.0.0.1:{free_port()}/mcp"),  # refuses them
        server("stuck", f"{origin}/hung/mcp"),  # lists, and never answers a call
    ]
    config = configuration([*more[:2], *healthy(origin), more[2]])
    url = databases[1]
    async with gateway_process(tmp_path / "one", config, DATABASE_URL=url) as one, aiohttp.ClientSession() as http:
        found, seconds = await first_list(http, one)
        assert seconds <= FIRST_LIST_SECONDS
        assert found == tools_of(config)
        await _beside_stuck_calls(http, one)

        await stack.aclose()  # the end of every upstream: a replica that starts now has nobody to ask
        async with gateway_process(tmp_path / "other", config, DATABASE_URL=url) as other:
            began = time.monotonic()
            assert await names(http, other) == found
            print(f"\nlisted {time.monotonic() - began:.2f} s after a start without upstreams")
            await until(lambda: other.program.words.count("discovery_failed") >= len(config["servers"]), "failures", 30)
            for _ in range(10):
                assert await names(http, one) == found
                assert await names(http, other) == found
            answer = await ModernClient(http, other.mcp, None, None).call("u0__echo", text="hello")
            assert answer["isError"] is True
            assert answer["_meta"]["dev.mcp-gateway/denial"]["reason"] == "upstream_unavailable"


async def _beside_stuck_calls(http: aiohttp.ClientSession, gateway: GatewayProcess) -> None:
    """Calls to a healthy upstream take as long with as without many calls under way that never end."""
    client = ModernClient(http, gateway.mcp, None, None)
    connector = aiohttp.TCPConnector(limit=STUCK_CALLS)
    alone, beside = [], []
    async with aiohttp.ClientSession(connector=connector) as apart:
        stuck = ModernClient(apart, gateway.mcp, None, None)
        for _ in range(WINDOWS):
            alone.append(await _median(client))
            calls = [asyncio.create_task(stuck.call("stuck__echo", text="")) for _ in range(STUCK_CALLS)]
            await until(lambda: _open_calls(gateway, "stuck") == STUCK_CALLS, "the stuck calls")
            beside.append(await _median(client))
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
            await until(lambda: _open_calls(gateway, "stuck") == 0, "the end of the stuck calls")
    # The least disturbed windows tell most about the gateway and least about the neighbours.
    print(
        f"\nmedian call {min(alone) * 1000:.1f} ms alone, {min(beside) * 1000:.1f} ms beside {STUCK_CALLS} stuck ones"
    )
    assert min(beside) < 1.5 * min(alone) + 0.002


async def _median(client: ModernClient) -> float:
    seconds = []
    for number in range(CALLS):
        began = time.perf_counter()
        answer = await client.call(f"u{number % UPSTREAMS}__echo", text=f"call {number}")
        seconds.append(time.perf_counter() - began)
        assert answer["isError"] is False
    return statistics.median(seconds)


def _open_calls(gateway: GatewayProcess, slug: str) -> int:
    """How many calls to a server the records say are under way."""
    lines = [line for journal in gateway.records().values() for line in journal]
    opened = {line["record"] for line in lines if line.get("server") == slug}
    return len(opened - {line["record"] for line in lines if line["event"] == "closed"})
