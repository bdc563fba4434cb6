"""`mcp-gateway serve`: the database, the schema, the key, the socket, N replicas, and their end."""

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
import types
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path

import click

from gateway import settings as configuration
from gateway.cli import state
from gateway.cli.parent import die_with_parent
from gateway.cli.postgres import EmbeddedPostgres, EmbeddedPostgresError
from gateway.errors import ConfigurationError, GatewayError, Unauthenticated
from gateway.identity.api_keys import ApiKeys
from gateway.identity.issuing import KeyIssuer
from gateway.keys import KeyRing
from gateway.settings import Settings, secret
from gateway.storage.changes import Changes
from gateway.storage.engine import Database
from gateway.storage.keys import PostgresKeyStore
from gateway.storage.migrate import upgrade

PYTHON = (sys.executable, "-P", "-m")
"""Runs a module of ours; -P, because a `gateway` in whatever folder we were started in is not ours."""
READY_SECONDS = 30.0
GRACE_SECONDS = 10.0
_RESTART_SECONDS = 1.0


@dataclass
class Running:
    """What `serve` has started, for whoever prints it."""

    endpoint: str
    key: str | None
    pids: dict[str, int]
    started: float


@click.command()
@click.option("--config", type=click.Path(path_type=Path), default=None, help="YAML, or a client's mcpServers JSON.")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=8642, show_default=True, type=click.IntRange(0, 65535))
@click.option("--workers", default=1, show_default=True, type=click.IntRange(1, 64), help="Full replicas to run.")
@click.option("--json", "as_json", is_flag=True, help="Print what was started as one JSON line.")
def serve(config: Path | None, host: str, port: int, workers: int, as_json: bool) -> None:  # noqa: FBT001 - click calls it
    """Starts the gateway. Without MCP_GATEWAY_DATABASE_URL it starts an embedded Postgres in .mcp-gateway/."""

    def announce(running: Running) -> None:
        if as_json:
            click.echo(json.dumps({"endpoint": running.endpoint, "key": running.key, "pids": running.pids}))
            return
        click.echo(f"endpoint  {running.endpoint}")
        click.echo(f"key       {running.key or 'none needed (anonymous)'}")

    with faults():
        loaded = configuration.load(config)
        configuration.check_bind(loaded, host)
        run(loaded, config, host, port, workers, announce)


@contextlib.contextmanager
def faults() -> Iterator[None]:
    """Turns what is wrong into one line on stderr and exit status 2."""
    try:
        yield
    except (ConfigurationError, EmbeddedPostgresError, GatewayError) as error:
        click.echo(f"mcp-gateway: {error}", err=True)
        raise SystemExit(2) from None


def run(
    settings: Settings,
    config: Path | None,
    host: str,
    port: int,
    workers: int,
    announce: Callable[[Running], None],
    extra_pids: dict[str, int] | None = None,
) -> None:
    """Runs until a signal, or until a replica cannot be kept alive."""
    started = time.monotonic()
    folder = state.state_dir()
    state.remove_run(folder)
    with ExitStack() as stack:
        listening = stack.enter_context(_listen(host, port))
        port = listening.getsockname()[1]
        ring = state.master_keys(settings, folder)
        url = secret("DATABASE_URL")
        pids = dict(extra_pids or {})
        postgres = _embedded(settings, folder) if url is None else None
        if postgres is not None:
            stack.callback(postgres.stop)  # registered first, so that it ends after those who use it
        replicas = _Replicas(config, host, port, listening, folder, workers)
        stack.callback(replicas.stop)
        stack.enter_context(replicas.signals())
        replicas.start()  # they load their code while the database is made ready
        if postgres is not None:
            url = postgres.start()
            pids["postgres"] = postgres.pid or 0
        assert url is not None  # noqa: S101 - one of the two ways has set it
        key = asyncio.run(_prepare(settings, url, ring, folder))
        replicas.release(url, ring)
        if not replicas.wait_ready():
            return
        pids["serve"] = os.getpid()
        shown = f"[{host}]" if ":" in host else host
        origin = settings.gateway.public_url or f"http://{shown}:{port}"
        running = Running(f"{origin.rstrip('/')}/mcp", key, {**pids, **replicas.pids}, started)

        def tell() -> None:
            facts = {"endpoint": running.endpoint, "key": key, "admin": None, "console": None, "metrics": None}
            state.write_run(folder, {**facts, "pids": {**pids, **replicas.pids}})

        stack.callback(state.remove_run, folder)
        tell()
        announce(running)
        replicas.watch(tell)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host.strip("[]"), port))
    except OSError as error:
        listening.close()
        raise ConfigurationError(
            f"--host/--port: cannot listen on {host}:{port}: {error.strerror}; choose another with --port"
        ) from error
    listening.listen(2048)
    listening.set_inheritable(True)
    return listening


