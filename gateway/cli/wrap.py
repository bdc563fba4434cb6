"""`mcp-gateway wrap`: a stdio MCP server, served as Streamable HTTP by a process of its own."""

import asyncio
import json
import os
import shlex
import shutil
import signal
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

import click
import uvicorn

from gateway.cli.stdio.child import Command
from gateway.cli.stdio.children import Children
from gateway.cli.stdio.endpoint import LOOPBACK, Endpoint

INHERITED: Final = ("PATH", "HOME", "LANG")
"""All that a stdio server sees of our environment; tokens and settings of other programs are none of its business."""


def _environment(_: click.Context, __: click.Parameter, values: Sequence[str]) -> dict[str, str]:
    environment = {name: os.environ[name] for name in INHERITED if name in os.environ}
    for value in values:
        name, separator, text = value.partition("=")
        if not name or (not separator and name not in os.environ):
            raise click.BadParameter(f"{value!r}: write KEY=VALUE, or KEY alone for a variable that is set here")
        environment[name] = text if separator else os.environ[name]
    return environment


@click.command()
@click.option("--port", type=click.IntRange(0, 65535), required=True, help="TCP port; 0 takes a free one.")
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Address to listen on. There is no authentication."
)
@click.option("--allow-host", multiple=True, metavar="NAME", help="A further name clients may use for this machine.")
@click.option("--env", "environment", multiple=True, metavar="KEY[=VALUE]", callback=_environment,
              help="A variable for the server. KEY alone passes ours on: a secret need not be typed.")  # fmt: skip
@click.option("--max-children", type=click.IntRange(1), default=64, show_default=True, help="Servers at a time.")
@click.option("--idle", type=click.FloatRange(0, min_open=True), default=1800.0, show_default=True,
              help="Seconds without a request after which a server is ended.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Say as JSON when the endpoint is ready.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def wrap(
    *,
    port: int,
    host: str,
    allow_host: tuple[str, ...],
    environment: Mapping[str, str],
    max_children: int,
    idle: float,
    as_json: bool,
    command: tuple[str, ...],
) -> None:
    """Serve the stdio MCP server COMMAND as Streamable HTTP at http://HOST:PORT/mcp.

    Each client session gets a server process of its own. Write -- before COMMAND.
    """
    if shutil.which(command[0], path=environment.get("PATH", os.defpath)) is None:
        raise click.ClickException(f"{command[0]}: no such command; give its full path, or install it")
    listener = _listen(host, port)
    url = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}/mcp"
    words = shlex.join(command)
    ready = json.dumps({"url": url, "command": words, "pid": os.getpid()}) if as_json else f"wrap: {words} at {url}"
    hosts = LOOPBACK | {host.lower(), *(name.lower() for name in allow_host)}
    asyncio.run(_serve(Command(command, environment), hosts, listener, ready, limit=max_children, idle=idle))


def _listen(host: str, port: int) -> socket.socket:
    """A bound socket, so that a taken port is found out before anything is started."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        # With the protocol named, asyncio sets TCP_NODELAY on what is accepted; without it a reply takes 40 ms.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise click.ClickException(
            f"cannot listen on {host} port {port}: {error.strerror}; choose another --port or --host"
        ) from error
    return listener


async def _serve(
    command: Command, hosts: frozenset[str], listener: socket.socket, ready: str, *, limit: int, idle: float
) -> None:
    async with Children(command, limit=limit, idle=idle) as children:
        config = uvicorn.Config(
            Endpoint(children, hosts), lifespan="off", ws="none", log_level="warning", timeout_graceful_shutdown=5
        )
        await _Server(config, children, ready).serve(sockets=[listener])


class _Server(uvicorn.Server):
    """Says when it is ready, and on SIGTERM or SIGINT ends the stdio servers first: their open streams hold it up."""

    def __init__(self, config: uvicorn.Config, children: Children, ready: str) -> None:
        super().__init__(config)
        self._children = children
        self._ready = ready

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for sign in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(sign, self.handle_exit, sign, None)
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        click.echo(self._ready)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._children.close()
        await super().shutdown(sockets=sockets)
