"""One replica in one process: what `serve` starts N times on one listening socket."""

from __future__ import annotations

import asyncio
import gc
import json
import signal
import socket
import sys
from pathlib import Path

import click
import uvicorn
import uvloop

from gateway import settings as configuration
from gateway.app import Gateway
from gateway.edge.protocol import Protocol
from gateway.keys import KeyRing
from gateway.telemetry import logging as telemetry


class _Server(uvicorn.Server):
    """uvicorn with our own signals: its shutdown hook comes only after connections have ended, too late to drain."""

    def __init__(self, config: uvicorn.Config, gateway: Gateway) -> None:
        super().__init__(config)
        self._gateway = gateway

    def install_signal_handlers(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._drain)

    def _drain(self) -> None:
        self._gateway.drain()
        self.should_exit = True

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        self.install_signal_handlers()
        await self._serve(sockets)


@click.command(hidden=True)
@click.option("--config", type=click.Path(path_type=Path), default=None)
@click.option("--host", required=True)
@click.option("--port", type=int, required=True)
@click.option("--fd", type=int, required=True)
@click.option("--state-dir", type=click.Path(path_type=Path), required=True)
@click.option("--grace", type=float, default=10.0)
def worker(config: Path | None, host: str, port: int, fd: int, state_dir: Path, grace: float) -> None:
    """Runs one replica on an inherited socket (internal)."""
    told = sys.stdin.readline()
    if not told:
        raise SystemExit(1)  # the parent ended before it had a database for us
    secrets = json.loads(told)
    loaded = configuration.load(config)
    telemetry.configure(json=not sys.stderr.isatty())
    gateway = Gateway(
        loaded,
        database_url=secrets["database_url"],
        keys=KeyRing.parse(secrets["master_keys"]),
        host=host,
        port=port,
        state_dir=state_dir,
    )
    listening = socket.socket(fileno=fd)
    server = uvicorn.Config(
        gateway,
        http=Protocol,
        loop="uvloop",
        ws="none",
        lifespan="on",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=int(grace),
    )
    gc.collect()
    gc.freeze()  # what was imported stays: collections need not walk it again
    uvloop.run(_Server(server, gateway).serve([listening]))
