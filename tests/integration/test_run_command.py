"""`mcp-gateway dev`, which `make run` starts: all that a person needs on one machine, and nothing left of it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.cli.postgres_files import files_for
from tests.support.clients import ModernClient, SessionClient
from tests.support.processes import PROC, GatewayProcess, gateway_process, lives, traces

LEGACY = "2025-11-25"
STDIO_SERVER = Path(__file__).parents[1] / "support" / "stdio_server.py"


@pytest.fixture(scope="module")
def state_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One folder for the module: what a start leaves behind is what the next one finds."""
    folder = tmp_path_factory.mktemp("state")
    yield folder
    shutil.rmtree(files_for(folder, root=os.geteuid() == 0).home, ignore_errors=True)


def snippet(words: str, client: str) -> str:
    """The line that is to be copied for a client."""
    (line,) = re.findall(rf"^{client}.*\n  (.+)$", words, re.MULTILINE)
    return str(line)


async def names(http: aiohttp.ClientSession, url: str, headers: dict[str, str]) -> set[str]:
    """The tools that somebody sees who has copied an address and headers."""
    key = headers["Authorization"].removeprefix("Bearer ")
    return {tool["name"] for tool in await ModernClient(http, url, None, key).all("tools/list", "tools")}


async def test_it_prints_how_to_connect_and_a_kill_of_it_leaves_nothing_running(state_dir: Path) -> None:
    async with gateway_process(state_dir, None, command="dev") as gateway, aiohttp.ClientSession() as http:
        words, run = gateway.program.words, gateway.run
        assert run.keys() == {"endpoint", "key", "admin", "console", "metrics", "pids"}
        assert re.search(rf"^  endpoint  {re.escape(gateway.mcp)}$", words, re.MULTILINE)
        assert re.search(rf"^  key       {re.escape(run['key'])}$", words, re.MULTILINE)
        assert run["pids"].keys() == {"serve", "replica-1", "postgres", "library", "workshop"}
        assert all(map(lives, run["pids"].values()))
        assert gateway.run_file.stat().st_mode & 0o077 == 0  # it holds a key
        assert "listening on" not in words

        bearer = f"Authorization: Bearer {run['key']}"
        wanted = {"library__find_books", "workshop__write_note"}
        vscode: dict[str, Any] = json.loads(snippet(words, "VS Code"))["servers"]["gateway"]
        cursor: dict[str, Any] = json.loads(snippet(words, "Cursor"))["mcpServers"]["gateway"]
        assert vscode["type"] == "http"
        for copied in (vscode, cursor):
            assert wanted <= await names(http, copied["url"], copied["headers"])
        claude, inspector = snippet(words, "Claude Code"), snippet(words, "Inspector")
        assert claude == f'claude mcp add --transport http gateway {gateway.mcp} --header "{bearer}"'
        assert inspector.endswith(f'--cli {gateway.mcp} --transport http --method tools/list --header "{bearer}"')

        session = await SessionClient(http, gateway.mcp, LEGACY, run["key"]).open(None)
        assert (await session.call("workshop__write_note", text="hello"))["structuredContent"] == {"lines": 1}
        assert (await session.call("library__find_books", query="emma"))["structuredContent"]

        await gateway.killed()
        await gateway.nothing_left()
        _remember(state_dir, gateway)


async def test_the_next_start_works_with_the_same_key_and_ctrl_c_stops_everything(state_dir: Path) -> None:
    before = _remembered(state_dir)
    client_file = {
        "mcpServers": {
            "My Notes": {"command": sys.executable, "args": [str(STDIO_SERVER)], "env": {"NOTE": "a secret"}}
        }
    }
    options = ("--port", str(before["port"]))
    async with gateway_process(state_dir, client_file, *options, command="dev") as gateway:
        assert gateway.run["key"] == before["key"]
        assert gateway.port == before["port"]
        wrapped = gateway.run["pids"]["mynotes@1"]
        assert b"a secret" not in (PROC / str(wrapped) / "cmdline").read_bytes()
        async with aiohttp.ClientSession() as http:
            session = await SessionClient(http, gateway.mcp, LEGACY, gateway.run["key"]).open(None)
            assert (await session.call("mynotes__note", text="one"))["structuredContent"] == {"result": ["one"]}
            assert (await session.call("mynotes__note", text="two"))["structuredContent"] == {"result": ["one", "two"]}
            child = (await session.call("mynotes__pid"))["structuredContent"]["result"]
        processes = {child, *traces(state_dir)}  # the stdio server inherits nothing by which it could be found
        assert set(gateway.run["pids"].values()) <= processes
        began = time.monotonic()
        os.killpg(gateway.program.pid, signal.SIGINT)  # as a terminal does
        assert await gateway.program.ended() == 0
        print(f"\nCtrl-C ended {len(processes)} processes in {time.monotonic() - began:.1f} s")
        assert not any(map(lives, processes))
        assert not gateway.run_file.exists()
        assert "Traceback" not in gateway.program.words


def _remember(folder: Path, gateway: GatewayProcess) -> None:
    facts = {"key": gateway.run["key"], "port": gateway.port}
    folder.with_suffix(".json").write_text(json.dumps(facts), encoding="utf-8")


def _remembered(folder: Path) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(folder.with_suffix(".json").read_text(encoding="utf-8"))
    return facts
