"""The text of API keys: what is no key of ours is told without asking anybody."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.identity import key_text

KEY_ID, TEXT = key_text.generate()


def test_a_key_says_its_id_and_has_the_documented_form() -> None:
    assert key_text.find_id(TEXT) == KEY_ID
    assert re.fullmatch(r"mgw_[0-9A-Za-z]{12}_[0-9A-Za-z]{43}_[0-9A-Za-z]{6}", TEXT)


@given(st.integers(0, len(TEXT) - 1), st.characters())
def test_one_character_changed_is_noticed(position: int, character: str) -> None:
    changed = TEXT[:position] + character + TEXT[position + 1 :]
    assert key_text.find_id(changed) == (KEY_ID if changed == TEXT else None)


@given(st.integers(0, len(TEXT) - 2))
def test_two_neighbours_swapped_are_noticed(position: int) -> None:
    one, other = TEXT[position], TEXT[position + 1]
    changed = TEXT[:position] + other + one + TEXT[position + 2 :]
    assert key_text.find_id(changed) == (KEY_ID if one == other else None)


@pytest.mark.parametrize(
    "text",
    ["", "mgw_", TEXT + "\n", " " + TEXT, TEXT[:-1], TEXT + "A", TEXT.swapcase(), "é" * 67],
    ids=["empty", "prefix", "newline", "space", "short", "long", "case", "foreign"],
)
def test_any_other_text_is_no_key(text: str) -> None:
    assert key_text.find_id(text) is None


def test_no_two_keys_are_alike() -> None:
    assert len({key_text.generate() for _ in range(100)}) == 100
