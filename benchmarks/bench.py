"""What a run is made of: its plan, the machine it shares with others, and the windows it has measured."""

import asyncio
import contextlib
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from benchmarks import processes
from benchmarks.loops import Load
from benchmarks.processes import Cores
from benchmarks.target import Running, Target, UnavailableError, listening, own_program
from benchmarks.targets import TARGETS
from benchmarks.wire import PROTOCOLS, Protocol

UPSTREAMS: Final = 100
TOOLS_EACH: Final = 10
# Above this share of failed calls a number would describe the failures.
TOLERATED_ERRORS: Final = 0.01


@dataclass(frozen=True)
class Plan:
    """How long and how often; seconds unless a name says otherwise."""

    rounds: int = 9
    window: float = 1.5
    warm: float = 1.0
    concurrency: int = 16
    latency_windows: int = 11
    latency_window: float = 10.0
    latency_connections: int = 64
    list_deadline: float = 60.0
    list_budget: float = 120.0
    sessions: int = 500
    protocols: tuple[Protocol, ...] = PROTOCOLS
    quick: bool = False


QUICK: Final = Plan(
    rounds=3,
    window=0.7,
    warm=0.4,
    latency_windows=3,
    latency_window=1.5,
    list_deadline=30.0,
    list_budget=10.0,
    sessions=300,
    quick=True,
)


@dataclass(frozen=True)
class Window:
    """One measured stretch of time; the raw CSV has one line for each."""

    measure: str
    target: str
    protocol: str
    round: int
    calls: int
    errors: int
    seconds: float
    cpu_seconds: float
    database_cpu_seconds: float
    foreign_cores: float
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None

    @property
    def cpu_ms(self) -> float:
        """CPU milliseconds per call of the whole process tree."""
        return self.cpu_seconds * 1000 / self.calls

    @property
    def per_second(self) -> float:
        """Calls answered a second."""
        return self.calls / self.seconds


def percentile(ordered: list[float], share: float) -> float:
    """The value below which `share` of a sorted list lies."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


@dataclass
class Watch:
    """CPU of one program, and of everything foreign, between entering and leaving it."""

    cpu_seconds: float = 0.0
    database_seconds: float = 0.0
    foreign_cores: float = 0.0


@dataclass
class Bench:
    """One run."""

    plan: Plan
    cores: Cores
    scratch: Path
    names: tuple[str, ...]
    upstream_port: int = 0
    windows: list[Window] = field(default_factory=list)
    reasons: dict[str, str] = field(default_factory=dict)
    figures: dict[str, dict[str, float]] = field(default_factory=dict)
    _upstream: int = 0
    _running: list[Running] = field(default_factory=list)
    _started: int = 0

    async def start_upstream(self) -> None:
        """Starts the server that stands behind every target, and waits until it listens.

        Raises:
            UnavailableError: it does not start.
        """
        self.upstream_port = processes.free_port()
        log = self.scratch / "upstream.log"
        self._upstream = processes.start(own_program("upstream", self.upstream_port), self.cores.load, log, {})
        while not await listening(self.upstream_port):
            if processes.ended(self._upstream) is not None:
                raise UnavailableError("the upstream did not start")
            await asyncio.sleep(0.01)

    def upstreams(self, count: int) -> dict[str, str]:
        """The first `count` upstreams, {slug: url}."""
        return {f"u{number}": self.upstream(f"u{number}") for number in range(count)}

    def upstream(self, path: str) -> str:
        """Address of one virtual upstream."""
        return f"http://127.0.0.1:{self.upstream_port}/{path}/mcp"

    def targets(self, *, federating: bool = False) -> Iterator[Target]:
        """The chosen targets that can still be measured, in order."""
        for name in self.names:
            if name not in self.reasons and (TARGETS[name].federates or not federating):
                yield TARGETS[name]()

    async def start(self, target: Target, upstreams: dict[str, str]) -> Running | None:
        """Starts one target, or notes why that cannot be."""
        self.say(f"starting {target.name} in front of {len(upstreams)} upstream{'s' * (len(upstreams) > 1)}")
        try:
            target.prepare()
            folder = self._folder(target.name)
            running = await target.start(upstreams, folder, self.cores)
        except UnavailableError as error:
            self.give_up(target.name, error)
            return None
        self._running.append(running)
        return running

    def _folder(self, name: str) -> Path:
        self._started += 1
        folder = self.scratch / f"{self._started}-{name}"
        folder.mkdir()
        return folder

    def stop(self, running: Running) -> None:
        """Ends one target."""
        self._running.remove(running)
        running.stop()

    def give_up(self, name: str, error: Exception) -> None:
        """Leaves a target out from here on and keeps the reason for the report."""
        self.reasons[name] = str(error)
        self.say(f"{name} is left out: {error}")

    def note(self, target: str, **figures: float) -> None:
        """Keeps numbers that are not made of windows."""
        self.figures.setdefault(target, {}).update(figures)

    @contextlib.contextmanager
    def watch(self, running: Running) -> Iterator[Watch]:
        """Fills in the watch when the block ends."""
        ours = [self._upstream, *(root for other in self._running for root in other.roots)]
        watch = Watch()
        target, rest = processes.cpu(running.roots), processes.cpu(ours)
        own, busy, begin = time.process_time(), processes.machine_busy(), time.perf_counter()
        yield watch
        elapsed = time.perf_counter() - begin
        own, busy = time.process_time() - own, processes.machine_busy() - busy
        watch.cpu_seconds, watch.database_seconds = processes.cpu(running.roots).since(target)
        everything_ours, _ = processes.cpu(ours).since(rest)
        watch.foreign_cores = max(0.0, (busy - own - everything_ours) / elapsed)

    def record(self, measure: str, running: Running, protocol: str, number: int, load: Load, watch: Watch) -> Window:
        """Keeps one window.

        Raises:
            UnavailableError: too many of its calls failed.
        """
        if not load.calls or load.errors > TOLERATED_ERRORS * load.calls:
            failed = f"{load.errors} of {load.calls + load.errors} calls failed"
            raise UnavailableError(f"{failed} in {measure} ({protocol}): {load.first_error}")
        ordered = sorted(latency * 1000 for latency in load.latencies)
        quantiles = [percentile(ordered, share) if ordered else None for share in (0.5, 0.95, 0.99)]
        window = Window(
            measure=measure,
            target=running.name,
            protocol=protocol,
            round=number,
            calls=load.calls,
            errors=load.errors,
            seconds=load.seconds,
            cpu_seconds=watch.cpu_seconds,
            database_cpu_seconds=watch.database_seconds,
            foreign_cores=watch.foreign_cores,
            p50_ms=quantiles[0],
            p95_ms=quantiles[1],
            p99_ms=quantiles[2],
        )
        self.windows.append(window)
        return window

    def found(self, measure: str, target: str, protocol: str) -> list[Window]:
        """The windows of one measure, target and protocol, in order."""
        return [w for w in self.windows if (w.measure, w.target, w.protocol) == (measure, target, protocol)]

    def capacity(self, target: str, protocol: str) -> float | None:
        """Median calls a second in the closed loop, if that has been measured."""
        windows = self.found("cpu", target, protocol) or self.found("capacity", target, protocol)
        return statistics.median(window.per_second for window in windows) if windows else None

    def say(self, text: str) -> None:
        """One line of progress for whoever watches."""
        print(text, file=sys.stderr, flush=True)
