"""Server-sent events as bytes: an incremental parser (WHATWG HTML, section 9.2.6) with a cap, and the encoder.

Two deliberate differences from a browser: `data` stays bytes, as JSON follows, and an event without data that carries
an id or a retry time is handed out, since resumption needs both (revision 2025-11-25 primes streams that way).
"""

import re
from typing import NamedTuple

_BOM = b"\xef\xbb\xbf"
_LEAD_CRLF, _END_CRLF = b"event: message\r\ndata: ", b"\r\n\r\n"
_LEAD_LF, _END_LF = b"event: message\ndata: ", b"\n\n"
_NEWLINE = re.compile(rb"\r\n|\r|\n")


class Event(NamedTuple):
    """`id` and `retry` (milliseconds) are None where this event has no such field; nothing is inherited."""

    data: bytes
    id: str | None
    event: str
    retry: int | None
    has_data: bool


class EventTooLarge(ValueError):
    """An upstream sent an event, or a line, above the cap. The stream cannot be read any further."""


class EventParser:
    """Fed with chunks cut anywhere; hands out each event once its blank line has come.

    `max_event` bounds the bytes of one event's lines, names included; comments count one at a time, so that a
    stream may be kept alive for hours.
    """

    def __init__(self, max_event: int = 4 * 1024 * 1024) -> None:
        self._max = max_event
        self._start: bytes | None = b""  # What may yet become a byte order mark; None once that is settled.
        self._after_cr = False
        self._line = bytearray()  # The line whose end has not come, grown in place: a dribbling stream stays linear.
        self._reset()

    def _reset(self) -> None:
        self._size = 0
        self._data: list[bytes] = []
        self._id: str | None = None
        self._event = ""
        self._retry: int | None = None

    def feed(self, chunk: bytes) -> list[Event]:
        """The events that end in this chunk. Raises EventTooLarge."""
        if self._start is not None:
            chunk = self._without_mark(chunk)
        if self._after_cr and chunk:
            self._after_cr = False
            if chunk.startswith(b"\n"):
                chunk = chunk[1:]
        if not chunk:
            return []
        if not self._size and not self._line and (event := self._whole(chunk)) is not None:
            return [event]
        return self._lines(chunk)

    def _whole(self, chunk: bytes) -> Event | None:
        """The one event that a chunk as the SDKs write it consists of; None leaves it to the general path."""
        if chunk.startswith(_LEAD_CRLF) and chunk.endswith(_END_CRLF):
            data = chunk[len(_LEAD_CRLF) : -len(_END_CRLF)]
        elif chunk.startswith(_LEAD_LF) and chunk.endswith(_END_LF):
            data = chunk[len(_LEAD_LF) : -len(_END_LF)]
        else:
            return None
        if len(chunk) > self._max or b"\n" in data or b"\r" in data:
            return None
        return Event(data, None, "message", None, True)

    def _without_mark(self, chunk: bytes) -> bytes:
        seen = (self._start or b"") + chunk
        if len(seen) < len(_BOM) and _BOM.startswith(seen):
            self._start = seen
            return b""
        self._start = None
        return seen.removeprefix(_BOM)

    def _lines(self, chunk: bytes) -> list[Event]:
        events: list[Event] = []
        lines = chunk.splitlines()  # For bytes: at CR, LF and CRLF only.
        unfinished = b"" if chunk.endswith((b"\n", b"\r")) else lines.pop()
        # A line ends at its CR; a LF that opens the next chunk belongs to it.
        self._after_cr = chunk.endswith(b"\r")
        for part in lines:
            line = part
            if self._line:
                self._line += part
                line = bytes(self._line)
                self._line.clear()
            if line:
                self._field(line)
            elif (event := self._dispatch()) is not None:
                events.append(event)
        if unfinished:
            self._line += unfinished
            self._refuse_above_cap(len(self._line))
        return events

    def _refuse_above_cap(self, more: int) -> None:
        if self._size + more > self._max:
            raise EventTooLarge(f"an event is larger than {self._max} bytes")

    def _field(self, line: bytes) -> None:
        self._refuse_above_cap(len(line))
        name, _, value = line.partition(b":")
        if not name:
            return
        self._size += len(line)
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
        elif name == b"event":
            self._event = value.decode(errors="replace")
        elif name == b"id":
            if b"\0" not in value:
                self._id = value.decode(errors="replace")
        # Beyond 15 digits nobody waits, and int() would refuse thousands of them.
        elif name == b"retry" and value.isdigit() and len(value) <= 15:
            self._retry = int(value)

    def _dispatch(self) -> Event | None:
        event = None
        if self._data or self._id is not None or self._retry is not None:
            data = b"\n".join(self._data)
            event = Event(data, self._id, self._event or "message", self._retry, bool(self._data))
        self._reset()
        return event


def encode_event(
    data: bytes,
    *,
    id: str | None = None,  # noqa: A002 - the field's own name
    event: str | None = "message",
    retry: int | None = None,
) -> bytes:
    """One event with its blank line. Newlines in `data` become several data lines, which receivers join with LF.

    Raises ValueError for an id or an event name that would end its line.
    """
    if id is None and event == "message" and retry is None and b"\n" not in data and b"\r" not in data:
        return _LEAD_CRLF + data + _END_CRLF
    lines = []
    for name, value in (("id", id), ("event", event)):
        if value is not None:
            if any(character in value for character in "\r\n\0"):
                raise ValueError(f"{name} of an event must not hold CR, LF or NUL")
            lines.append(f"{name}: {value}".encode())
    if retry is not None:
        lines.append(b"retry: %d" % retry)
    lines += [b"data: " + line for line in _NEWLINE.split(data)]
    return b"\r\n".join(lines) + b"\r\n\r\n"
