"""The stdio servers of one wrapper: how many there are, whom they serve, how long they live."""

import asyncio
import secrets
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from itertools import count
from types import TracebackType
from typing import Final, Self

from mcp_types import CLIENT_CAPABILITIES_META_KEY, CLIENT_INFO_META_KEY, PROTOCOL_VERSION_META_KEY
from mcp_types.version import LATEST_MODERN_VERSION

from gateway.cli.stdio import message as jsonrpc
from gateway.cli.stdio.child import Child, Command
from gateway.cli.stdio.message import Message
from gateway.cli.stdio.modern import Shared
from gateway.cli.stdio.session import Session
from gateway.jsonrpc import dumps

PROBE_PATIENCE: Final = 20.0
"""Seconds a starting server has to say whether it speaks 2026-07-28. A legacy one may not answer at all."""

_PROBE: Final = {
    PROTOCOL_VERSION_META_KEY: LATEST_MODERN_VERSION,
    CLIENT_INFO_META_KEY: {"name": "mcp-gateway-wrap", "version": "1"},
    CLIENT_CAPABILITIES_META_KEY: {},
}


class FullError(Exception):
    """No further server may be started now."""


class StartError(Exception):
    """The command could not be run."""


class Children:
    """Starts a server for each legacy session, and one for all modern calls if the command speaks 2026-07-28.

    `limit` is the number of processes at a time, `idle` the seconds without an HTTP request after which one is ended.
    """

    def __init__(self, command: Command, *, limit: int, idle: float) -> None:
        self.command = command
        self._limit = limit
        self._idle = idle
        self._names = count(1)
        self._closing = False
        self._running: set[Child] = set()
        self._sessions: dict[str, Session] = {}
        self._shared: Shared | None = None
        self._is_modern: bool | None = None
        self._probing = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._reaper = asyncio.create_task(self._reap())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End every server; none is started any more."""
        self._closing = True
        self._reaper.cancel()
        why = "the wrapper is stopping"
        for inbox in self._inboxes():
            inbox.end(why)
        ending = (child.end(why) for child in list(self._running))
        await asyncio.gather(*ending, *self._tasks, self._reaper, return_exceptions=True)

    @property
    def running(self) -> int:
        return len(self._running)

    async def open(self, initialize: Message) -> Session:
        """A session with a server of its own, not to be found before `establish`. Raises FullError and StartError."""
        session = Session(secrets.token_urlsafe(24), initialize)
        await self._start(session)
        return session

    def establish(self, session: Session, version: str) -> None:
        session.version = version
        session.used_at = asyncio.get_running_loop().time()
        if not session.ended:
            self._sessions[session.id] = session

    def find(self, session_id: str | None) -> Session | None:
        return self._sessions.get(session_id) if session_id is not None else None

    async def drop(self, inbox: Session | Shared, why: str) -> None:
        """Forget it at once, then end its server."""
        if isinstance(inbox, Session):
            self._sessions.pop(inbox.id, None)
        inbox.end(why)
        await inbox.child.end(why)

    async def shared(self) -> Shared | None:
        """What serves modern calls; None if the command does not speak 2026-07-28. Raises FullError and StartError."""
        async with self._probing:
            if self._is_modern is False:
                return None
            if self._shared is None or self._shared.ended:
                shared = Shared()
                await self._start(shared)
                if self._is_modern is None and not await self._probe(shared):
                    self._spawn(self.drop(shared, "it does not speak 2026-07-28"))
                    return None
                self._shared = shared
            return self._shared

    @contextmanager
    def using(self, inbox: Session | Shared) -> Iterator[None]:
        """While an HTTP request is served its server is not idle."""
        inbox.connections += 1
        try:
            yield
        finally:
            inbox.connections -= 1
            inbox.used_at = asyncio.get_running_loop().time()

    async def _start(self, inbox: Session | Shared) -> None:
        if self._closing:
            raise FullError("the wrapper is stopping")
        if len(self._running) >= self._limit:
            raise FullError(
                f"{self._limit} stdio servers are running, the most allowed; end a session or raise --max-children"
            )

        def over(reason: str) -> None:
            self._running.discard(child)
            if isinstance(inbox, Session):
                self._sessions.pop(inbox.id, None)
            inbox.end(f"the stdio server is gone: {reason}")

        child = Child(f"{self.command.name} {next(self._names)}", inbox.receive, over)
        inbox.child = child
        inbox.used_at = asyncio.get_running_loop().time()
        self._running.add(child)
        try:
            await child.start(self.command)
        except OSError as error:
            self._running.discard(child)
            raise StartError(f"{self.command.argv[0]} cannot be started: {error.strerror}") from error

    async def _probe(self, shared: Shared) -> bool:
        """Whether the server speaks 2026-07-28. What it did not answer is not held against it the next time."""
        body = {"jsonrpc": "2.0", "id": 0, "method": "server/discover", "params": {"_meta": _PROBE}}
        call = shared.submit(jsonrpc.from_client(dumps(body)))
        with call.stream.followed_by() as reader:
            try:
                events = await asyncio.wait_for(call.stream.after(0, reader), PROBE_PATIENCE)
            except TimeoutError:
                return False
        if shared.ended or not events:
            return False
        supported = jsonrpc.from_server(events[-1].message).value(("result", "supportedVersions"))
        self._is_modern = isinstance(supported, list) and LATEST_MODERN_VERSION in supported
        return self._is_modern

    def _inboxes(self) -> list[Session | Shared]:
        sessions: list[Session | Shared] = list(self._sessions.values())
        return sessions if self._shared is None else [*sessions, self._shared]

    async def _reap(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(min(self._idle / 4, 30.0))
            for inbox in self._inboxes():
                if not inbox.ended and not inbox.connections and inbox.used_at + self._idle < loop.time():
                    self._spawn(self.drop(inbox, "it was idle"))

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
