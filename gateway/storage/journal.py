"""Records as lines of JSON in a local file: the first adapter of the recorder port."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import orjson

from gateway.calls import Call, Outcome
from gateway.errors import StorageUnavailable


class Journal:
    """Appends a line when a call opens and one when it closes; no argument and no result is ever written.

    A line that cannot be written stops the call it belongs to: no record, no call. Each is one write to the page cache,
    which costs less than sharing a write among calls would.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._clock = clock
        self._torn = False

    async def opened(self, call: Call) -> None:
        """Raises StorageUnavailable when the line cannot be written."""
        caller = call.caller
        self._append(
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
        self._append(
            {
                "event": "closed",
                "record": call.id,
                "round": call.round.number,
                "at": self._clock(),
                "outcome": outcome.value,
                "detail": detail,
            }
        )

    def _append(self, line: dict[str, object]) -> None:
        text = orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)
        if self._torn:  # what a full disk left of a line must not swallow the next one
            text = b"\n" + text
        try:
            written = os.write(self._file, text)
        except OSError as error:
            raise StorageUnavailable(f"the journal cannot be written: {error.strerror}") from error
        self._torn = written != len(text)
        if self._torn:
            raise StorageUnavailable("the journal is full")

    def close(self) -> None:
        """Closes the file."""
        os.close(self._file)
