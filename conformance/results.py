"""Read what a suite left behind and compare two runs of it, scenario by scenario. No processes, no network.

A suite writes one folder `server-<scenario>-<time>` per scenario with `checks.json`, a list of checks with `id`,
`status` (SUCCESS, FAILURE, WARNING, SKIPPED, INFO) and `errorMessage`. A scenario that broke off leaves a folder
without that file, and only a line in the summary at the end of the output.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

_FOLDER = re.compile(r"server-(?P<scenario>.+)-\d{4}-\d{2}-\d{2}T\d{2}-\d{2}-\d{2}-\d{3}Z")
_SUMMARY_LINE = re.compile(r"[✓✗] (?P<scenario>[\w./-]+): (?P<passed>\d+) passed, (?P<failed>\d+) failed")
_BROKEN_OFF = re.compile(r"Failed to run scenario (?P<scenario>[\w./-]+): (?P<reason>.*)")


class Verdict(StrEnum):
    PASSED = "passed"
    FAILED = "failed"
    # No failure, but a recommendation that was not followed.
    WARNED = "warned"
    # Nothing was checked: everything was skipped, or only informed about.
    EMPTY = "empty"
    # The suite never came to it.
    ABSENT = "absent"


@dataclass(frozen=True)
class Outcome:
    verdict: Verdict
    # `<check id>: <message>` of each check that failed or warned.
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """One leg. `through` is None if it was run directly only.

    `broken` are scenarios that should have passed directly, and `unseen` is how many did not run at all. Then the
    reference upstream or the suite is at fault, and a short list of lost scenarios proves nothing.
    """

    leg: str
    scenarios: int
    direct: int
    through: int | None
    lost: tuple[str, ...]
    broken: tuple[str, ...]
    unseen: int

    @property
    def holds(self) -> bool:
        return not self.lost and not self.broken and not self.unseen

    def as_json(self) -> dict[str, Any]:
        """The contract of the last line of output, per leg."""
        return {
            "scenarios": self.scenarios,
            "direct": self.direct,
            "through": self.through,
            "lost": list(self.lost),
            "broken": list(self.broken),
            "unseen": self.unseen,
        }


def verdict_of(checks: Sequence[Mapping[str, Any]]) -> Outcome:
    """A scenario passed only if a check succeeded and none failed or warned; an empty tick is not a pass."""
    statuses = {check.get("status") for check in checks}
    problems = tuple(
        f"{check.get('id')}: {check.get('errorMessage') or check.get('description') or check['status']}"
        for check in checks
        if check.get("status") in {"FAILURE", "WARNING"}
    )
    if "FAILURE" in statuses:
        return Outcome(Verdict.FAILED, problems)
    if "WARNING" in statuses:
        return Outcome(Verdict.WARNED, problems)
    return Outcome(Verdict.PASSED if "SUCCESS" in statuses else Verdict.EMPTY)


def scenario_of(folder: str) -> str | None:
    """The scenario a result folder belongs to, or None if the folder is something else."""
    match = _FOLDER.fullmatch(folder)
    return match["scenario"] if match else None


def summarized(output: str) -> dict[str, Outcome]:
    """What the output alone says. Ticks are not believed: without checks nobody knows what they stand for."""
    reasons = {match["scenario"]: match["reason"] for match in _BROKEN_OFF.finditer(output)}
    outcomes: dict[str, Outcome] = {}
    for match in _SUMMARY_LINE.finditer(output):
        name = match["scenario"]
        reason = reasons.get(name) or f"{match['passed']} passed, {match['failed']} failed, and no checks were written"
        failed = name in reasons or match["failed"] != "0"
        outcomes[name] = Outcome(Verdict.FAILED if failed else Verdict.EMPTY, (reason,))
    for name, reason in reasons.items():
        outcomes.setdefault(name, Outcome(Verdict.FAILED, (reason,)))
    return outcomes


def read_run(folder: Path, output: str) -> dict[str, Outcome]:
    """Outcomes by scenario: from `checks.json` where there is one, else from the output."""
    outcomes = summarized(output)
    for result in sorted(folder.iterdir()) if folder.is_dir() else []:
        name = scenario_of(result.name)
        if name is None:
            continue
        try:
            checks = json.loads((result / "checks.json").read_text())
        except FileNotFoundError:
            outcomes.setdefault(name, Outcome(Verdict.FAILED, ("the scenario broke off",)))
        except ValueError as error:
            outcomes[name] = Outcome(Verdict.FAILED, (f"checks.json is not JSON: {error}",))
        else:
            outcomes[name] = verdict_of(checks)
    return outcomes


def passed(outcomes: Mapping[str, Outcome]) -> set[str]:
    return {name for name, outcome in outcomes.items() if outcome.verdict is Verdict.PASSED}


def compare(
    leg: str,
    direct: Mapping[str, Outcome],
    through: Mapping[str, Outcome] | None,
    *,
    scenarios: int,
    excused: frozenset[str] = frozenset(),
) -> Comparison:
    """Compare a leg. `scenarios` is how many it has; `excused` do not pass directly either, for a known reason."""
    good = passed(direct)
    return Comparison(
        leg,
        scenarios=len(direct),
        direct=len(good),
        through=None if through is None else len(passed(through)),
        lost=() if through is None else tuple(sorted(good - passed(through))),
        broken=tuple(sorted(set(direct) - good - excused)),
        unseen=max(0, scenarios - len(direct)),
    )


def explain(names: Sequence[str], outcomes: Mapping[str, Outcome]) -> list[str]:
    """Lines that say why each of `names` did not pass."""
    lines: list[str] = []
    for name in names:
        outcome = outcomes.get(name, Outcome(Verdict.ABSENT))
        lines.append(f"{name}: {outcome.verdict}")
        lines.extend(f"    {' '.join(problem.split())[:300]}" for problem in outcome.problems)
    return lines


def table(comparisons: Sequence[Comparison]) -> str:
    rows = [("leg", "scenarios", "direct", "through", "lost")]
    for each in comparisons:
        through, lost = ("-", "-") if each.through is None else (str(each.through), str(len(each.lost)))
        rows.append((each.leg, str(each.scenarios), str(each.direct), through, lost))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
