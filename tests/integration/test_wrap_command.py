"""`mcp-gateway wrap` as a process: what it says, what it hands on, and that nothing outlives it."""

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
from click.testing import CliRunner

from gateway.cli.wrap import wrap
from tests.support.wrapping import RAW, SECONDS, Client, gone

COMMAND = (sys.executable, "-c", "from gateway.cli.wrap import wrap; wrap()")


@asynccontextmanager
async def running(*options: str, **environment: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """The process and the line it says when it is ready."""
    process = await asyncio.create_subprocess_exec(
        *(*COMMAND, "--port", "0", *options, "--", *RAW),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **environment},
    )
    assert process.stdout is not None
    try:
        yield process, (await asyncio.wait_for(process.stdout.readline(), 6 * SECONDS)).decode()
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@asynccontextmanager
async def client_of(url: str) -> AsyncIterator[Client]:
    async with httpx.AsyncClient(base_url=url.removesuffix("/mcp"), timeout=SECONDS, trust_env=False) as http:
        yield await Client(http).initialize()


async def test_it_says_where_it_is_hands_on_what_it_is_told_and_takes_its_servers_along() -> None:
    options = ("--env", "GIVEN=here", "--env", "PASSED_ON")
    async with running(*options, SECRET="not for the server", PASSED_ON="from outside") as (process, ready):
        words, _, url = ready.rstrip("\n").rpartition(" at ")
        assert words == f"wrap: {' '.join(RAW)}"
        async with client_of(url) as client:
            environment = json.loads(await client.call("environment"))
            assert environment["GIVEN"] == "here"
            assert environment["PASSED_ON"] == "from outside"
            assert environment["PATH"] == os.environ["PATH"]
            assert "SECRET" not in environment
            await client.call("babble")
            pid, other = int(await client.call("pid")), int(await client.call("start_another"))
            async with client.listen():
                process.send_signal(signal.SIGTERM)
                assert await asyncio.wait_for(process.wait(), SECONDS) == 0
        await gone(pid)
        await gone(other)
        _, stderr = await process.communicate()
        assert b" 1] a word on stderr\n" in stderr


async def test_its_servers_end_even_when_it_is_killed() -> None:
    async with running("--json") as (process, ready):
        told = json.loads(ready)
        assert told["pid"] == process.pid
        async with client_of(told["url"]) as client:
            await client.call("ignore_the_end")
            pid = int(await client.call("pid"))
            process.kill()
            await gone(pid)


def test_a_command_that_does_not_exist_is_told() -> None:
    result = CliRunner().invoke(wrap, ["--port", "0", "--", "no-such-mcp-server", "--flag"])
    assert result.exit_code == 1
    assert "no-such-mcp-server: no such command" in result.stderr


def test_a_taken_port_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = CliRunner().invoke(wrap, ["--port", port, "--", sys.executable])
    assert result.exit_code == 1
    assert f"cannot listen on 127.0.0.1 port {port}" in result.stderr
    assert "choose another --port" in result.stderr


@pytest.mark.parametrize("value", ["NOT_SET_ANYWHERE", "=x"])
def test_a_variable_that_has_no_value_is_told(value: str) -> None:
    result = CliRunner().invoke(wrap, ["--port", "0", "--env", value, "--", sys.executable])
    assert result.exit_code == 2
    assert "write KEY=VALUE" in result.stderr
