"""Pages of lists: what is on them, how one follows another, and what they cost."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalogue.model import Kind, Server
from gateway.bridge import lists
from gateway.bridge.lists import CURSOR_SECONDS, Lists, Page
from gateway.calls import Caller, Principal
from gateway.errors import InvalidParams
from gateway.keys import KeyRing
from tests.support.calls import ALICE, BOB, ONE, TWO, FakeClock, caller, catalogue, definition, tool
from tests.support.worlds import RING

MiB = 1024 * 1024


class Served:
    """Lists over a catalogue, and a client that asks for them."""

    def __init__(self, *names: str, page_size: int = 3, cache_bytes: int = MiB, keys: KeyRing = RING) -> None:
        self.clock = FakeClock()
        self.catalogue = catalogue((ONE, definition(*map(tool, names))), (TWO, definition(tool("other"))))
        self.lists = Lists(keys, page_size=page_size, cache_bytes=cache_bytes, clock=self.clock)

    def page(self, asking: Caller | None = None, cursor: object = None, kind: Kind = Kind.TOOL) -> Page:
        asking = asking or caller(endpoint="one")
        view = self.catalogue.current.view(asking.endpoint)
        assert view is not None
        return self.lists.page(self.catalogue.current, view, kind, asking, cursor)

    def all(self, asking: Caller | None = None) -> list[list[str]]:
        """The names of page after page."""
        pages: list[list[str]] = []
        cursor: object = None
        while True:
            page = self.page(asking, cursor)
            pages.append(names(page))
            if page.next_cursor is None:
                return pages
            cursor = page.next_cursor


def names(page: Page) -> list[str]:
    return [item["name"] for item in orjson.loads(b"[" + page.items + b"]")]


def flat(pages: list[list[str]]) -> list[str]:
    return [name for page in pages for name in page]


def granted(*grants: str, id: str = "key:g", **more: Any) -> Caller:  # noqa: A002 - it is one
    return caller(Principal(id, "key", grants=grants), **more)


LETTERS = "abcdefg"


def test_a_list_comes_in_pages_in_its_own_order() -> None:
    assert Served(*"gfedcba").all() == [["g", "f", "e"], ["d", "c", "b"], ["a"]]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 6])
def test_the_last_page_has_no_cursor_even_when_it_is_full(count: int) -> None:
    pages = Served(*LETTERS[:count]).all()
    assert flat(pages) == list(LETTERS[:count])
    assert all(len(page) == 3 for page in pages[:-1])
    assert len(pages) == max(1, -(-count // 3))


def test_a_page_is_filled_with_what_its_caller_may_see() -> None:
    assert Served(*LETTERS).all(granted("one__[aceg]", endpoint="one")) == [["a", "c", "e"], ["g"]]
    assert Served(*LETTERS).all(granted("one__[abc]", endpoint="one")) == [["a", "b", "c"]]
    assert Served(*LETTERS).all(granted("one__[defg]", endpoint="one")) == [["d", "e", "f"], ["g"]]
    assert Served(*LETTERS).all(granted("two__*", endpoint="one")) == [[]]


@settings(deadline=None, max_examples=60)
@given(st.sets(st.integers(0, 19)), st.integers(1, 7))
def test_paging_gives_every_visible_item_once_whatever_is_hidden(visible: set[int], page_size: int) -> None:
    served = Served(*(f"t{number}" for number in range(20)), page_size=page_size)
    pages = served.all(granted(*(f"one__t{number}" for number in visible), endpoint="one"))
    assert flat(pages) == [f"t{number}" for number in sorted(visible)]
    assert all(len(page) == page_size for page in pages[:-1])


def test_the_empty_cursor_is_the_beginning() -> None:
    assert names(Served(*LETTERS).page(cursor="")) == ["a", "b", "c"]


def cursor_of(served: Served, asking: Caller) -> str:
    cursor = served.page(asking).next_cursor
    assert cursor is not None
    return cursor


@pytest.mark.parametrize(
    ("asking", "kind"),
    [
        (caller(BOB, endpoint="one"), Kind.TOOL),
        (caller(ALICE), Kind.TOOL),
        (caller(ALICE, endpoint="two"), Kind.TOOL),
        (caller(ALICE, endpoint="one"), Kind.PROMPT),
        (caller(ALICE, endpoint="one"), Kind.RESOURCE),
    ],
)
def test_a_cursor_is_of_no_use_to_another_principal_endpoint_or_list(asking: Caller, kind: Kind) -> None:
    served = Served(*LETTERS)
    cursor = cursor_of(served, caller(ALICE, endpoint="one"))
    assert names(served.page(caller(ALICE, endpoint="one"), cursor)) == ["d", "e", "f"]
    with pytest.raises(InvalidParams, match=r"^cursor: not valid"):
        served.page(asking, cursor, kind)


def test_a_cursor_is_good_on_every_replica_of_the_same_keys_and_on_no_other() -> None:
    cursor = cursor_of(Served(*LETTERS), caller(endpoint="one"))
    assert names(Served(*LETTERS).page(cursor=cursor)) == ["d", "e", "f"]
    with pytest.raises(InvalidParams):
        Served(*LETTERS, keys=KeyRing.parse(KeyRing.generate())).page(cursor=cursor)


def test_a_cursor_lives_for_an_hour() -> None:
    served = Served(*LETTERS)
    cursor = cursor_of(served, caller(endpoint="one"))
    served.clock.now += CURSOR_SECONDS
    assert served.page(cursor=cursor)
    served.clock.now += 1
    with pytest.raises(InvalidParams, match=r"^cursor: too old"):
        served.page(cursor=cursor)


def test_a_cursor_goes_on_behind_its_item_when_the_list_has_changed() -> None:
    served = Served(*LETTERS)
    cursor = cursor_of(served, caller(endpoint="one"))
    served.catalogue.publish(ONE, definition(*map(tool, ["new", "c", "a", "z"])))
    assert names(served.page(cursor=cursor)) == ["a", "z"]


def test_a_cursor_whose_item_has_vanished_says_so() -> None:
    served = Served(*LETTERS)
    cursor = cursor_of(served, caller(endpoint="one"))
    served.catalogue.publish(ONE, definition(tool("a")))
    with pytest.raises(InvalidParams, match=r"^cursor: the list has changed"):
        served.page(cursor=cursor)


ODD = [5, True, [], {}, 1.5, "x", "é", "\ud800", "A" * 60, "=" * 60, "A" * 100_000, " ", RING.seal("other", b'["c",1]')]


@pytest.mark.parametrize("cursor", ODD, ids=range(len(ODD)))
def test_what_is_no_cursor_of_ours_is_a_wrong_parameter(cursor: object) -> None:
    with pytest.raises(InvalidParams, match=r"^cursor: "):
        Served(*LETTERS).page(cursor=cursor)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.sampled_from("AZaz09-_"))
def test_a_changed_cursor_is_refused(position: int, letter: str) -> None:
    served = Served(*LETTERS)
    cursor = cursor_of(served, caller(endpoint="one"))
    position %= len(cursor)
    changed = cursor[:position] + letter + cursor[position + 1 :]
    if changed != cursor:
        with pytest.raises(InvalidParams):
            served.page(cursor=changed)


def test_a_list_is_what_the_clients_revision_knows_of_it() -> None:
    task = tool("task", execution={"taskSupport": "required"})
    served = Served()
    served.catalogue.publish(ONE, definition(tool("icon", icons=[]), task))
    assert b"icons" in served.page(caller(endpoint="one", revision="2025-11-25")).items
    assert b"icons" not in served.page(caller(endpoint="one", revision="2025-06-18")).items
    assert flat(served.all()) == ["icon"]


def test_two_versions_of_one_server_have_lists_of_their_own() -> None:
    newer = Server("one", "2", ONE.url)
    made = catalogue((ONE, definition(tool("old"))), (newer, definition(tool("new"))))
    served = Served()
    served.catalogue = made
    for _ in range(2):
        assert [served.all(caller(endpoint=f"one@{version}")) for version in "12"] == [[["old"]], [["new"]]]


def test_a_page_is_joined_once_for_all_who_see_the_same() -> None:
    served = Served(*LETTERS)
    first = served.page(granted("one__[abc]", id="key:1", endpoint="one"))
    again = served.page(granted("one__[a-c]", id="key:2", endpoint="one"))
    assert again.items is first.items


def test_a_change_of_the_list_is_seen_by_the_next_reader() -> None:
    served = Served("a")
    assert served.all() == [["a"]]
    served.catalogue.publish(ONE, definition(tool("b")))
    assert served.all() == [["b"]]
    assert served.lists.joined_bytes == len(served.page().items)


def test_two_thousand_distinct_views_stay_within_the_bound_and_are_all_right() -> None:
    cap = 256 * 1024
    served = Served(*(f"tool{number:02}" for number in range(12)), page_size=1000, cache_bytes=cap)
    size = len(served.page().items)
    kept = 0
    for bits in range(2000):
        visible = [number for number in range(11) if bits >> number & 1]
        page = served.page(granted(*(f"one__tool{number:02}" for number in visible), endpoint="one"))
        assert names(page) == [f"tool{number:02}" for number in visible]
        assert served.lists.joined_bytes <= cap
        kept = max(kept, served.lists.joined_bytes)
    assert kept > cap - size, "the room that there is gets used"
    assert served.lists.joined_bytes == sum(len(joined) for joined, _ in served.lists._joined.values())


def test_the_least_recently_used_page_goes_first() -> None:
    served = Served("a1", "a2", "b1", "b2", "c1", "c2", cache_bytes=0, page_size=10)
    asking = {letter: granted(f"one__{letter}*", endpoint="one") for letter in "abc"}
    size = len(served.page(asking["a"]).items)
    served.lists = Lists(RING, page_size=10, cache_bytes=2 * size, clock=served.clock)
    kept = {letter: served.page(asking[letter]).items for letter in "ab"}
    assert served.page(asking["a"]).items is kept["a"]
    served.page(asking["c"])
    assert served.page(asking["a"]).items is kept["a"]
    assert served.page(asking["b"]).items is not kept["b"]


def test_what_is_larger_than_the_bound_is_served_and_not_kept() -> None:
    served = Served(*LETTERS, cache_bytes=10)
    assert len(served.all()) == 3
    assert served.lists.joined_bytes == 0


def test_the_sets_of_visible_items_are_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lists, "MASKS", 5)
    served = Served(*LETTERS)
    for number in range(20):
        served.page(granted(f"one__{number}", "one__a", endpoint="one"))
    assert len(served.lists._masks) == 5
