"""The manifest of what a correct gateway does: every statement has tests, or says what is open."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
MANIFEST: list[dict[str, Any]] = yaml.safe_load((ROOT / "conformance" / "requirements.yaml").read_text("utf-8"))


def test_every_statement_is_there_once() -> None:
    assert [entry["id"] for entry in MANIFEST] == [f"P{number:02d}" for number in range(1, 73)]


def test_every_statement_is_tested_or_says_what_is_open() -> None:
    silent = [e["id"] for e in MANIFEST if not e["tests"] and not e.get("suite") and not e.get("open")]
    assert silent == []


def test_every_test_that_is_named_exists_and_names_the_statement() -> None:
    wrong: list[str] = []
    for entry in MANIFEST:
        for node in entry["tests"]:
            path, _, name = node.partition("::")
            text = (ROOT / path).read_text("utf-8")
            found = re.search(rf"def {name}\b", text)
            if found is None or not re.search(rf"\bP0?{int(entry['id'][1:])}\b", text):
                wrong.append(f"{entry['id']}: {node}")
    assert wrong == []
