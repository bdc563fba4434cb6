"""A closed loop, and an open loop that counts latency from the moment a call was due."""

import asyncio
import ctypes
import os
import struct
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from benchmarks.load import Client, Connection, numbers
from benchmarks.wire import Reply, call_template


@dataclass
class Load:
    """What one window of calls showed; latencies in seconds."""

    calls: int = 0
    errors: int = 0
    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    first_error: str = ""

    def add(self, latency: float, reply: Reply | None, token: bytes) -> None:
        """Counts one reply; an answer that does not hold its own token is an error."""
        if reply is not None and reply.status == 200 and token in reply.body:
            self.calls += 1
            self.latencies.append(latency)
            return
        self.errors += 1
        if not self.first_error:
            self.first_error = "connection closed" if reply is None else f"{reply.status} {reply.body[:200]!r}"


def _templates(callers: list[Client], tool: str) -> dict[Connection, bytes]:
    return {
        client.connection: call_template(client.endpoint, client.protocol, client.session, tool) for client in callers
    }


async def closed_loop(callers: list[Client], tool: str, seconds: float, patience: float = 30.0) -> Load:
    """Every client calls again as soon as it is answered, for `seconds`; ends when the last call is answered."""
    load = Load()
    templates = _templates(callers, tool)
    drained = asyncio.Event()
    waiting = len(callers)
    begin = time.perf_counter()
    until = begin + seconds

    def call(connection: Connection) -> None:
        number = next(numbers)
        sent = time.perf_counter()

        def answered(reply: Reply | None) -> None:
            nonlocal waiting
            now = time.perf_counter()
            load.add(now - sent, reply, b"call-%d" % number)
            if now < until and reply is not None:
                call(connection)
                return
            waiting -= 1
            if not waiting:
                drained.set()

        connection.send(templates[connection] % (number, number), answered)

    for client in callers:
        call(client.connection)
    try:
        await asyncio.wait_for(drained.wait(), seconds + patience)
    except TimeoutError:
        load.errors += waiting
        load.first_error = load.first_error or f"{waiting} calls unanswered {patience:g} s after the window"
    load.seconds = time.perf_counter() - begin
    return load


class Ticks:
    """A kernel timer with nanosecond periods: the event loop's own timers are rounded to a millisecond."""

    def __init__(self, period: float, on_ticks: Callable[[int], None]) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        nanoseconds = max(1, round(period * 1e9))
        whole, part = divmod(nanoseconds, 1_000_000_000)
        setting = struct.pack("qqqq", whole, part, whole, part)
        if self._descriptor < 0 or libc.timerfd_settime(self._descriptor, 0, setting, None) != 0:
            raise OSError(ctypes.get_errno(), "the kernel refused a timer")
        asyncio.get_running_loop().add_reader(self._descriptor, self._read)
        self._on_ticks = on_ticks

    def _read(self) -> None:
        self._on_ticks(struct.unpack("Q", os.read(self._descriptor, 8))[0])

    def stop(self) -> None:
        """Ends the timer."""
        asyncio.get_running_loop().remove_reader(self._descriptor)
        os.close(self._descriptor)


async def open_loop(callers: list[Client], tool: str, rate: float, seconds: float, patience: float = 10.0) -> Load:
    """`rate` calls a second, evenly spaced, sent whether or not earlier ones were answered.

    A call that finds no free connection waits for one, and its latency counts from the moment it was due.
    """
    load = Load()
    templates = _templates(callers, tool)
    free = [client.connection for client in callers]
    overdue: deque[float] = deque()
    drained = asyncio.Event()
    planned = max(1, int(rate * seconds))
    issued = 0

    def call(connection: Connection, due: float) -> None:
        number = next(numbers)

        def answered(reply: Reply | None) -> None:
            load.add(time.perf_counter() - due, reply, b"call-%d" % number)
            if overdue and reply is not None:
                call(connection, overdue.popleft())
            elif reply is not None:
                free.append(connection)
            if load.calls + load.errors >= planned:
                drained.set()

        connection.send(templates[connection] % (number, number), answered)

    def tick(count: int) -> None:
        nonlocal issued
        for _ in range(min(count, planned - issued)):
            issued += 1
            due = begin + issued / rate
            if free:
                call(free.pop(), due)
            else:
                overdue.append(due)

    begin = time.perf_counter()
    ticks = Ticks(1 / rate, tick)
    try:
        await asyncio.wait_for(drained.wait(), seconds + patience)
    except TimeoutError:
        missing = planned - load.calls - load.errors
        load.errors += missing
        load.first_error = load.first_error or f"{missing} calls unanswered {patience:g} s after the window"
    finally:
        ticks.stop()
    load.seconds = time.perf_counter() - begin
    return load
