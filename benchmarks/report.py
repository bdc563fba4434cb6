"""What a run says: figures per target, the goals, the table and the raw windows."""

import csv
import dataclasses
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.bench import Bench, Window
from benchmarks.calls import added
from benchmarks.wire import MODERN, Protocol


@dataclass(frozen=True)
class Goal:
    """An upper bound on one of the gateway's figures."""

    figure: str
    limit: float
    words: str
    quick: bool = True


GOALS: Final = (
    Goal("ratio_to_floor", 1.4, "CPU per call, best round, as a multiple of the floor's"),
    Goal("list_1000_cpu_ms", 0.5, "CPU ms for a list of 1,000 tools"),
    Goal("first_list_100_upstreams_s", 2.0, "seconds from ready to the first complete list over 100 upstreams"),
    Goal("first_list_hung_and_dead_s", 2.0, "the same with one hung and one dead upstream among them"),
    Goal("kb_per_idle_session", 6.0, "KB of memory per idle session"),
    # A quick run is for busy machines, where these two measure the neighbours: it reports them without judging.
    Goal("start_100_upstreams_s", 8.0, "seconds from nothing, database included, to ready", quick=False),
    Goal("added_p99_ms", 5.0, "ms added at p99 at half the capacity", quick=False),
)
GATEWAY: Final = "gateway"
FLOOR: Final = "floor"


def _per_call(bench: Bench, target: str, protocol: Protocol) -> dict[str, float]:
    """Everything that is measured once per protocol."""
    figures: dict[str, float] = {}
    windows = bench.found("cpu", target, protocol)
    if windows:
        costs = [window.cpu_ms for window in windows]
        figures["cpu_ms_per_call"] = min(costs)
        figures["cpu_ms_per_call_median"] = statistics.median(costs)
        figures["calls_per_s"] = statistics.median(window.per_second for window in windows)
        figures["calls_per_s_and_core"] = 1000 / min(costs)
        if any(window.database_cpu_seconds for window in windows):
            figures["cpu_ms_per_call_without_database"] = min(_without_database(window) for window in windows)
        figures |= _ratios(bench, windows, bench.found("cpu", FLOOR, protocol))
    figures |= added(bench, target, protocol)
    lists = bench.found("list", target, protocol)
    if lists:
        figures["list_1000_cpu_ms"] = min(window.cpu_ms for window in lists)
        figures["list_1000_cpu_ms_median"] = statistics.median(window.cpu_ms for window in lists)
        if floor := bench.found("list", FLOOR, protocol):
            figures["list_1000_ratio_to_floor"] = figures["list_1000_cpu_ms"] / min(w.cpu_ms for w in floor)
    return figures


def _without_database(window: Window) -> float:
    return (window.cpu_seconds - window.database_cpu_seconds) * 1000 / window.calls


def _ratios(bench: Bench, windows: list[Window], floor: list[Window]) -> dict[str, float]:
    """Best round against the floor's best, and the median over rounds of the two measured side by side."""
    if not floor:
        return {}
    best = min(window.cpu_ms for window in floor)
    figures = {
        "ratio_to_floor": min(window.cpu_ms for window in windows) / best,
        "ratio_to_floor_median": statistics.median(
            here.cpu_ms / there.cpu_ms for here, there in zip(windows, floor, strict=False)
        ),
    }
    if any(window.database_cpu_seconds for window in windows):
        figures["ratio_to_floor_without_database"] = min(_without_database(window) for window in windows) / best
    return figures


def summary(bench: Bench) -> dict[str, Any]:
    """The one JSON object of a run; a target that could not be measured is null, with its reason beside it."""
    result: dict[str, Any] = {}
    for name in bench.names:
        first, *others = bench.plan.protocols
        figures: dict[str, Any] = {**_per_call(bench, name, first), **bench.figures.get(name, {})}
        for protocol in others:
            if also := _per_call(bench, name, protocol):
                figures["modern" if protocol == MODERN else "legacy"] = _rounded(also)
        result[name] = _rounded(figures) if figures else None
        if not figures:
            bench.reasons.setdefault(name, "it has no figure of its own among the chosen measures")
    foreign = [window.foreign_cores for window in bench.windows]
    result["foreign_cores"] = round(statistics.mean(foreign), 3) if foreign else None
    result["foreign_cores_most"] = round(max(foreign), 3) if foreign else None
    result["cores_apart"] = bench.cores.apart
    result["quick"] = bench.plan.quick
    result["reasons"] = bench.reasons
    result["missed"] = missed(bench, result)
    return result


