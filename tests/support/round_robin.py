"""A front proxy without affinity: each HTTP request goes to the next replica, whatever connection it came on."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

_CHUNK = 65_536
_END_OF_HEAD = b"\r\n\r\n"


@dataclass(slots=True)
class Passed:
    """One request that went through: which replica had it, for which session, and the status of the answer."""

    replica: int
    verb: str
    session: str
    status: int = 0


class _Lost(Exception):
    """One of the two ends went away before the answer was complete."""


@dataclass(frozen=True, slots=True)
class _Head:
    """A request's or a response's first line and headers."""

    raw: bytes
    first: bytes
    fields: dict[bytes, bytes]

    @classmethod
    async def read(cls, reader: asyncio.StreamReader, begun: bytes = b"") -> _Head:
        """Reads a head of which `begun` has been read already."""
        raw = begun + await reader.readuntil(_END_OF_HEAD)
        first, *lines = raw.removesuffix(_END_OF_HEAD).split(b"\r\n")
        pairs = (line.split(b":", 1) for line in lines)
        return cls(raw, first, {name.strip().lower(): value.strip() for name, value in pairs})

    @property
    def length(self) -> int:
        return int(self.fields.get(b"content-length", b"0"))

    @property
    def chunked(self) -> bool:
        return self.fields.get(b"transfer-encoding", b"").lower() == b"chunked"


class RoundRobin:
    """Listens on a free port; `passed` has every request in order.

    A replica that goes away with a request breaks the client's connection off, for whether the request ran is not for a
    proxy to guess; from then on it is passed over, as is one that cannot be reached.
    """

    def __init__(self, ports: Sequence[int] = ()) -> None:
        self.ports = list(ports)
        self.passed: list[Passed] = []
        self.port = 0
        self._turn = itertools.count()
        self._failed: set[int] = set()
        self._server: asyncio.Server | None = None
        self._idle: dict[int, list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]] = {}
        self._serving: set[asyncio.Task[None]] = set()

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def replicas_of(self, session: str) -> set[int]:
        """Which replicas had requests of a session."""
        return {each.replica for each in self.passed if each.session == session}

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in tuple(self._serving):
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)
        for _, writer in itertools.chain.from_iterable(self._idle.values()):
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)
        try:
            # The end of a connection between requests, and one in the middle of anything.
            with contextlib.suppress(asyncio.IncompleteReadError, OSError, _Lost):
                begun = b""
                while True:
                    head = await _Head.read(reader, begun)
                    begun = await self._pass(head, await reader.readexactly(head.length), reader, writer)
        finally:
            writer.transport.abort()

    async def _pass(
        self, head: _Head, body: bytes, hearing: asyncio.StreamReader, client: asyncio.StreamWriter
    ) -> bytes:
        """Passes one request on and its answer back; returns the first byte of the next one, if it has come already."""
        replica, reader, writer = await self._connect()
        verb = head.first.split(b" ", 1)[0].decode()
        passed = Passed(replica, verb, head.fields.get(b"mcp-session-id", b"").decode())
        self.passed.append(passed)
        answering = asyncio.create_task(self._answer(head.raw + body, reader, writer, client, passed))
        next_byte = asyncio.create_task(hearing.read(1))  # nothing at all when the client has left
        try:
            await asyncio.wait((answering, next_byte), return_when=asyncio.FIRST_COMPLETED)
            if next_byte.done() and not next_byte.result():
                raise _Lost
            try:
                await answering
            except (asyncio.IncompleteReadError, OSError) as error:
                if reader.at_eof() or writer.is_closing():
                    self._failed.add(replica)
                raise _Lost from error
        except BaseException:
            answering.cancel()
            writer.transport.abort()
            raise
        finally:
            next_byte.cancel()
            await asyncio.gather(answering, next_byte, return_exceptions=True)
        self._idle.setdefault(replica, []).append((reader, writer))
        return b"" if next_byte.cancelled() else next_byte.result()

    async def _connect(self) -> tuple[int, asyncio.StreamReader, asyncio.StreamWriter]:
        for _ in self.ports:
            replica = next(self._turn) % len(self.ports)
            if replica in self._failed:
                continue
            idle = self._idle.get(replica, [])
            while idle:
                reader, writer = idle.pop()
                if not reader.at_eof() and not writer.is_closing():
                    return replica, reader, writer
                writer.transport.abort()
            try:
                return replica, *await asyncio.open_connection("127.0.0.1", self.ports[replica])
            except OSError:
                continue
        raise _Lost

    @staticmethod
    async def _answer(
        request: bytes,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        client: asyncio.StreamWriter,
        passed: Passed,
    ) -> None:
        """Sends the request and hands the answer on piece by piece, as it comes."""
        writer.write(request)
        head = await _Head.read(reader)
        passed.status = int(head.first.split(b" ", 2)[1])
        client.write(head.raw)
        if head.chunked:
            size = -1
            while size != 0:
                line = await reader.readuntil(b"\r\n")
                size = int(line, 16)
                client.write(line + await reader.readexactly(size + 2))
                await client.drain()
            return
        left = head.length
        while left:
            piece = await reader.read(min(left, _CHUNK))
            if not piece:
                raise asyncio.IncompleteReadError(b"", left)
            left -= len(piece)
            client.write(piece)
            await client.drain()
