"""`mcp-gateway serve` as a process: its replicas, its end, its next start, and what it refuses to start with."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from click.testing import CliRunner

from gateway.cli.serve import serve
from tests.support.clients import Events, ModernClient, SessionClient
from tests.support.gateway import server
from tests.support.processes import (
    COMMAND as GATEWAY,
)
from tests.support.processes import (
    START_SECONDS,
    STOP_SECONDS,
    GatewayProcess,
    children_of,
    eventually,
    gateway_process,
    launch,
    lives,
    until,
)
from tests.support.session_upstream import SessionUpstream
from tests.support.upstreams import scripted

LEGACY = "2025-11-25"
AT_ONCE = 20


@pytest.fixture(scope="module")
async def upstream() -> AsyncIterator[SessionUpstream]:
    upstream = SessionUpstream()
    async with scripted(upstream):
        yield upstream


@pytest.fixture(scope="module")
async def pair(
    upstream: SessionUpstream, database_url: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[GatewayProcess]:
    """A gateway of two workers; the last test that uses it ends it."""
    config = {"servers": [server("kept", upstream.url)]}
    folder = tmp_path_factory.mktemp("pair")
    async with gateway_process(folder, config, "--workers", "2", DATABASE_URL=database_url) as gateway:
        yield gateway


async def answering(gateway: GatewayProcess, wanted: int) -> set[int]:
    """Calls on connections of their own until that many replicas have written records; returns the replicas' pids."""
    connector = aiohttp.TCPConnector(force_close=True)
    async with aiohttp.ClientSession(connector=connector) as http:

        async def call() -> dict[str, Any]:
            # A connection may be in the hands of a replica that has just been killed.
            while True:
                try:
                    return await ModernClient(http, gateway.mcp, None, gateway.run["key"]).call("kept__echo")
                except aiohttp.ClientError:
                    continue

        async def everybody() -> bool:
            answers = await asyncio.gather(*(call() for _ in range(AT_ONCE)))
            assert all(answer["content"] for answer in answers)
            return len(gateway.records()) >= wanted

        await eventually(everybody, f"records of {wanted} replicas", START_SECONDS)
    return set(gateway.records())


async def test_two_workers_are_two_replicas_on_one_port(pair: GatewayProcess) -> None:
    assert await answering(pair, 2) == set(pair.workers)
    assert len(pair.workers) == 2
    assert pair.run["pids"]["serve"] == pair.program.pid
    async with aiohttp.ClientSession() as http:  # a session of one is a session of the other
        sessions = [await SessionClient(http, pair.mcp, LEGACY, pair.run["key"]).open(None) for _ in range(4)]
    connector = aiohttp.TCPConnector(force_close=True)
    async with aiohttp.ClientSession(connector=connector) as http:
        for session in sessions:
            session.http = http
            answers = await asyncio.gather(*(session.call("kept__echo", n=n) for n in range(5)))
            assert [answer["content"][0]["text"] for answer in answers] == [str({"n": n}) for n in range(5)]


async def test_a_worker_that_is_killed_is_started_again(pair: GatewayProcess) -> None:
    before = children_of(pair.program.pid)
    lost, kept = pair.workers
    os.kill(lost, signal.SIGKILL)
    killed = time.monotonic()
    await until(lambda: len(children_of(pair.program.pid) - before) == 1, "another worker")
    (new,) = children_of(pair.program.pid) - before
    assert await answering(pair, 3) == {lost, kept, new}
    print(f"\nanother worker answers {time.monotonic() - killed:.1f} s after one was killed")
    assert lives(kept)
    assert set(json.loads(pair.run_file.read_bytes())["pids"].values()) == {pair.program.pid, kept, new}
    pair.run["pids"]["replica-1"] = new
    assert f"replica 1 ended ({-signal.SIGKILL}); starting it again" in pair.program.words


async def test_a_second_start_on_the_same_port_is_told_so_and_leaves_the_first_alone(pair: GatewayProcess) -> None:
    process = await asyncio.create_subprocess_exec(
        *(*GATEWAY, "serve", "--port", str(pair.port)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "MCP_GATEWAY_STATE_DIR": str(pair.state_dir)},
    )
    async with asyncio.timeout(START_SECONDS):
        stdout, stderr = await process.communicate()
    assert (process.returncode, stdout) == (2, b"")
    assert stderr.decode() == (
        f"mcp-gateway: --host/--port: cannot listen on 127.0.0.1:{pair.port}: Address already in use; "
        "choose another with --port\n"
    )
    assert json.loads(pair.run_file.read_bytes()) == pair.run


