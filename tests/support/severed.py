"""A wire to Postgres that can be cut, in the ways networks do it."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs, urlsplit, urlunsplit


class Wire:
    """Relays connections on a free port of 127.0.0.1 to the Postgres of a URL. `url` leads through the wire."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        place = parse_qs(parts.query)
        self._socket = f"{place['host'][0]}/.s.PGSQL.{place['port'][0]}"
        self._parts = parts
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._refusing = False
        self._open = asyncio.Event()
        self._open.set()
        self.url = ""
        self.accepted = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        user = self._parts.netloc.rpartition("@")[0]
        self.url = urlunsplit(("postgresql", f"{user}@127.0.0.1:{port}", self._parts.path, "", ""))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        self.close_all()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def swallow(self) -> None:
        """From now on nothing passes, and nobody is told."""
        self._open.clear()

    def let_pass(self) -> None:
        """What was held back passes, and all that follows."""
        self._open.set()

    def refuse(self) -> None:
        """Closes every connection, and new ones at once."""
        self._refusing = True
        self.close_all()

    def accept(self) -> None:
        """Accepts connections again."""
        self._refusing = False

    def close_all(self) -> None:
        """Closes every connection; new ones are accepted."""
        for writer in self._writers:
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        if self._refusing:
            writer.transport.abort()
            return
        upstream_reader, upstream_writer = await asyncio.open_unix_connection(self._socket)
        self._writers |= {writer, upstream_writer}
        for source, target in ((reader, upstream_writer), (upstream_reader, writer)):
            task = asyncio.create_task(self._relay(source, target))
            self._tasks.add(task)

    async def _relay(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while chunk := await source.read(65536):
                await self._open.wait()
                target.write(chunk)
                await target.drain()
        target.close()
