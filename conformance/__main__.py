"""Run the official conformance suites against the reference upstream, directly and through the gateway."""

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import yaml

from conformance.children import ChildError, Children, answers_ok, free_port, listens
from conformance.legs import CROSS_LEGS, FOLDER, LEGS, Leg, SuiteError, command, install
from conformance.results import Comparison, Outcome, compare, explain, read_run, table

ROOT = FOLDER.parent
OUT = FOLDER / "out"
SLUG = "reference"
UPSTREAM_START = 60.0
# The first start of a gateway may have to create its database.
GATEWAY_START = 180.0


def options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="conformance/run", description=__doc__)
    parser.add_argument("--leg", action="append", choices=LEGS, help="run this leg; repeatable (default: all)")
    parser.add_argument("--direct-only", action="store_true", help="start no gateway")
    parser.add_argument("--url", help="MCP endpoint of a gateway that is running, instead of starting one")
    parser.add_argument(
        "--era",
        choices=("auto", *CROSS_LEGS),
        default="auto",
        help="pin the upstream behind the gateway to one era; the direct run still meets both (default: auto)",
    )
    parser.add_argument("--timeout", type=float, default=300, help="seconds one leg may take (default: %(default)g)")
    chosen = parser.parse_args(argv)
    if chosen.direct_only and (chosen.url or chosen.era != "auto"):
        parser.error("--direct-only: --url and --era are about the gateway, leave them out")
    if not chosen.leg:
        chosen.leg = list(LEGS) if chosen.era == "auto" else [CROSS_LEGS[chosen.era]]
    return chosen


def start_upstream(children: Children, name: str, era: str) -> str:
    port = free_port()
    argv = [sys.executable, "-m", "conformance.upstream", "--port", str(port), "--era", era]
    child = children.start(name, argv, OUT / f"{name}.log", cwd=ROOT)
    children.wait_until(child, lambda: listens(port), UPSTREAM_START)
    return f"http://127.0.0.1:{port}/mcp"


def start_gateway(children: Children, upstream: str, state: Path) -> str:
    """A gateway in front of `upstream`; returns the endpoint that shows this one upstream under its own names."""
    program = Path(sys.executable).with_name("mcp-gateway")
    if not program.is_file():
        raise SuiteError("mcp-gateway: not installed; run `make setup`")
    config = OUT / "gateway.yaml"
    server = {
        "slug": SLUG,
        "versions": [{"version": "1", "url": upstream}],
        "allow": {"sampling": True, "roots": True},
    }
    gateway = {"mode": "development", "authentication": {"mode": "anonymous"}}
    config.write_text(yaml.safe_dump({"gateway": gateway, "servers": [server]}, sort_keys=False))
    port = free_port()
    argv = [str(program), "serve", "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
    child = children.start("gateway", argv, OUT / "gateway.log", cwd=ROOT, env={"MCP_GATEWAY_STATE_DIR": str(state)})
    children.wait_until(child, lambda: answers_ok(f"http://127.0.0.1:{port}/readyz"), GATEWAY_START)
    return f"http://127.0.0.1:{port}/servers/{SLUG}/mcp"


def run_leg(children: Children, name: str, side: str, url: str, seconds: float) -> dict[str, Outcome]:
    leg: Leg = LEGS[name]
    results = OUT / side / name
    shutil.rmtree(results, ignore_errors=True)
    results.mkdir(parents=True)
    print(f"{name}: {side} ...", file=sys.stderr)
    log = OUT / side / f"{name}.log"
    output = children.run(f"suite {name}", command(leg, url, results), log, cwd=OUT, seconds=seconds)
    return read_run(results, output)


def run(chosen: argparse.Namespace, children: Children, state: Path) -> list[Comparison]:
    direct_url = start_upstream(children, "upstream-direct", "auto")
    through_url: str | None = chosen.url
    if through_url is None and not chosen.direct_only:
        # An upstream of its own: the suite changes lists, and a direct run must not do so behind the gateway's back.
        behind = start_upstream(children, "upstream-behind", chosen.era)
        through_url = start_gateway(children, behind, state)
    comparisons: list[Comparison] = []
    for name in chosen.leg:
        direct = run_leg(children, name, "direct", direct_url, chosen.timeout)
        through = run_leg(children, name, "through", through_url, chosen.timeout) if through_url else None
        leg = LEGS[name]
        comparison = compare(name, direct, through, scenarios=leg.scenarios, excused=leg.excused)
        for title, names, outcomes in (("broken", comparison.broken, direct), ("lost", comparison.lost, through or {})):
            if names:
                print(f"\n{name}, {title}:\n" + "\n".join(explain(names, outcomes)))
        if comparison.unseen:
            print(f"\n{name}: {comparison.unseen} scenarios did not run directly, see {name}.log", file=sys.stderr)
        comparisons.append(comparison)
    return comparisons


def _leave(number: int, _: object) -> NoReturn:
    sys.exit(128 + number)


def main(argv: Sequence[str] | None = None) -> int:
    chosen = options(argv)
    # Being told to stop has to run the same clean-up as Ctrl-C does.
    signal.signal(signal.SIGTERM, _leave)
    OUT.mkdir(exist_ok=True)
    try:
        install()
        # The state is outside the checkout because the path of a socket inside it may hold some hundred bytes only.
        with tempfile.TemporaryDirectory(prefix="mcp-conformance-") as state, Children() as children:
            comparisons = run(chosen, children, Path(state))
    except (SuiteError, ChildError) as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    print(f"\n{table(comparisons)}\n\nLogs and results: {os.path.relpath(OUT)}/")
    print(json.dumps({"legs": {each.leg: each.as_json() for each in comparisons}}))
    return 0 if all(each.holds for each in comparisons) else 1


if __name__ == "__main__":
    sys.exit(main())
