"""The bus of changes between replicas: LISTEN/NOTIFY of one Postgres.

NOTIFY takes a lock that all notifying commits share, so it never rides in the transactions of the request path: what
has gathered is sent in a transaction of its own, at most every 20 ms. A heartbeat on the listening connection tells
how long ago it was certain that nothing is missed; when that is too long ago the bus is not healthy, by the clock
alone, so a stalled process does not believe its caches either.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import time
from collections import Counter
from collections.abc import Callable

import asyncpg
import structlog
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.errors import GatewayError
from gateway.sessions.changes import EVERYTHING
from gateway.storage.engine import Database

CHANNEL = "mcp_gateway"

_TOGETHER = 0.02  # seconds between transactions that notify
_BEAT = 0.25
_HEALTHY_FOR = 3 * _BEAT  # a beat that came and two that did not
_DEAD_AFTER = 3.0
_LONGEST_BACKOFF = 2.0
_LONGEST_QUEUE = 20_000
_LONGEST_ID = 4_000  # Postgres refuses payloads of 8,000 bytes
_DROP_ALL = {f"{EVERYTHING}:": None}
_NOTIFY = text("SELECT pg_notify(:channel, payload) FROM unnest(CAST(:payloads AS text[])) AS payload")

log = structlog.get_logger()


async def notify(connection: AsyncConnection, *changes: tuple[str, str]) -> None:
    """Publishes (kind, id) pairs with the connection's transaction: for changes that are rare and must not be lost."""
    payloads = [f"{kind}:{changed}" for kind, changed in changes]
    await connection.execute(_NOTIFY, {"channel": CHANNEL, "payloads": payloads})


