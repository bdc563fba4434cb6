"""Records as lines of JSON in a local file: the first adapter of the recorder port."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path

import orjson

from gateway.calls import Call, Outcome
from gateway.errors import StorageUnavailable


class Journal:
    """Appends a line when a call opens and one when it closes; no argument and no result is ever written.

    Lines of one turn of the event loop go to the file in one write. A line that cannot be written stops the call it
    belongs to: no record, no call.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._clock = clock
        self._lines: list[bytes] = []
        self._written: asyncio.Future[None] | None = None

    async def opened(self, call: Call) -> None:
        """Raises StorageUnavailable when the line cannot be written."""
        caller = call.caller
        await self._append(
            {
                "event": "opened" if call.round.number == 1 else "round",
                "record": call.id,
                "round": call.round.number,
                "at": self._clock(),
                "principal": caller.principal.id,
                "endpoint": caller.endpoint,
                "revision": caller.revision,
                "server": call.server.slug,
                "version": call.server.version,
                "method": call.method.value,
                "name": call.exposed_name,
            }
        )

    async def closed(self, call: Call, outcome: Outcome, detail: str) -> None:
        """Raises StorageUnavailable when the line cannot be written: the answer does not leave then."""
        await self._append(
            {
                "event": "closed",
                "record": call.id,
                "round": call.round.number,
                "at": self._clock(),
                "outcome": outcome.value,
                "detail": detail,
            }
        )

    async def _append(self, line: dict[str, object]) -> None:
        self._lines.append(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
        if self._written is None:
            loop = asyncio.get_running_loop()
            self._written = loop.create_future()
            loop.call_soon(self._write)
        await asyncio.shield(self._written)

    def _write(self) -> None:
        written, lines = self._written, b"".join(self._lines)
        self._written = None
        self._lines.clear()
        assert written is not None  # noqa: S101 - set by whoever scheduled this
        try:
            done = os.write(self._file, lines)
        except OSError as error:
            failure = StorageUnavailable(f"the journal cannot be written: {error.strerror}")
            failure.__cause__ = error
            written.set_exception(failure)
            written.exception()  # a caller that was cancelled meanwhile does not look
            return
        if done != len(lines):
            written.set_exception(StorageUnavailable("the journal is full"))
            written.exception()
        elif not written.done():
            written.set_result(None)

    def close(self) -> None:
        """Closes the file."""
        os.close(self._file)
