"""Definitions and their texts, hints and fingerprints."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalogue.model import Definition, Freshness, Kind
from tests.support.calls import definition, tool


@pytest.mark.parametrize(
    ("kind", "method", "key"),
    [
        (Kind.TOOL, "tools/list", "name"),
        (Kind.PROMPT, "prompts/list", "name"),
        (Kind.RESOURCE, "resources/list", "uri"),
        (Kind.TEMPLATE, "resources/templates/list", "uriTemplate"),
    ],
)
def test_each_kind_has_its_list_method_and_its_key(kind: Kind, method: str, key: str) -> None:
    assert (kind.method, kind.key) == (method, key)


def test_every_kind_is_covered_above() -> None:
    assert len(Kind) == 4


@pytest.mark.parametrize(
    ("page", "freshness"),
    [
        ({}, None),
        ({"tools": []}, None),
        ({"ttlMs": 5, "cacheScope": "public"}, Freshness(5, public=True)),
        ({"ttlMs": 5}, Freshness(5, public=False)),
        ({"ttlMs": 5, "cacheScope": "private"}, Freshness(5, public=False)),
        ({"ttlMs": 5, "cacheScope": "PUBLIC"}, Freshness(5, public=False)),
        ({"cacheScope": "public"}, Freshness(0, public=True)),
        ({"ttlMs": 0}, Freshness(0, public=False)),
        ({"ttlMs": -1}, Freshness(0, public=False)),
        ({"ttlMs": True}, Freshness(0, public=False)),
        ({"ttlMs": 1.5}, Freshness(0, public=False)),
        ({"ttlMs": "5"}, Freshness(0, public=False)),
        ({"ttlMs": None}, Freshness(0, public=False)),
        ({"ttlMs": 10**30}, Freshness(86_400_000, public=False)),
    ],
)
def test_an_odd_hint_counts_as_no_time_left(page: dict[str, Any], freshness: Freshness | None) -> None:
    assert Freshness.of(page) == freshness


def test_the_least_ttl_is_that_of_the_list_that_is_stale_first() -> None:
    hints = {Kind.TOOL: Freshness(500, public=True), Kind.PROMPT: Freshness(20, public=False)}
    assert definition(freshness=hints).least_ttl == 20
    assert definition().least_ttl is None


def test_the_digest_covers_all_that_a_client_can_see_and_not_the_moment() -> None:
    made = definition(tool("echo"), instructions="Be kind.", server_info={"name": "x"})
    fresh = dataclasses.replace(made, freshness={Kind.TOOL: Freshness(5, public=True)}, findings=("left out",))
    assert fresh.digest == made.digest
    for change in (
        {"items": definition(tool("echo", title="E")).items},
        {"capabilities": {"tools": {"listChanged": True}}},
        {"server_info": {"name": "y"}},
        {"instructions": None},
    ):
        assert dataclasses.replace(made, **change).digest != made.digest


TEXTS = st.text(max_size=6) | st.just("\ud800")
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**80), 2**80) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=5,
)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.dictionaries(TEXTS, VALUES, max_size=3), max_size=3), st.none() | TEXTS)
def test_a_definition_is_read_back_from_its_text_with_the_same_digest(
    tools: list[dict[str, Any]], instructions: str | None
) -> None:
    made = definition(*tools, instructions=instructions)
    again = Definition.from_json(made.to_json())
    assert again.digest == made.digest
    assert {kind: list(items) for kind, items in again.items.items()} == {k: list(v) for k, v in made.items.items()}
