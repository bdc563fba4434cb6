"""`mcp-gateway dev`, which `make run` starts: embedded Postgres, sample upstreams, one `wrap` per command; loopback."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
import yaml

from gateway import settings as configuration
from gateway.cli import snippets, state
from gateway.cli.parent import die_with_parent
from gateway.cli.serve import PYTHON, Running, faults, run
from gateway.errors import ConfigurationError
from gateway.settings import Settings

SAMPLES = {"library": "samples.library", "workshop": "samples.workshop"}
"""Slug to module: one server of the 2026-07-28 revision, one of 2025-11-25 with sessions."""

_START_SECONDS = 20.0
_STOP_SECONDS = 5.0


@click.command()
@click.option("--config", type=click.Path(path_type=Path), default=None, help="YAML, or a client's mcpServers JSON.")
@click.option("--port", default=8642, show_default=True, type=click.IntRange(0, 65535))
@click.option("--workers", default=1, show_default=True, type=click.IntRange(1, 64))
def dev(config: Path | None, port: int, workers: int) -> None:
    """Starts the gateway with everything it needs on this machine, for trying out and developing."""

    def announce(running: Running) -> None:
        click.echo(snippets.render(running.endpoint, running.key, time.monotonic() - running.started))

    with faults(), ExitStack() as stack:
        loaded = configuration.load(config) if config is not None else Settings()
        if loaded.gateway.mode == "production":
            raise ConfigurationError("gateway.mode: `dev` is for development; use `serve` for production")
        children = _Children()
        stack.callback(children.stop)
        resolved = _resolved(loaded, children, samples=config is None)
        path = state.state_dir() / "dev.yaml"
        state.write_private(path, yaml.safe_dump(resolved, sort_keys=False))
        run(configuration.parse(resolved), path, "127.0.0.1", port, workers, announce, children.pids)


class _Children:
    """Servers beside the gateway, each in a process of its own that dies with this one."""

    def __init__(self) -> None:
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._ports: dict[str, int] = {}

    @property
    def pids(self) -> dict[str, int]:
        return {name: process.pid for name, process in self._processes.items()}

    def start(
        self, name: str, command: list[str], *, cwd: str | None = None, environment: dict[str, str] | None = None
    ) -> int:
        """Starts `command --port P` and returns the port."""
        port = _free_port()
        at = command.index("--") if "--" in command else len(command)
        full = [*command[:at], "--port", str(port), *command[at:]]
        variables = {**os.environ, **(environment or {})}
        process = subprocess.Popen(
            full,
            cwd=cwd,
            env=variables,
            process_group=0,
            stdout=subprocess.DEVNULL,
            preexec_fn=die_with_parent(signal.SIGTERM),  # noqa: PLW1509 - see there
        )
        self._processes[name] = process
        self._ports[name] = port
        return port

    def wait(self) -> None:
        """Returns when every one listens.

        Raises:
            ConfigurationError: one ended, or did not listen in time.
        """
        deadline = time.monotonic() + _START_SECONDS
        for name, port in self._ports.items():
            while not _listens(port):
                if self._processes[name].poll() is not None:
                    raise ConfigurationError(f"servers.{name}: its process ended at once; its last words are above")
                if time.monotonic() > deadline:
                    raise ConfigurationError(f"servers.{name}: did not listen within {_START_SECONDS:g} s")
                time.sleep(0.02)

    def stop(self) -> None:
        for process in self._processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + _STOP_SECONDS
        for process in self._processes.values():
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _resolved(loaded: Settings, children: _Children, *, samples: bool) -> dict[str, Any]:
    """The configuration with an address in place of every command; the samples' own where nothing is configured."""
    document: dict[str, Any] = loaded.model_dump(mode="json", exclude_unset=True)
    document.setdefault("servers", [])
    for server in document["servers"]:
        for version in server["versions"]:
            if command := version.pop("command", None):
                line = [*PYTHON, "gateway.cli", "wrap"]
                environment = version.pop("env", {})
                for name in environment:  # by name only: values on a command line are everybody's to read
                    line += ["--env", name]
                name = f"{server['slug']}@{version.get('version', '1')}"
                line = [*line, "--", *command]
                port = children.start(name, line, cwd=version.pop("cwd", None), environment=environment)
                version["url"] = f"http://127.0.0.1:{port}/mcp"
    if samples:
        for slug, module in SAMPLES.items():
            port = children.start(slug, [*PYTHON, module])
            document["servers"].append({"slug": slug, "versions": [{"url": f"http://127.0.0.1:{port}/mcp"}]})
    children.wait()
    return document


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
