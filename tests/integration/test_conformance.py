"""The official suite through the gateway, scenario by scenario, against the same suite directly."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SECONDS = 240

# What an upstream of the other era can only do by asking back in the middle of a call: bridged later, refused now.
INTERACTIVE_2026 = {
    "input-required-result-basic-elicitation",
    "input-required-result-basic-list-roots",
    "input-required-result-basic-sampling",
    "input-required-result-capability-check",
    "input-required-result-ignore-extra-params",
    "input-required-result-missing-input-response",
    "input-required-result-multi-round",
    "input-required-result-multiple-input-requests",
    "input-required-result-non-tool-request",
    "input-required-result-request-state",
    "input-required-result-result-type",
    "input-required-result-tampered-state",
    "server-stateless",  # its -32021 checks need a tool that asks
}
INTERACTIVE_2025 = {
    "elicitation-sep1034-defaults",
    "elicitation-sep1330-enums",
    "tools-call-elicitation",
    "tools-call-sampling",
}


def run(tmp_path: Path, *arguments: str) -> dict[str, Any]:
    """The legs of one run of `conformance/run`."""
    environment = {**os.environ, "MCP_GATEWAY_STATE_DIR": str(tmp_path)}
    environment.pop("MCP_GATEWAY_DATABASE_URL", None)
    done = subprocess.run(
        [str(ROOT / "conformance" / "run"), *arguments],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        env=environment,
        check=False,
    )
    lines = done.stdout.strip().splitlines()
    assert lines, done.stderr
    legs: dict[str, Any] = json.loads(lines[-1])["legs"]
    return legs


@pytest.mark.conformance
def test_no_scenario_that_passes_directly_is_lost_on_the_way_through(tmp_path: Path) -> None:
    legs = run(tmp_path)
    assert {name: leg["lost"] for name, leg in legs.items()} == {name: [] for name in legs}
    assert legs["2025-06-18"]["through"] == 27
    assert legs["2025-11-25"]["through"] == 33
    assert legs["2026-07-28"]["through"] == 40
    assert legs["0.1.16"]["through"] >= 31


@pytest.mark.conformance
@pytest.mark.parametrize(
    ("era", "leg", "interactive"),
    [("legacy", "2026-07-28", INTERACTIVE_2026), ("modern", "2025-11-25", INTERACTIVE_2025)],
)
def test_an_upstream_of_the_other_era_keeps_everything_that_is_not_interactive(
    era: str, leg: str, interactive: set[str], tmp_path: Path
) -> None:
    found = run(tmp_path, "--era", era, "--leg", leg)[leg]
    assert set(found["lost"]) <= interactive
    assert found["through"] + len(found["lost"]) == found["direct"]
