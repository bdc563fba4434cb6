"""An ASGI application behind a real socket, in the test's own event loop."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Literal

import uvicorn

START_SECONDS = 10


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # signals are pytest's

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self.ready.set()


@asynccontextmanager
async def listening(app: Any) -> AsyncIterator[str]:
    """The origin at which `app` is served, `http://127.0.0.1:port`."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    async with serving(app, listener):
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@asynccontextmanager
async def serving(
    app: Any,
    listener: socket.socket,
    *,
    lifespan: Literal["auto", "on"] = "auto",
    http: type[asyncio.Protocol] | Literal["auto"] = "auto",
) -> AsyncIterator[None]:
    """Serves `app` on a bound socket."""
    config = uvicorn.Config(
        app, http=http, ws="none", log_level="warning", timeout_graceful_shutdown=1, lifespan=lifespan
    )
    server = _Server(config)
    running = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        await asyncio.wait_for(server.ready.wait(), START_SECONDS)
        yield
    finally:
        server.should_exit = True
        await running
        listener.close()
