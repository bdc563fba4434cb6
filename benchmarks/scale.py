"""Measures of size: a hundred upstreams listed, five hundred idle sessions, one upstream hung and one dead."""

import asyncio
import itertools
import statistics
import time
from typing import Final

from benchmarks.bench import TOOLS_EACH, UPSTREAMS, Bench
from benchmarks.load import Client, LoadError, clients, connect, connect_more, numbers
from benchmarks.loops import Load, open_loop
from benchmarks.processes import memory_kib
from benchmarks.target import Running, UnavailableError, tool_named
from benchmarks.wire import LEGACY, Protocol, Reply, call_template, message

# Opened before the counted ones, so that pools and tables that grow in steps have grown already.
WARM_SESSIONS: Final = 100
MEMORY_SETTLE: Final = 0.5
HUNG_CALLS: Final = 100
# Lists differ by a few bytes of metadata at most; a missing upstream is one part in a hundred.
SAME_SIZE: Final = 0.998
SHARE_OF_CAPACITY: Final = 0.25
# The rate where a run has not measured the capacity.
DEFAULT_RATE: Final = 20.0


async def first_list(bench: Bench, running: Running, tools: int) -> float:
    """Seconds from ready to the first list that holds every tool.

    Raises:
        UnavailableError: no such list before the plan's deadline.
    """
    begin = time.perf_counter()
    deadline = begin + bench.plan.list_deadline
    found = -1
    while (left := deadline - time.perf_counter()) > 0:
        try:
            client = await connect(running.endpoint, LEGACY, left)
            try:
                found = len(await client.tools(deadline - time.perf_counter()))
            finally:
                client.connection.close()
        except (LoadError, OSError):
            await asyncio.sleep(0.02)
            continue
        if found == tools:
            return time.perf_counter() - begin
        await asyncio.sleep(0.02)
    had = f"the last one held {found}" if found >= 0 else "none was answered"
    raise UnavailableError(f"no list of {tools} tools within {bench.plan.list_deadline:g} s ({had})")


async def measure_list(bench: Bench) -> None:
    """Every federating target in front of a hundred upstreams: the first list, then CPU per list, round-robin."""
    spent: dict[Running, float] = {}
    for target in bench.targets(federating=True):
        running = await bench.start(target, bench.upstreams(UPSTREAMS))
        if running is None:
            continue
        try:
            seconds = await first_list(bench, running, UPSTREAMS * TOOLS_EACH)
        except UnavailableError as error:
            bench.give_up(f"{running.name}:list", error)
            bench.stop(running)
            continue
        bench.note(
            running.name,
            start_100_upstreams_s=running.start_seconds,
            start_100_upstreams_cpu_s=running.start_cpu_seconds,
            first_list_100_upstreams_s=seconds,
        )
        spent[running] = 0.0
    bench.say(f"CPU per list of {UPSTREAMS * TOOLS_EACH} tools: {bench.plan.rounds} rounds")
    for number in range(bench.plan.rounds + 1):
        for running, protocol in itertools.product(spent, bench.plan.protocols):
            # A peer that needs seconds for one list gets fewer rounds; the warm-up of round 0 was its first list.
            slow = bench.figures[running.name]["first_list_100_upstreams_s"] > bench.plan.list_budget / 10
            over = number > 1 and spent[running] > bench.plan.list_budget
            if f"{running.name}:list" in bench.reasons or over or (slow and number == 0):
                continue
            try:
                spent[running] += await _lists(bench, running, protocol, number)
            except (UnavailableError, LoadError, OSError) as error:
                bench.give_up(f"{running.name}:list", error)
    for running in spent:
        bench.stop(running)


async def _lists(bench: Bench, running: Running, protocol: Protocol, number: int) -> float:
    """One window of lists, one after the other and at least one however long it takes; returns its seconds.

    A list of one page is decoded once, and then known by its size, so that the target is not left waiting for the
    load generator; lists of several pages are followed page by page.
    """
    load = Load()
    async with clients(running.endpoint, protocol, 1) as (client,):
        text = message(running.endpoint, protocol, client.session, "tools/list", {}, next(numbers))
        page: Reply | None = None
        if number:
            page = await client.connection.exchange(text, bench.plan.list_deadline)
            found = page.result()
            page = None if found.get("nextCursor") else page
        with bench.watch(running) as watch:
            begin = time.perf_counter()
            until = begin + (bench.plan.window if number else 0)
            while not load.calls or time.perf_counter() < until:
                sent = time.perf_counter()
                if page is None:
                    complete = len(await client.tools(bench.plan.list_deadline)) == UPSTREAMS * TOOLS_EACH
                else:
                    again = await client.connection.exchange(text, bench.plan.list_deadline)
                    complete = again.status == 200 and len(again.body) > len(page.body) * SAME_SIZE
                if not complete:
                    raise UnavailableError("a list was not complete")
                load.latencies.append(time.perf_counter() - sent)
                load.calls += 1
            load.seconds = time.perf_counter() - begin
    return bench.record("list" if number else "warm-up list", running, protocol, number, load, watch).seconds


