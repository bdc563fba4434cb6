"""The stream log in Postgres, with shared commits.

One transaction at a time is under way; whatever is asked meanwhile gathers and goes together into the next one. No
timer: an event alone waits for its own commit only, a thousand at once share one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.bridge.stream_log import KEPT_AFTER_END, KIND, StreamPage, StreamUnknown, announced_id, holder_of
from gateway.sessions.changes import Changes
from gateway.sessions.periodic import Periodic
from gateway.storage.engine import Database
from gateway.storage.locks import PURGE_STREAMS, take_for_transaction
from gateway.storage.stream_sizes import Key, Sizes

_TOGETHER = 500
_PURGE_EVERY = 60.0
_PURGED_AT_ONCE = 1_000
_ABANDONED_AFTER = timedelta(days=1)

_OPEN = text(
    "INSERT INTO streams (session, stream, opened) "
    "SELECT n.*, :now FROM unnest(CAST(:sessions AS text[]), CAST(:streams AS text[])) AS n(session, stream) "
    "ON CONFLICT DO NOTHING RETURNING session, stream"
)
# The streams' rows are locked, so that a stream which is deleted meanwhile gets no events instead of breaking the
# whole transaction by its foreign key.
_APPEND = text(
    "INSERT INTO stream_events (session, stream, seq, event, upstream_event_id) "
    "SELECT n.* FROM unnest(CAST(:sessions AS text[]), CAST(:streams AS text[]), CAST(:seqs AS bigint[]), "
    "CAST(:events AS bytea[]), CAST(:ids AS bytea[])) AS n(session, stream, seq, event, upstream_event_id) "
    "JOIN (SELECT session, stream FROM streams WHERE (session, stream) IN "
    "(SELECT * FROM unnest(CAST(:sessions AS text[]), CAST(:streams AS text[]))) "
    "ORDER BY session, stream FOR KEY SHARE) AS s ON s.session = n.session AND s.stream = n.stream "
    "ON CONFLICT DO NOTHING RETURNING session, stream, seq"
)
_FIND = text(
    "SELECT s.stream, e.event FROM streams s LEFT JOIN stream_events e "
    "ON e.session = s.session AND e.stream = s.stream AND e.seq = :seq "
    "WHERE s.session = :session AND s.stream = :stream"
)
_DROP_OLDEST = text(
    "DELETE FROM stream_events e USING unnest(CAST(:sessions AS text[]), CAST(:streams AS text[]), "
    "CAST(:seqs AS bigint[])) AS n(session, stream, seq) "
    "WHERE e.session = n.session AND e.stream = n.stream AND e.seq <= n.seq"
)
_SIZES = text("SELECT seq, length(event) FROM stream_events WHERE session = :session AND stream = :stream ORDER BY seq")
_END = text(
    "UPDATE streams s SET ended = coalesce(s.ended, :now) "
    "FROM unnest(CAST(:sessions AS text[]), CAST(:streams AS text[])) AS n(session, stream) "
    "WHERE s.session = n.session AND s.stream = n.stream"
)
# One statement sees one moment: `ended` and the events belong together.
_READ = text(
    "SELECT s.ended IS NOT NULL AS ended, e.seq, e.event FROM streams s LEFT JOIN stream_events e "
    "ON e.session = s.session AND e.stream = s.stream AND e.seq > :after "
    "WHERE s.session = :session AND s.stream = :stream ORDER BY e.seq"
)
# A stream that nobody ended lost its writer. It goes a day later, unless its session still lives.
_PURGE = text(
    "DELETE FROM streams WHERE (session, stream) IN (SELECT session, stream FROM streams s WHERE s.ended < :ended "
    "OR (s.ended IS NULL AND s.opened < :opened AND NOT EXISTS "
    "(SELECT FROM gateway_sessions g WHERE g.key = s.session)) LIMIT :many FOR UPDATE SKIP LOCKED)"
)


class _Step:
    """Something asked: an opening (`event` None, not last), an event, or an end (`last`)."""

    __slots__ = ("done", "event", "key", "last", "seq", "upstream_event_id")

    def __init__(
        self, key: Key, seq: int = 0, event: bytes | None = None, upstream_event_id: bytes | None = None, *, last: bool
    ) -> None:
        self.key = key
        self.seq = seq
        self.event = event
        self.upstream_event_id = upstream_event_id
        self.last = last
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class PostgresStreamLog:
    """The `StreamLog` of every replica that shares a database. `clock` gives Unix time."""

    def __init__(self, database: Database, changes: Changes, *, clock: Callable[[], float]) -> None:
        self._database = database
        self._changes = changes
        self._clock = clock
        self._waiting: list[_Step] = []
        self._writing: asyncio.Task[None] | None = None
        self._sizes = Sizes()
        self._upkeep = Periodic("stream-log-upkeep", _PURGE_EVERY, self.purge)

    async def start(self) -> None:
        """Begins to purge ended streams once a minute."""
        self._upkeep.start()

    async def stop(self) -> None:
        """Ends that, after what was asked is written."""
        await self._upkeep.stop()
        if self._writing is not None:
            await self._writing

    async def open(self, session: str, stream: str) -> None:
        await self._ask(_Step((holder_of(session), stream), last=False))

    async def append(
        self, session: str, stream: str, seq: int, event: bytes, upstream_event_id: str | None = None
    ) -> None:
        named = None if upstream_event_id is None else upstream_event_id.encode("utf-8", "surrogatepass")
        await self._ask(_Step((holder_of(session), stream), seq, event, named, last=False))

    async def end(self, session: str, stream: str) -> None:
        await self._ask(_Step((holder_of(session), stream), last=True))

    async def read(self, session: str, stream: str, after: int) -> StreamPage:
        place = {"session": holder_of(session), "stream": stream, "after": after}
        async with self._database.connect() as connection:
            rows = (await connection.execute(_READ, place)).all()
        events = [(row.seq, bytes(row.event)) for row in rows if row.seq is not None]
        return StreamPage(events, ended=bool(rows and rows[0].ended), known=bool(rows))

    async def purge(self) -> None:
        """Forgets streams that ended more than 15 minutes ago; one replica at a time does it."""
        now = _moment(self._clock())
        bounds = {"ended": now - timedelta(seconds=KEPT_AFTER_END), "opened": now - _ABANDONED_AFTER}
        while True:
            async with self._database.begin() as connection:
                if not await take_for_transaction(connection, PURGE_STREAMS):
                    return
                gone = await connection.execute(_PURGE, {**bounds, "many": _PURGED_AT_ONCE})
            if gone.rowcount < _PURGED_AT_ONCE:
                return

    # --- writing

    async def _ask(self, step: _Step) -> None:
        self._waiting.append(step)
        if self._writing is None:
            self._writing = asyncio.create_task(self._write_all(), name="stream-log-write")
        await step.done

    async def _write_all(self) -> None:
        try:
            while self._waiting:
                steps, self._waiting = self._waiting[:_TOGETHER], self._waiting[_TOGETHER:]
                await self._write(steps)
        finally:
            self._writing = None

    async def _write(self, steps: list[_Step]) -> None:
        # Events alone, which is what nearly all writing is, need one statement and no transaction around it.
        alone = all(step.event is not None for step in steps)
        try:
            async with self._database.connect() if alone else self._database.begin() as connection:
                refused = await self._apply(connection, steps)
        except BaseException as error:
            # What Postgres holds now is unknown; sizes are read again when they are needed.
            self._sizes.forget({step.key for step in steps})
            for step in steps:
                _fail(step, error)
            if not isinstance(error, Exception):
                raise
            return
        for step in steps:
            if step in refused:
                _fail(step, refused[step])
            elif not step.done.done():
                step.done.set_result(None)
        for key in {step.key for step in steps if step not in refused and (step.last or step.event is not None)}:
            self._changes.publish(KIND, announced_id(*key))

    async def _apply(self, connection: AsyncConnection, steps: list[_Step]) -> dict[_Step, Exception]:
        """Makes all the steps, openings first and ends last; returns those that cannot be made, and why."""
        now = _moment(self._clock())
        opened = [step.key for step in steps if step.event is None and not step.last]
        if opened:
            new = await connection.execute(_OPEN, {**_columns(opened), "now": now})
            self._sizes.begin((row.session, row.stream) for row in new)
        appended = [step for step in steps if step.event is not None]
        refused = await self._append(connection, appended) if appended else {}
        ended = [step.key for step in steps if step.last]
        if ended:
            await connection.execute(_END, {**_columns(ended), "now": now})
            self._sizes.forget(ended)
        return refused

    async def _append(self, connection: AsyncConnection, steps: list[_Step]) -> dict[_Step, Exception]:
        for key in {step.key for step in steps if step.key not in self._sizes}:
            rows = await connection.execute(_SIZES, {"session": key[0], "stream": key[1]})
            self._sizes.load(key, [(seq, length) for seq, length in rows])
        columns: dict[str, Any] = _columns([step.key for step in steps])
        columns["seqs"] = [step.seq for step in steps]
        columns["events"] = [step.event for step in steps]
        columns["ids"] = [step.upstream_event_id for step in steps]
        added = {(row.session, row.stream, row.seq) for row in await connection.execute(_APPEND, columns)}
        refused: dict[_Step, Exception] = {}
        for step in steps:
            place = (*step.key, step.seq)
            if place in added:
                added.discard(place)  # the same event twice in one transaction is added once
                self._sizes.add(step.key, step.seq, len(step.event or b""))
            elif (reason := await _why_not(connection, step)) is not None:
                refused[step] = reason
        cuts = self._sizes.cut({step.key for step in steps})
        if cuts:
            await connection.execute(_DROP_OLDEST, {**_columns(list(cuts)), "seqs": list(cuts.values())})
        return refused


async def _why_not(connection: AsyncConnection, step: _Step) -> Exception | None:
    """Why an event was not added; None when it is there already."""
    place = {"session": step.key[0], "stream": step.key[1], "seq": step.seq}
    row = (await connection.execute(_FIND, place)).one_or_none()
    if row is None:
        return StreamUnknown(f"there is no stream {step.key[1]} of this session")
    if row.event is not None and bytes(row.event) != step.event:
        return ValueError(f"another event of stream {step.key[1]} has number {step.seq}")
    return None


def _fail(step: _Step, error: BaseException) -> None:
    if step.done.done():
        return
    if isinstance(error, Exception):
        step.done.set_exception(error)
    else:
        step.done.cancel()


def _columns(keys: list[Key]) -> dict[str, Any]:
    return {"sessions": [session for session, _ in keys], "streams": [stream for _, stream in keys]}


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
