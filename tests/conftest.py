"""Fixtures that every suite may use."""

from __future__ import annotations

import pytest

pytest_plugins = ["tests.support.postgres"]

LONGEST_ID = 40


def pytest_make_parametrize_id(config: pytest.Config, val: object, argname: str) -> str | None:
    """Long texts are named by their length: some are sealed afresh in each process, and ids must agree."""
    del config
    return f"{argname}-{len(val)}" if isinstance(val, str | bytes) and len(val) > LONGEST_ID else None