def _rounded(figures: dict[str, Any]) -> dict[str, Any]:
    return {name: float(f"{value:.4g}") if isinstance(value, float) else value for name, value in figures.items()}


def missed(bench: Bench, result: dict[str, Any]) -> list[str]:
    """One sentence for each goal of the gateway that does not hold; none when the gateway was not asked for."""
    if GATEWAY not in bench.names:
        return []
    figures = result[GATEWAY]
    if figures is None:
        return [f"the gateway was not measured: {bench.reasons.get(GATEWAY, 'no measure of it was chosen')}"]
    sentences = [f"{key}: {why}" for key, why in bench.reasons.items() if key.partition(":")[0] == GATEWAY]
    for goal in GOALS:
        if bench.plan.quick and not goal.quick:
            continue
        for era, values in (("", figures), (" (other protocol)", figures.get("modern") or figures.get("legacy") or {})):
            value = values.get(goal.figure)
            if value is not None and value > goal.limit:
                sentences.append(f"{goal.figure} is {value:g}{era}, the goal is {goal.limit:g}: {goal.words}")
    return sentences


COLUMNS: Final = (
    ("CPU ms", "cpu_ms_per_call"),
    ("median", "cpu_ms_per_call_median"),
    ("x floor", "ratio_to_floor"),
    ("calls/s", "calls_per_s"),
    ("+p50 ms", "added_p50_ms"),
    ("+p95 ms", "added_p95_ms"),
    ("+p99 ms", "added_p99_ms"),
    ("list CPU ms", "list_1000_cpu_ms"),
    ("start s", "start_100_upstreams_s"),
    ("1st list s", "first_list_100_upstreams_s"),
    ("hung+dead s", "first_list_hung_and_dead_s"),
    ("KB/session", "kb_per_idle_session"),
)


def table(bench: Bench, result: dict[str, Any]) -> Iterator[str]:
    """Lines for the terminal: one per target and protocol."""
    rows = [["target", "protocol", *(title for title, _ in COLUMNS)]]
    for name in bench.names:
        figures = result[name]
        if figures is None:
            continue
        first, *others = bench.plan.protocols
        rows.append([name, first, *_cells(figures)])
        eras = ((protocol, figures.get("modern" if protocol == MODERN else "legacy")) for protocol in others)
        rows += [["", protocol, *_cells(also)] for protocol, also in eras if also]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        left = [cell.ljust(width) for cell, width in zip(row[:2], widths[:2], strict=True)]
        right = [cell.rjust(width) for cell, width in zip(row[2:], widths[2:], strict=True)]
        yield "  ".join([*left, *right])
    yield ""
    for key, why in bench.reasons.items():
        yield f"not measured: {key.replace(':', ', ')}: {why}"
    mean, most = result["foreign_cores"], result["foreign_cores_most"]
    if mean is not None:
        yield f"other processes used {mean:.2f} cores on average and {most:.2f} at most"
    if not bench.cores.apart:
        yield "only one core: load, upstream and target shared it, so times say little"


def _cells(figures: dict[str, Any]) -> list[str]:
    return [f"{figures[key]:,.3g}" if _small(figures.get(key)) else _large(figures.get(key)) for _, key in COLUMNS]


def _small(value: float | None) -> bool:
    return value is not None and abs(value) < 1000


def _large(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def write_raw(bench: Bench, file: Path) -> None:
    """All windows as CSV, one line each."""
    with file.open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow([field.name for field in dataclasses.fields(Window)])
        writer.writerows(dataclasses.astuple(window) for window in bench.windows)
