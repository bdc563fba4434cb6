"""Two measures of `tools/call`: CPU per call in a closed loop, latency added in an open loop."""

import asyncio
import statistics
from dataclasses import dataclass
from typing import Final

from benchmarks.bench import Bench, Window
from benchmarks.load import Client, LoadError, clients
from benchmarks.loops import closed_loop, open_loop
from benchmarks.processes import memory_kib
from benchmarks.target import Running, UnavailableError, tool_named
from benchmarks.wire import LEGACY, Protocol

# Time for what a program does after it has answered, so that work put off is still counted.
SETTLE: Final = 0.05
# Ours are compared in both eras; a peer's tail latency is looked at in the era nearly every client speaks.
BOTH_ERAS: Final = frozenset({"floor", "gateway"})
SHARE_OF_CAPACITY: Final = 0.5


@dataclass(frozen=True)
class Lane:
    """One target in one protocol, with the name of the tool to call."""

    running: Running
    protocol: Protocol
    tool: str


async def lanes(bench: Bench) -> list[Lane]:
    """Every chosen target started in front of one upstream, once per protocol it speaks."""
    ready: list[Lane] = []
    for target in bench.targets():
        running = await bench.start(target, bench.upstreams(1))
        if running is None:
            continue
        try:
            ready += [
                Lane(running, protocol, await tool_named(running, protocol))
                for protocol in bench.plan.protocols
                if protocol in target.protocols
            ]
        except UnavailableError as error:
            bench.give_up(running.name, error)
            bench.stop(running)
    return ready


async def _closed(bench: Bench, lane: Lane, number: int, measure: str, seconds: float) -> Window:
    """One closed-loop window on fresh connections; their opening and closing are outside it."""
    async with clients(lane.running.endpoint, lane.protocol, bench.plan.concurrency) as callers:
        with bench.watch(lane.running) as watch:
            load = await closed_loop(callers, lane.tool, seconds)
            await asyncio.sleep(SETTLE)
        return bench.record(measure, lane.running, lane.protocol, number, load, watch)


async def measure_cpu(bench: Bench, ready: list[Lane]) -> None:
    """All lanes in turn, round after round, so that neighbours hit every target alike."""
    bench.say(f"CPU per call: {bench.plan.rounds} rounds over {len(ready)} lanes")
    for number in range(bench.plan.rounds + 1):
        for lane in ready:
            if lane.running.name in bench.reasons:
                continue
            # Round 0 warms up connections, caches and specialised bytecode; it is kept under its own name.
            warming = number == 0
            seconds = bench.plan.warm if warming else bench.plan.window
            try:
                await _closed(bench, lane, number, "warm-up" if warming else "cpu", seconds)
            except (UnavailableError, LoadError, OSError) as error:
                bench.give_up(lane.running.name, error)
    for running in {lane.running.name: lane.running for lane in ready}.values():
        program, database = resident(running)
        bench.note(running.name, memory_mb=program, database_memory_mb=database)


def resident(running: Running) -> tuple[float, float]:
    """Memory in MB of a target, and of its Postgres."""
    program, database = memory_kib(running.roots, files=True)
    return program / 1024, database / 1024


async def _open(bench: Bench, lane: Lane, callers: list[Client], rate: float, number: int, measure: str) -> Window:
    with bench.watch(lane.running) as watch:
        load = await open_loop(callers, lane.tool, rate, bench.plan.latency_window)
    return bench.record(measure, lane.running, lane.protocol, number, load, watch)


async def measure_latency(bench: Bench, ready: list[Lane]) -> None:
    """Each lane at half its capacity beside the upstream itself at the same rate, in alternating windows."""
    direct = {lane.protocol: lane for lane in ready if lane.running.name == "direct"}
    compared = [
        lane
        for lane in ready
        if lane.protocol in direct
        and lane.running.name != "direct"
        and (lane.protocol == LEGACY or lane.running.name in BOTH_ERAS)
    ]
    if not compared:
        bench.say("added latency: nothing to compare; it needs the target direct and another one")
        return
    bench.say(f"added latency: {bench.plan.latency_windows} pairs of windows for {len(compared)} lanes")
    for number in range(1, bench.plan.latency_windows + 1):
        for lane in compared:
            key = f"{lane.running.name}:latency"
            if lane.running.name in bench.reasons or key in bench.reasons:
                continue
            try:
                await _pair(bench, lane, direct[lane.protocol], number)
            except (UnavailableError, LoadError, OSError) as error:
                bench.give_up(key, error)


async def _pair(bench: Bench, lane: Lane, direct: Lane, number: int) -> None:
    capacity = bench.capacity(lane.running.name, lane.protocol)
    if capacity is None:
        capacity = (await _closed(bench, lane, 0, "capacity", bench.plan.window)).per_second
    rate = capacity * SHARE_OF_CAPACITY
    measure = f"latency:{lane.running.name}"
    # A slow peer pays dearly for every session and never has many calls in flight at half its capacity.
    connections = max(8, min(bench.plan.latency_connections, int(rate)))
    # The order changes each time, so that neither side always runs just after the other.
    for side in (direct, lane) if number % 2 else (lane, direct):
        async with clients(side.running.endpoint, side.protocol, connections) as callers:
            await _open(bench, side, callers, rate, number, measure)


def added(bench: Bench, target: str, protocol: Protocol) -> dict[str, float]:
    """Median over the pairs of what the target's p50, p95 and p99 are above the upstream's own, in ms."""
    measure = f"latency:{target}"
    pairs = list(zip(bench.found(measure, target, protocol), bench.found(measure, "direct", protocol), strict=False))
    figures: dict[str, float] = {}
    for name in ("p50", "p95", "p99"):
        differences = [getattr(there, f"{name}_ms") - getattr(here, f"{name}_ms") for there, here in pairs]
        if differences:
            figures[f"added_{name}_ms"] = statistics.median(differences)
    if pairs:
        figures["latency_rate"] = pairs[0][0].per_second
    return figures
