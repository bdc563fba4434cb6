"""The gateway's commands and upstreams as processes: started, watched through /proc, ended by their pids."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import orjson

from gateway.cli.postgres_files import files_for
from gateway.cli.postgres_programs import find_leftovers
from gateway.keys import KeyRing

T = TypeVar("T")

ROOT = Path(__file__).parents[2]
PROC = Path("/proc")
COMMAND = (sys.executable, "-m", "gateway.cli")
KEYS = KeyRing.generate()
"""The master keys of every gateway of a test run that are to understand one another."""
START_SECONDS = 60.0
"""A start costs seconds of CPU, and tests run on busy machines."""
STOP_SECONDS = 15.0

_POLL = 0.02
_OWN = "MCP_GATEWAY_"


async def until(condition: Callable[[], T | None], what: str, seconds: float = 10.0) -> T:
    """Looks again and again until the condition holds; returns what it is then."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        await asyncio.sleep(_POLL)
    return found


async def eventually(condition: Callable[[], Awaitable[T | None]], what: str, seconds: float = 10.0) -> T:
    """As `until`, for a condition that has to ask somebody."""
    deadline = time.monotonic() + seconds
    while not (found := await condition()):
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        await asyncio.sleep(_POLL)
    return found


def lives(pid: int) -> bool:
    """Does the process run? One that has ended and waits for its parent to notice does not."""
    try:
        return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def traces(state_dir: Path) -> set[int]:
    """Every living process that was started for this state folder, whoever its parent is by now.

    Children inherit the variable that names the folder; PostgreSQL gets none of our environment, and is known by name.
    """
    needle = f"{_OWN}STATE_DIR={state_dir}\0".encode()
    found = set(find_leftovers(files_for(state_dir, root=os.geteuid() == 0).name))
    for entry in PROC.glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if needle in (entry / "environ").read_bytes():
                found.add(int(entry.name))
    return {pid for pid in found if lives(pid)}


def children_of(pid: int) -> set[int]:
    """The living processes that a process has started itself."""
    found = set()
    for entry in PROC.glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == pid:
                found.add(int(entry.name))
    return {child for child in found if lives(child)}


