"""`benchmarks/run`: chooses, measures, reports; exits with 1 when a goal of the gateway is missed."""

import argparse
import dataclasses
import json
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from types import FrameType
from typing import Final

import uvloop

from benchmarks import processes
from benchmarks.bench import QUICK, Bench, Plan
from benchmarks.calls import lanes, measure_cpu, measure_latency
from benchmarks.plot import write_plot
from benchmarks.report import summary, table, write_raw
from benchmarks.scale import measure_hung, measure_idle, measure_list
from benchmarks.targets import TARGETS
from benchmarks.wire import PROTOCOLS

OUT: Final = Path(__file__).parent / "out"
MEASURES: Final = ("cpu", "latency", "list", "idle", "hung")
OPTIONAL: Final = {"mcp-proxy": "mcp_proxy"}
DEFAULT: Final = tuple(name for name in TARGETS if name not in OPTIONAL.values())


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="benchmarks/run", description="Measures the gateway beside its floor and its peers."
    )
    parser.add_argument("--quick", action="store_true", help="3 short rounds: a look, not a result to quote")
    parser.add_argument("--targets", default=",".join(DEFAULT), help="comma-separated; default: %(default)s")
    parser.add_argument(
        "--with", dest="also", action="append", default=[], choices=sorted(OPTIONAL), help="also measure"
    )
    parser.add_argument("--only", default=",".join(MEASURES), help="comma-separated measures; default: %(default)s")
    parser.add_argument("--protocols", default=",".join(PROTOCOLS), help="comma-separated; default: %(default)s")
    parser.add_argument("--rounds", type=int, help="rounds of the CPU measures; a result to quote has 9 or more")
    parser.add_argument("--out", type=Path, help="also write the JSON object into this file")
    chosen = parser.parse_args()
    for option, allowed in (("targets", tuple(TARGETS)), ("only", MEASURES), ("protocols", PROTOCOLS)):
        names = tuple(getattr(chosen, option).split(","))
        if unknown := [name for name in names if name not in allowed]:
            parser.error(f"--{option}: unknown {', '.join(unknown)}; choose from {', '.join(allowed)}")
        setattr(chosen, option, names)
    if chosen.rounds is not None and chosen.rounds < 1:
        parser.error("--rounds: at least 1")
    return chosen


async def measure(bench: Bench, only: tuple[str, ...]) -> None:
    """The chosen measures, one kind after the other."""
    await bench.start_upstream()
    if "cpu" in only or "latency" in only:
        ready = await lanes(bench)
        if "cpu" in only:
            await measure_cpu(bench, ready)
        if "latency" in only:
            await measure_latency(bench, ready)
        for running in {lane.running.name: lane.running for lane in ready}.values():
            bench.stop(running)
    for name, scale in (("list", measure_list), ("idle", measure_idle), ("hung", measure_hung)):
        if name in only:
            await scale(bench)


def on_terminate(_: int, __: FrameType | None) -> None:
    """Turns a request to end into an exit that still stops every process."""
    sys.exit(143)


def main() -> int:
    """Exit status: 0, or 1 when a goal is missed."""
    chosen = arguments()
    plan = QUICK if chosen.quick else Plan()
    plan = dataclasses.replace(plan, protocols=chosen.protocols, rounds=chosen.rounds or plan.rounds)
    names = tuple(name for name in TARGETS if name in {*chosen.targets, *(OPTIONAL[also] for also in chosen.also)})
    scratch = Path(tempfile.mkdtemp(prefix="mcp-gateway-benchmark-"))
    # The embedded Postgres may run as another user, who has to get through to its folder.
    scratch.chmod(0o755)
    signal.signal(signal.SIGTERM, on_terminate)
    bench = Bench(plan, processes.cores(), scratch, names)
    try:
        with processes.pinned(bench.cores.load):
            uvloop.run(measure(bench, chosen.only))
    finally:
        processes.stop_all()
        for name in names:
            TARGETS[name]().clean(scratch)
        shutil.rmtree(scratch, ignore_errors=True)
    result = summary(bench)
    OUT.mkdir(exist_ok=True)
    write_raw(bench, OUT / "raw.csv")
    write_plot(bench, OUT / "cpu_per_call.svg")
    print("\n".join(table(bench, result)))
    print(f"raw windows and plot: {os.path.relpath(OUT)}")
    for sentence in result["missed"]:
        print(f"missed: {sentence}")
    line = json.dumps(result)
    if chosen.out is not None:
        chosen.out.write_text(line + "\n")
    print(line)
    return 1 if result["missed"] else 0


if __name__ == "__main__":
    sys.exit(main())