async def test_sigterm_lets_calls_finish_ends_streams_and_leaves_no_process(
    pair: GatewayProcess, upstream: SessionUpstream
) -> None:
    async with aiohttp.ClientSession() as http, AsyncExitStack() as stack:
        session = await SessionClient(http, pair.mcp, LEGACY, pair.run["key"]).open(None)
        call = {"name": "kept__hold", "arguments": {"gate": "the end"}}
        response = await stack.enter_async_context(session.post("tools/call", call))
        standing = await stack.enter_async_context(session.stream())
        began = time.monotonic()
        pair.program.send(signal.SIGTERM)
        assert await standing.rest() == []
        upstream.gates["the end"].set()
        assert (await Events(response).message())["result"]["content"][0]["text"] == "held"
    assert await pair.program.ended() == 0
    await pair.nothing_left(max(0.0, STOP_SECONDS - (time.monotonic() - began)))
    print(f"\nnothing left {time.monotonic() - began:.1f} s after SIGTERM")
    assert not pair.run_file.exists()


async def test_after_a_kill_of_the_whole_group_the_next_start_works_and_the_key_is_the_same(
    upstream: SessionUpstream, database_url: str, tmp_path: Path
) -> None:
    config = {"servers": [server("kept", upstream.url)]}
    starting = launch(tmp_path, config, "--port", "0", DATABASE_URL=database_url)
    await until(lambda: children_of(starting.program.pid), "its first worker", START_SECONDS)
    await starting.killed()  # the worker has hardly begun, and does not know yet whose it is
    await starting.nothing_left()
    async with gateway_process(tmp_path, config, DATABASE_URL=database_url) as first, aiohttp.ClientSession() as http:
        session = await SessionClient(http, first.mcp, LEGACY, first.run["key"]).open(None)
        async with session.stream():  # an open stream must not keep the port
            await first.killed()
        options = ("--port", str(first.port))
        async with gateway_process(tmp_path, config, *options, DATABASE_URL=database_url) as second:
            assert second.run["key"] == first.run["key"]
            assert second.mcp == first.mcp
            assert not set(second.run["pids"].values()) & set(first.run["pids"].values())
            # The key ring is kept in the state folder too, so the session of before goes on.
            assert (await session.call("kept__echo"))["content"]
            await until(lambda: not any(map(lives, first.run["pids"].values())), "the end of the first replicas")


async def test_told_to_stop_while_it_starts_it_never_says_that_it_is_ready(database_url: str, tmp_path: Path) -> None:
    gateway = launch(tmp_path, None, "--port", "0", DATABASE_URL=database_url)
    await until(lambda: children_of(gateway.program.pid), "its first worker", START_SECONDS)
    gateway.program.send(signal.SIGTERM)
    assert await gateway.program.ended() == 0
    await gateway.nothing_left()
    assert gateway.program.words == ""
    assert not gateway.run_file.exists()


COMMAND = {"command": ["npx", "-y", "a server", "/data"], "env": {"TOKEN": "not to be shown"}}
REFUSED: dict[str, tuple[Mapping[str, Any], tuple[str, ...], str]] = {
    "unknown key": (
        {"gateway": {"pagesize": 10}},
        (),
        "gateway.pagesize: unknown key; remove it or check its spelling",
    ),
    "bad slug": (
        {"servers": [server("Git-Hub", "http://127.0.0.1:1/mcp")]},
        (),
        "servers.0.slug: must be 1 to 12 of a-z and 0-9, the first a letter",
    ),
    "command": (
        {"servers": [{"slug": "files", "versions": [COMMAND]}]},
        (),
        "run `mcp-gateway wrap --port P --env=TOKEN -- npx -y 'a server' /data` and set url to http://127.0.0.1:P/mcp",
    ),
    "anonymous": (
        {"gateway": {"authentication": {"mode": "anonymous"}}},
        ("--host", "0.0.0.0"),
        "gateway.authentication.mode: anonymous is accepted on a loopback bind only, not on 0.0.0.0",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_wrong_setting_is_named_with_its_fix(case: str, tmp_path: Path) -> None:
    config, options, words = REFUSED[case]
    path = tmp_path / "gateway.yaml"
    path.write_text(json.dumps(config), encoding="utf-8")
    line = ["--config", str(path), "--port", "0", *options]
    result = CliRunner(env={"MCP_GATEWAY_STATE_DIR": str(tmp_path)}).invoke(serve, line)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("mcp-gateway: ")
    assert words in result.stderr
    assert "not to be shown" not in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "run.json").exists()
