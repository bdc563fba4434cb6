"""Event ids and replay for legacy sessions: a stream broken on one replica is taken up again on any other."""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
from typing import Final

import structlog

from gateway.bridge.stream_log import StreamLog, StreamUnknown, announced_id
from gateway.edge.http import ClientGone, Request
from gateway.errors import StorageUnavailable
from gateway.sessions.changes import Changes
from gateway.upstream.sse import encode_event

log = structlog.get_logger()

RETRY_MS: Final = 1000
"""What clients are told to wait before they reconnect."""

_EVENT_ID = re.compile(r"([0-9a-f]{24})-([0-9]{1,9})")
_FOLLOW_SECONDS = 1.0
_COMMENT = b": keep-alive\n\n"


class Logged:
    """Framing of a stream whose events are kept before they are written.

    `primed`: the first event carries an id and no data (2025-11-25 on; older clients would choke on it). Where the
    log cannot be written the stream goes on without ids: an answer now is worth more than one that can be replayed.
    """

    def __init__(self, stream_log: StreamLog, session_key: str, *, primed: bool) -> None:
        self._log = stream_log
        self._session = session_key
        self._stream = ""
        self._primed = primed
        self._written = 0
        self._kept = True
        self._opened = False

    async def start(self) -> bytes:
        """The priming event."""
        self._stream = secrets.token_hex(12)
        try:
            await self._log.open(self._session, self._stream)
            self._opened = True
        except StorageUnavailable as error:
            self._fail(error)
        if not self._kept:
            return b": open\n\n"
        if not self._primed:
            return b"retry: %d\n\n" % RETRY_MS
        return encode_event(b"", id=f"{self._stream}-0", event=None, retry=RETRY_MS)

    async def event(self, data: bytes) -> bytes:
        """One `message` event under the next id."""
        if self._kept:
            self._written += 1
            try:
                await self._log.append(self._session, self._stream, self._written, data)
            except (StorageUnavailable, StreamUnknown) as error:
                self._fail(error)
            else:
                return encode_event(data, id=f"{self._stream}-{self._written}")
        return encode_event(data)

    async def end(self) -> None:
        """Marks the stream as complete, so that a replay ends: also that of a stream with a gap."""
        if self._opened:
            with contextlib.suppress(StorageUnavailable, StreamUnknown):
                await self._log.end(self._session, self._stream)

    def _fail(self, error: Exception) -> None:
        self._kept = False
        log.warning("stream_not_kept", error=str(error))


class Replays:
    """Serves GETs that carry `Last-Event-ID`."""

    def __init__(self, stream_log: StreamLog, changes: Changes, *, keep_alive: float) -> None:
        self._log = stream_log
        self._changes = changes
        self._keep_alive = keep_alive

    async def serve(self, request: Request, session_key: str, last_event_id: str) -> bool:
        """Replays what came after the event and follows until the stream ends; False for an id that is not ours."""
        match = _EVENT_ID.fullmatch(last_event_id)
        if match is None:
            return False
        stream, after = match[1], int(match[2])
        wake = asyncio.Event()
        announced = announced_id(session_key, stream)
        stop = self._changes.subscribe("stream", lambda changed: wake.set() if changed == announced else None)
        try:
            page = await self._log.read(session_key, stream, after)
            if not page.known:
                return False
            await request.start_stream()
            gone = asyncio.create_task(request.gone())
            try:
                await request.write(b"retry: %d\n\n" % RETRY_MS)
                silent = 0.0
                while not gone.done():
                    for seq, data in page.events:
                        await request.write(encode_event(data, id=f"{stream}-{seq}"))
                        after, silent = seq, 0.0
                    if page.ended:
                        break
                    silent += await self._wait(wake)
                    wake.clear()  # before the log is read: what comes after that is heard
                    if silent >= self._keep_alive:
                        await request.write(_COMMENT)
                        silent = 0.0
                    page = await self._log.read(session_key, stream, after)
                if not gone.done():
                    await request.end_stream()
            except ClientGone:
                pass
            finally:
                gone.cancel()
            return True
        finally:
            stop()

    @staticmethod
    async def _wait(wake: asyncio.Event) -> float:
        """Waits for a change, or long enough that a lost one does not matter; returns the silent seconds."""
        try:
            async with asyncio.timeout(_FOLLOW_SECONDS):
                await wake.wait()
        except TimeoutError:
            return _FOLLOW_SECONDS
        return 0.0
