"""Exposed names are safe for every provider, stable, and unique within a server."""

import re
from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalogue.naming import MAX_EXPOSED, assign, exposed_name, validate_slug

QUICK = settings(deadline=None, max_examples=100)
SAFE = re.compile(r"[a-z0-9]{1,12}__[A-Za-z0-9_.-]+")

slugs = st.text("abc019", min_size=1, max_size=12)
any_text = st.text(st.characters(exclude_categories=[]), max_size=80)
# Few letters, so that names are often equal, often need a hash, and often look like one another's hashed form.
close_names = st.text("ab _/", min_size=1, max_size=4)


def digits_of(text: str, length: int = 8) -> str:
    return sha256(text.encode()).hexdigest()[:length]


def test_a_safe_name_is_itself_behind_the_slug() -> None:
    assert exposed_name("github", "create_issue") == "github__create_issue"
    assert exposed_name("1", "a.b-C_9__x") == "1__a.b-C_9__x"


def test_a_name_of_exactly_the_limit_needs_no_hash() -> None:
    name = "x" * (64 - len("gh__"))
    assert exposed_name("gh", name) == f"gh__{name}"
    assert exposed_name("gh", name + "x") == f"gh__{name[:-9]}_{digits_of(name + 'x')}"


def test_other_characters_are_replaced_and_the_hash_tells_the_names_apart() -> None:
    assert exposed_name("gh", "a/b") == f"gh__a_b_{digits_of('a/b')}"
    assert exposed_name("gh", "a b") == f"gh__a_b_{digits_of('a b')}"
    assert exposed_name("gh", "b\u00fccher") == "gh__b_cher_" + digits_of("b\u00fccher")


@QUICK
@given(slugs, any_text)
def test_any_name_becomes_a_safe_one(slug: str, name: str) -> None:
    exposed = exposed_name(slug, name)
    assert SAFE.fullmatch(exposed)
    assert len(exposed) <= MAX_EXPOSED
    assert exposed == exposed_name(slug, name)


@QUICK
@given(slugs, slugs, any_text, any_text)
def test_names_of_two_servers_never_meet(one: str, other: str, name: str, other_name: str) -> None:
    if one != other:
        assert exposed_name(one, name) != exposed_name(other, other_name)


@QUICK
@given(slugs, st.lists(any_text | close_names, max_size=20))
def test_assigned_names_are_unique_safe_and_in_order(slug: str, names: list[str]) -> None:
    assigned = assign(slug, names)
    assert list(assigned) == list(dict.fromkeys(names))
    assert len(set(assigned.values())) == len(assigned)
    assert all(SAFE.fullmatch(exposed) and len(exposed) <= MAX_EXPOSED for exposed in assigned.values())


@QUICK
@given(st.lists(close_names, max_size=12), st.data())
def test_the_order_of_a_list_does_not_move_names(names: list[str], data: st.DataObject) -> None:
    names += [exposed_name("gh", name).removeprefix("gh__") for name in names]
    assert assign("gh", names) == assign("gh", data.draw(st.permutations(names)))


def test_on_collision_the_later_one_gets_a_longer_hash() -> None:
    taken = f"a_b_{digits_of('a b')}"
    longer = f"gh__a_b_{digits_of('a b', 16)}"
    assert assign("gh", ["a b", taken]) == {"a b": longer, taken: f"gh__{taken}"}


def test_two_names_with_the_same_hash_keep_their_exposed_names_in_any_order() -> None:
    one, other = "\u4ed3\u4e1f", "\u58d1\u4e17"
    assert digits_of(one) == digits_of(other)
    expected = {one: f"gh_____{digits_of(one)}", other: f"gh_____{digits_of(other, 16)}"}
    assert assign("gh", [one, other]) == expected
    assert assign("gh", [other, one]) == expected


def test_an_upstream_cannot_exhaust_the_hashes() -> None:
    taken = [f"a_b_{digits_of('a b')}", f"a_b_{digits_of('a b', 16)}", f"a_b_{digits_of('a b' + chr(0) + '1', 16)}"]
    assigned = assign("gh", [*taken, "a b"])
    assert assigned["a b"] == f"gh__a_b_{digits_of('a b' + chr(0) + '2', 16)}"
    assert len(set(assigned.values())) == 4


@pytest.mark.parametrize("slug", ["a", "0", "github", "a1b2c3d4e5f6"])
def test_valid_slugs_are_given_back(slug: str) -> None:
    assert validate_slug(slug) == slug


@pytest.mark.parametrize("slug", ["", "A", "a_b", "a-b", "a+b", "a" * 13, "a\n", "\u0661", "\u00e9", " a"])
def test_other_slugs_are_refused_with_the_rule(slug: str) -> None:
    with pytest.raises(ValueError, match=r"1 to 12 characters.*a-z or a digit"):
        validate_slug(slug)