def waited_for_a_core(pid: int) -> float:
    """Seconds that the process' main thread has stood ready to run while others had the cores; 0 where unknown."""
    try:
        return int((PROC / str(pid) / "schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError):
        return 0.0


class Program:
    """A program in a session of its own; both its outputs go to a file."""

    def __init__(
        self, *command: str, log: Path, cwd: Path = ROOT, environment: Mapping[str, str] | None = None
    ) -> None:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(_OWN)}
        self._log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                cwd=cwd,
                env={**clean, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def words(self) -> str:
        """All that it has said."""
        return self._log.read_text(errors="replace")

    @property
    def status(self) -> int | None:
        """Its exit status once it has ended."""
        return self._process.poll()

    def send(self, number: int) -> None:
        """Sends a signal."""
        self._process.send_signal(number)

    async def ended(self, seconds: float = STOP_SECONDS) -> int:
        """Waits until it ends; returns its exit status."""
        await until(lambda: self.status is not None, f"the end of process {self.pid}; it said {self.words}", seconds)
        return self._process.wait()

    async def stop(self) -> None:
        """Ends it, the gentle way first."""
        if self.status is None:
            self.send(signal.SIGTERM)
        try:
            await self.ended()
        except AssertionError:
            self._process.kill()
            self._process.wait()
            raise


class GatewayProcess:
    """`mcp-gateway serve` or `dev` in a process of its own, with all that it has started."""

    def __init__(self, program: Program, state_dir: Path) -> None:
        self.program = program
        self.state_dir = state_dir
        self.run: dict[str, Any] = {}

    @property
    def run_file(self) -> Path:
        return self.state_dir / "run.json"

    @property
    def mcp(self) -> str:
        """The federated endpoint."""
        return str(self.run["endpoint"])

    @property
    def origin(self) -> str:
        return self.mcp.removesuffix("/mcp")

    @property
    def port(self) -> int:
        return int(self.origin.rpartition(":")[2])

    @property
    def workers(self) -> list[int]:
        """The pids of the replicas that it started first."""
        return [pid for name, pid in self.run["pids"].items() if name.startswith("replica-")]

    def server(self, slug: str) -> str:
        """One server's own endpoint."""
        return f"{self.origin}/servers/{slug}/mcp"

    def records(self) -> dict[int, list[dict[str, Any]]]:
        """The lines of each journal, by the pid of the replica that wrote it."""
        return {
            int(path.stem): [orjson.loads(line) for line in path.read_bytes().splitlines()]
            for path in (self.state_dir / "records").glob("*.jsonl")
        }

    async def started(self) -> None:
        """Returns when it is ready, by its own account: `run.json` is there."""

        def said() -> dict[str, Any] | None:
            assert self.program.status is None, self.program.words
            with contextlib.suppress(FileNotFoundError):
                run: dict[str, Any] = orjson.loads(self.run_file.read_bytes())
                # One that was killed leaves its file behind, until the next start takes it away.
                return run if run["pids"]["serve"] == self.program.pid else None
            return None

        self.run = await until(said, "run.json", START_SECONDS)

    async def nothing_left(self, seconds: float = STOP_SECONDS) -> None:
        """Returns when no process of it lives."""
        await until(lambda: not traces(self.state_dir), "the end of all its processes", seconds)

    async def killed(self) -> None:
        """Kills the whole process group of the command, as a terminal or a supervisor would."""
        os.killpg(self.program.pid, signal.SIGKILL)
        await self.program.ended()


def launch(
    state_dir: Path, config: Mapping[str, Any] | None, *options: str, command: str = "serve", **environment: str
) -> GatewayProcess:
    """Starts a command with a configuration; `environment` names are without `MCP_GATEWAY_`."""
    state_dir.mkdir(parents=True, exist_ok=True)
    line = [*COMMAND, command, *options]
    if config is not None:
        path = state_dir / "config.yaml"
        path.write_text(json.dumps(config), encoding="utf-8")  # every JSON text is YAML
        line += ["--config", str(path)]
    variables = {f"{_OWN}{name}": value for name, value in environment.items()}
    variables[f"{_OWN}STATE_DIR"] = str(state_dir)
    return GatewayProcess(Program(*line, log=state_dir / "output.log", cwd=state_dir, environment=variables), state_dir)


@asynccontextmanager
async def gateway_process(
    state_dir: Path, config: Mapping[str, Any] | None, *options: str, command: str = "serve", **environment: str
) -> AsyncIterator[GatewayProcess]:
    """A command that is ready; in the end nothing of it is left, whatever the test did to it."""
    port = () if "--port" in options else ("--port", "0")
    gateway = launch(state_dir, config, *port, *options, command=command, **environment)
    try:
        await gateway.started()
        yield gateway
    finally:
        try:
            await gateway.program.stop()
        finally:
            for pid in traces(state_dir):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


@asynccontextmanager
async def upstream_program(module: str, log: Path, *options: str, port: int | None = None) -> AsyncIterator[str]:
    """A module of this repository that serves MCP on a port; yields its origin when it listens.

    `options` are what comes before the port on its command line.
    """
    port = port or free_port()
    program = Program(sys.executable, "-m", module, *options, str(port), log=log)

    async def listens() -> bool:
        assert program.status is None, program.words
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            return False
        writer.close()
        return True

    try:
        await eventually(listens, f"{module} to listen", START_SECONDS)
        yield f"http://127.0.0.1:{port}"
    finally:
        await program.stop()


async def readiness(http: aiohttp.ClientSession, origin: str) -> tuple[int, dict[str, Any]]:
    """Status and body of `/readyz`."""
    async with http.get(f"{origin}/readyz") as response:
        return response.status, orjson.loads(await response.read())


def free_port() -> int:
    """A port that nothing listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