async def measure_idle(bench: Bench) -> None:
    """Memory that a fresh process gains for each session that was initialized and then left alone."""
    for target in bench.targets(federating=True):
        running = await bench.start(target, bench.upstreams(1))
        if running is None:
            continue
        try:
            await _idle(bench, running)
        except (LoadError, OSError) as error:
            bench.give_up(f"{running.name}:idle", error)
        bench.stop(running)


async def _idle(bench: Bench, running: Running) -> None:
    opened: list[Client] = []
    try:
        await connect_more(opened, running.endpoint, LEGACY, WARM_SESSIONS)
        await asyncio.sleep(MEMORY_SETTLE)
        program, database = memory_kib(running.roots)
        with bench.watch(running) as watch:
            await connect_more(opened, running.endpoint, LEGACY, bench.plan.sessions)
            await asyncio.sleep(MEMORY_SETTLE)
        after, database_after = memory_kib(running.roots)
        left_open = sum(client.connection.open for client in opened[WARM_SESSIONS:])
        # The warm-up's connections may be closed by now, since some programs end a connection after five quiet seconds.
        one = await connect(running.endpoint, LEGACY)
        opened.append(one)
        for _ in range(bench.plan.sessions):
            await one.initialize()
        await asyncio.sleep(MEMORY_SETTLE)
        shared, _ = memory_kib(running.roots)
        bench.note(
            running.name,
            kb_per_idle_session=(after - program) / bench.plan.sessions,
            idle_connections_left_open=left_open,
            kb_per_idle_session_without_connection=(shared - after) / bench.plan.sessions,
            database_kb_per_idle_session=(database_after - database) / bench.plan.sessions,
            cpu_ms_per_session_opened=watch.cpu_seconds * 1000 / bench.plan.sessions,
        )
    finally:
        for client in opened:
            client.connection.close()


async def measure_hung(bench: Bench) -> None:
    """98 healthy upstreams, one whose calls never end and one that never answers at all."""
    for target in bench.targets(federating=True):
        healthy = bench.upstreams(UPSTREAMS - 2)
        running = await bench.start(target, {**healthy, "hung": bench.upstream("hung"), "dead": bench.upstream("dead")})
        if running is None:
            continue
        try:
            seconds = await first_list(bench, running, (UPSTREAMS - 1) * TOOLS_EACH)
            bench.note(running.name, start_hung_and_dead_s=running.start_seconds, first_list_hung_and_dead_s=seconds)
            await _beside_hung_calls(bench, running)
        except (UnavailableError, LoadError, OSError) as error:
            bench.give_up(f"{running.name}:hung", error)
        bench.stop(running)


async def _beside_hung_calls(bench: Bench, running: Running) -> None:
    """Latency of calls to a healthy upstream with and without many calls to the hung one outstanding, in turn."""
    healthy, hung = await tool_named(running, LEGACY, "u0"), await tool_named(running, LEGACY, "hung")
    capacity = bench.capacity(running.name, LEGACY)
    rate = capacity * SHARE_OF_CAPACITY if capacity else DEFAULT_RATE
    pairs = range(max(3, bench.plan.latency_windows // 3))
    for number in pairs:
        await _healthy(bench, running, healthy, rate, number, "before")
        async with clients(running.endpoint, LEGACY, HUNG_CALLS) as stuck:
            for client in stuck:
                token = next(numbers)
                template = call_template(client.endpoint, LEGACY, client.session, hung)
                client.connection.send(template % (token, token), lambda _: None)
            await _healthy(bench, running, healthy, rate, number, "during")
            for client in stuck:
                client.connection.close()
    before, during = (
        [window.p50_ms or 0.0 for window in bench.found(f"hung:{side}", running.name, LEGACY)]
        for side in ("before", "during")
    )
    bench.note(
        running.name,
        healthy_p50_before_ms=statistics.median(before),
        healthy_p50_beside_hung_calls_ms=statistics.median(during),
        hung_calls_add_to_p50_ms=statistics.median(there - here for there, here in zip(during, before, strict=True)),
    )


async def _healthy(bench: Bench, running: Running, tool: str, rate: float, number: int, side: str) -> None:
    async with clients(running.endpoint, LEGACY, bench.plan.concurrency) as callers:
        with bench.watch(running) as watch:
            load = await open_loop(callers, tool, rate, min(3.0, bench.plan.latency_window))
    bench.record(f"hung:{side}", running, LEGACY, number + 1, load, watch)