def _embedded(settings: Settings, folder: Path) -> EmbeddedPostgres:
    if settings.gateway.mode == "production":
        raise ConfigurationError(
            "MCP_GATEWAY_DATABASE_URL: production needs a Postgres of its own; set it to postgresql://user@host/database"
        )
    return EmbeddedPostgres(folder)


async def _prepare(settings: Settings, url: str, ring_text: str, folder: Path) -> str | None:
    """Migrates, and returns the development key: the kept one while it is good, else a new one."""
    await upgrade(url)
    if settings.gateway.authentication.mode == "anonymous" or settings.gateway.mode == "production":
        return None
    database = Database(url, pool_size=2)
    ring = KeyRing.parse(ring_text)
    store = PostgresKeyStore(database)
    kept = folder / "development.key"
    try:
        if kept.exists():
            text = kept.read_text(encoding="ascii").strip()
            with contextlib.suppress(Unauthenticated):
                await ApiKeys(store, ring, Changes(database), clock=time.time).authenticate(text)
                return text
        issued = await KeyIssuer(store, ring, time.time).create("development")
        state.write_private(kept, issued.text)
        return issued.text
    finally:
        await database.dispose()


class _Replicas:
    """N worker processes on one socket; one that dies is started again."""

    def __init__(
        self, config: Path | None, host: str, port: int, listening: socket.socket, folder: Path, count: int
    ) -> None:
        command = [*PYTHON, "gateway.cli", "worker", "--host", host, "--port", str(port)]
        command += ["--fd", str(listening.fileno()), "--state-dir", str(folder), "--grace", str(GRACE_SECONDS)]
        if config is not None:
            command += ["--config", str(config)]
        self._command = command
        self._fd = listening.fileno()
        self._address = (host.strip("[]") if host not in ("0.0.0.0", "::") else "127.0.0.1", port)
        self._count = count
        self._processes: list[subprocess.Popen[bytes]] = []
        self._stopping = False
        self._secrets = b""

    @property
    def pids(self) -> dict[str, int]:
        return {f"replica-{number}": process.pid for number, process in enumerate(self._processes, 1)}

    @contextlib.contextmanager
    def signals(self) -> Iterator[None]:
        """SIGINT and SIGTERM end everything in order; the replicas get theirs from here."""
        before = {number: signal.signal(number, self._told) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _told(self, number: int, frame: types.FrameType | None) -> None:
        del number, frame
        self._stopping = True

    def start(self) -> None:
        self._processes = [self._spawn() for _ in range(self._count)]

    def release(self, database_url: str, master_keys: str) -> None:
        """Tells the replicas what they wait for. It goes through a pipe: command lines and environments can be read."""
        self._secrets = json.dumps({"database_url": database_url, "master_keys": master_keys}).encode() + b"\n"
        for process in self._processes:
            self._tell(process)

    def _tell(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None  # noqa: S101 - asked for in _spawn
        with contextlib.suppress(BrokenPipeError):  # it ended; whoever watches will see that
            process.stdin.write(self._secrets)
            process.stdin.close()

    def _spawn(self) -> subprocess.Popen[bytes]:
        # A group of their own: Ctrl-C reaches the parent only, which lets them drain.
        return subprocess.Popen(
            self._command,
            pass_fds=(self._fd,),
            process_group=0,
            stdin=subprocess.PIPE,
            preexec_fn=die_with_parent(signal.SIGTERM),  # noqa: PLW1509 - see there
        )

    def wait_ready(self) -> bool:
        """Returns when `/readyz` answers 200, or False when told to stop before.

        Raises:
            ConfigurationError: a replica ended first, or none was ready in time.
        """
        deadline = time.monotonic() + READY_SECONDS
        while not self._stopping:
            if any(process.poll() is not None for process in self._processes):
                raise ConfigurationError("a replica ended while starting; its last words are above")
            if time.monotonic() > deadline:
                raise ConfigurationError(f"not ready within {READY_SECONDS:g} s")
            if _answers(self._address):
                return True
            time.sleep(0.02)
        return False

    def watch(self, restarted: Callable[[], None]) -> None:
        """Keeps the replicas alive until told to stop; calls `restarted` when one has another process."""
        while not self._stopping:
            for number, process in enumerate(self._processes):
                if process.poll() is not None:
                    words = f"replica {number + 1} ended ({process.returncode}); starting it again"
                    click.echo(f"mcp-gateway: {words}", err=True)
                    time.sleep(_RESTART_SECONDS)
                    self._processes[number] = self._spawn()
                    self._tell(self._processes[number])
                    restarted()
            time.sleep(0.2)

    def stop(self) -> None:
        """Lets the replicas drain, then ends them."""
        for process in self._processes:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + GRACE_SECONDS + 3
        for process in self._processes:
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _answers(address: tuple[str, int]) -> bool:
    connection = HTTPConnection(*address, timeout=1)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()