class Changes:
    """The bus of one process. `start` and `stop` frame its use; before and after it is not healthy.

    `clock` gives seconds that only go forward, as `time.monotonic`.
    """

    def __init__(self, database: Database, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._clock = clock
        self._subscribers: dict[str, list[Callable[[str], None]]] = {}
        self._queue: dict[str, None] = {}
        self._queued = asyncio.Event()
        # What this process has sent comes back to it, from the backend that sent it; it was told already.
        self._echoes: Counter[tuple[int, str]] = Counter()
        self._heard_until = -math.inf
        self._last_certain = -math.inf  # as `_heard_until`, and kept when the connection breaks
        self._listener: asyncio.Task[None] | None = None
        self._sender: asyncio.Task[None] | None = None
        self._stopping = False

    @property
    def healthy(self) -> bool:
        """True while every change made up to 750 ms ago has certainly been heard."""
        return self._clock() - self._heard_until < _HEALTHY_FOR

    @property
    def unheard_for(self) -> float:
        """Seconds since it was last certain that nothing is missed; infinite before the first time."""
        return self._clock() - self._last_certain

    def subscribe(self, kind: str, callback: Callable[[str], None]) -> Callable[[], None]:
        """Calls back with the id of every change of this kind; returns what ends that."""
        callbacks = self._subscribers.setdefault(kind, [])
        callbacks.append(callback)

        def end() -> None:
            with contextlib.suppress(ValueError):
                callbacks.remove(callback)

        return end

    def publish(self, kind: str, id: str) -> None:  # noqa: A002 - it is one
        """Tells this process' subscribers at once and queues the change for the other replicas."""
        if len(id.encode()) > _LONGEST_ID or "\0" in id:
            raise ValueError(f"the id of a change has at most {_LONGEST_ID} bytes and no NUL")
        self._tell(kind, id)
        if len(self._queue) >= _LONGEST_QUEUE:
            self._queue = dict(_DROP_ALL)  # rather than grow without bound while Postgres is away
        self._queue[f"{kind}:{id}"] = None
        self._queued.set()

    async def start(self) -> None:
        """Begins to listen and to send; returns when it first listens, or when that failed for now."""
        listening = asyncio.Event()
        self._stopping = False
        self._sender = asyncio.create_task(self._send(), name="changes-send")
        self._listener = asyncio.create_task(self._listen(listening), name="changes-listen")
        await listening.wait()

    async def stop(self) -> None:
        """Sends what is queued, if Postgres takes it within a second, and ends."""
        self._stopping = True
        self._queued.set()
        if self._sender is not None:
            # Not cancelled at once: what is under way would have to be sent again.
            await asyncio.wait({self._sender}, timeout=1.0)
        tasks = [task for task in (self._listener, self._sender) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._heard_until = -math.inf

    # --- sending

    async def _send(self) -> None:
        failures = 0
        while not self._stopping or self._queue:
            await self._queued.wait()
            try:
                await self._send_queued()
                failures = 0
                await asyncio.sleep(_TOGETHER)
            except GatewayError as error:
                failures += 1
                log.warning("changes_not_sent", waiting=len(self._queue), error=str(error))
                await asyncio.sleep(_backoff(failures))
            except Exception:
                # A fault of ours must not leave the others believing what has changed.
                log.exception("changes_not_sent", waiting=len(self._queue))
                failures += 1
                self._queue = dict(_DROP_ALL)
                await asyncio.sleep(_backoff(failures))

    async def _send_queued(self) -> None:
        batch, self._queue = self._queue, {}
        self._queued.clear()
        if not batch:
            return
        sent: list[tuple[int, str]] = []
        try:
            async with self._database.connect() as connection:
                if self._heard_until != -math.inf:
                    driver = (await connection.get_raw_connection()).driver_connection
                    pid = driver.get_server_pid() if driver is not None else 0
                    sent = [(pid, payload) for payload in batch]
                    self._echoes.update(sent)
                await connection.execute(_NOTIFY, {"channel": CHANNEL, "payloads": list(batch)})
        except BaseException:
            # Whether Postgres took it is unknown. Twice told is told; an echo taken for a stranger's only costs a look.
            for echo in sent:
                self._expect_less(echo)
            self._queue = batch | self._queue
            self._queued.set()
            raise

    # --- listening

    async def _listen(self, listening: asyncio.Event) -> None:
        failures = 0
        while True:
            try:
                connection = await self._database.connect_apart()
                failures = 0
                try:
                    await self._hear(connection, listening)
                finally:
                    self._heard_until = -math.inf
                    connection.terminate()
            except GatewayError as error:
                log.warning("changes_not_heard", error=str(error))
            except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                log.warning("changes_not_heard", error=type(error).__name__)
            except Exception:
                log.exception("changes_not_heard")
            listening.set()
            failures += 1
            await asyncio.sleep(_backoff(failures))

    async def _hear(self, connection: asyncpg.Connection, listening: asyncio.Event) -> None:
        """Listens until the connection is dead, and raises what it died of."""
        broken = asyncio.Event()

        def end(_connection: object) -> None:
            self._heard_until = -math.inf
            broken.set()

        connection.add_termination_listener(end)
        since = self._clock()
        await connection.add_listener(CHANNEL, self._heard)
        # What changed before this moment was not heard, and echoes of what was sent before it will not come.
        self._echoes.clear()
        self._tell(EVERYTHING, "")
        self._heard_until = self._last_certain = since
        listening.set()
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, since + _BEAT - self._clock())):
                    await broken.wait()
            since = self._clock()
            # Postgres sends notifications in commit order on the same connection, before the answer to what is asked
            # after them, and asyncpg calls back in that order too.
            await connection.execute("SELECT 1", timeout=_DEAD_AFTER)
            self._heard_until = self._last_certain = since

    def _heard(self, _connection: object, pid: int, _channel: str, payload: object) -> None:
        change = str(payload)
        if self._echoes[pid, change] > 0:
            self._expect_less((pid, change))
            return
        kind, _, changed = change.partition(":")
        self._tell(kind, changed)

    def _expect_less(self, echo: tuple[int, str]) -> None:
        if self._echoes[echo] > 1:
            self._echoes[echo] -= 1
        else:
            self._echoes.pop(echo, None)

    def _tell(self, kind: str, changed: str) -> None:
        for callback in tuple(self._subscribers.get(kind, ())):
            try:
                callback(changed)
            except Exception:
                # One subscriber's fault must not leave the others believing what has changed.
                log.exception("change_not_taken", kind=kind)


def _backoff(failures: int) -> float:
    return random.uniform(0.5, 1.0) * min(_LONGEST_BACKOFF, 0.05 * 2.0 ** min(failures - 1, 10))  # noqa: S311 - no secret
