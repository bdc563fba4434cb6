"""Fingerprints follow RFC 8785, whose own examples are used here."""

import json
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalogue.digest import canonical, fingerprint

QUICK = settings(deadline=None, max_examples=60)

doubles = st.floats(allow_nan=False, allow_infinity=False)


def json_of(leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
        max_leaves=8,
    )


exact_values = json_of(st.none() | st.booleans() | st.integers() | st.text())
json_values = json_of(st.none() | st.booleans() | st.integers() | doubles | st.text())


def shuffled(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: shuffled(value[name]) for name in reversed(value)}
    return [shuffled(item) for item in value] if isinstance(value, list) else value


def test_the_example_of_the_standard_is_written_as_it_says() -> None:
    value = {
        "numbers": [333333333.33333329, 1e30, 4.50, 2e-3, 0.000000000000000000000000001],
        "string": "\u20ac$\u000f\u000aA'\u0042\u0022\u005c\\\"/",
        "literals": [None, True, False],
    }
    assert canonical(value).decode() == (
        '{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],'
        '"string":"\u20ac$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'
    )


def test_members_are_sorted_by_utf_16_code_units() -> None:
    names = ["\u20ac", "\r", "\ufb33", "1", "\U0001f600", "\u0080", "\u00f6"]
    order = list(json.loads(canonical(dict.fromkeys(names, 0))))
    assert order == ["\r", "1", "\u0080", "\u00f6", "\u20ac", "\U0001f600", "\ufb33"]


@pytest.mark.parametrize(
    ("bits", "text"),
    [
        ("0000000000000000", "0"),
        ("8000000000000000", "0"),
        ("0000000000000001", "5e-324"),
        ("8000000000000001", "-5e-324"),
        ("7fefffffffffffff", "1.7976931348623157e+308"),
        ("ffefffffffffffff", "-1.7976931348623157e+308"),
        ("4340000000000000", "9007199254740992"),
        ("c340000000000000", "-9007199254740992"),
        ("4430000000000000", "295147905179352830000"),
        ("44b52d02c7e14af5", "9.999999999999997e+22"),
        ("44b52d02c7e14af6", "1e+23"),
        ("444b1ae4d6e2ef4e", "999999999999999700000"),
        ("444b1ae4d6e2ef50", "1e+21"),
        ("3eb0c6f7a0b5ed8c", "9.999999999999997e-7"),
        ("3eb0c6f7a0b5ed8d", "0.000001"),
        ("41b3de4355555553", "333333333.3333332"),
        ("becbf647612f3696", "-0.0000033333333333333333"),
        ("43143ff3c1cb0959", "1424953923781206.2"),
    ],
)
def test_doubles_are_written_as_the_standard_lists_them(bits: str, text: str) -> None:
    number = struct.unpack(">d", bytes.fromhex(bits))[0]
    assert canonical(number).decode() == text


@QUICK
@given(exact_values)
def test_canonical_text_is_json_of_the_same_value(value: Any) -> None:
    assert json.loads(canonical(value)) == value


@QUICK
@given(doubles)
def test_a_double_is_read_back_exactly(number: float) -> None:
    assert float(canonical(number)) == number


@QUICK
@given(json_values)
def test_neither_the_order_of_members_nor_a_second_reading_changes_the_fingerprint(value: Any) -> None:
    assert fingerprint(shuffled(value)) == fingerprint(value)
    assert canonical(json.loads(canonical(value))) == canonical(value)


@QUICK
@given(json_values, json_values)
def test_different_values_have_different_fingerprints(one: Any, other: Any) -> None:
    # Python takes 1 and True for equal, JSON does not.
    if json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True):
        assert fingerprint(one) == fingerprint(other)
    elif one != other:
        assert fingerprint(one) != fingerprint(other)


def test_similar_values_are_told_apart() -> None:
    values: list[Any] = [
        None,
        False,
        0,
        "",
        "0",
        [],
        {},
        [[]],
        [0],
        ["0"],
        {"0": 0},
        True,
        1,
        "1",
        [1],
        {"": None},
        "null",
    ]
    assert len({fingerprint(value) for value in values}) == len(values)


def test_a_fingerprint_is_the_sha_256_of_the_text() -> None:
    assert fingerprint({}) == "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"


def test_big_integers_are_exact() -> None:
    assert canonical([2**64, 10**400 + 1]) == b"[18446744073709551616,1" + b"0" * 399 + b"1]"
    assert fingerprint(2**60) != fingerprint(2**60 + 1)


def test_a_whole_number_is_the_same_with_and_without_its_point() -> None:
    assert fingerprint({"a": 1.0}) == fingerprint({"a": 1})


def test_half_a_surrogate_pair_has_a_fingerprint_of_its_own() -> None:
    assert len({fingerprint(text) for text in ("\ud800", "\ud801", "\\ud800", "?", "\ufffd")}) == 5


@pytest.mark.parametrize(
    "value", [float("inf"), [float("nan")], {1: 2}, object(), {"a": {1}}, pytest.param(10**5000, id="5000 digits")]
)
def test_what_is_not_json_is_a_value_error(value: Any) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        fingerprint(value)


def test_what_nests_too_deep_is_a_value_error() -> None:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    with pytest.raises(ValueError, match="too deep"):
        fingerprint(value)
