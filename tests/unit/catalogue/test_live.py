"""What publishing does to the catalogue, and who is told."""

from __future__ import annotations

import dataclasses

from catalogue.live import Catalogue
from catalogue.model import Definition, Freshness, Kind, Server
from tests.support.calls import ONE, TWO, FakeClock, catalogue, definition, tool

Told = list[tuple[Server, frozenset[Kind], frozenset[Kind]]]
NONE: frozenset[Kind] = frozenset()
TOOLS = frozenset({Kind.TOOL})
ECHO = definition(tool("echo"))
ADD = definition(tool("add"))


def listened(made: Catalogue) -> Told:
    told: Told = []
    made.listen(lambda server, changed, said: told.append((server, changed, said)))
    return told


def tools(made: Catalogue) -> list[str]:
    federated = made.current.view("")
    assert federated is not None
    return [item.exposed_name for item in federated.items[Kind.TOOL]]


def test_the_first_publication_changes_every_kind_and_another_only_what_differs() -> None:
    made = Catalogue([ONE], FakeClock())
    assert made.publish(ONE, ECHO) == frozenset(Kind)
    assert made.publish(ONE, ECHO) == NONE
    assert made.publish(ONE, ADD) == TOOLS
    assert tools(made) == ["one__add"]


def test_listeners_hear_of_changes_and_of_nothing_else() -> None:
    made = catalogue((ONE, ECHO), (TWO, ECHO))
    told = listened(made)
    made.publish(ONE, ECHO)
    made.publish(ONE, None)
    assert told == []
    made.publish(TWO, ADD)
    assert told == [(TWO, TOOLS, NONE)]


def test_what_an_upstream_says_is_told_even_if_nothing_differs() -> None:
    made = catalogue((ONE, ECHO))
    told = listened(made)
    assert made.publish(ONE, ECHO, frozenset({Kind.PROMPT})) == NONE
    assert told == [(ONE, NONE, frozenset({Kind.PROMPT}))]


def test_a_server_that_is_away_keeps_its_items() -> None:
    made = catalogue((ONE, ECHO), (TWO, ADD))
    assert made.publish(ONE, None) == NONE
    assert tools(made) == ["one__echo", "two__add"]
    away, there = made.published(ONE), made.published(TWO)
    assert away is not None
    assert there is not None
    assert (away.available, there.available) == (False, True)


def test_a_server_that_is_away_before_it_ever_published_has_nothing() -> None:
    made = Catalogue([ONE], FakeClock())
    made.publish(ONE, None)
    assert made.published(ONE) is None
    assert tools(made) == []


def test_a_server_that_comes_back_is_available_again() -> None:
    made = catalogue((ONE, ECHO))
    made.publish(ONE, None)
    assert made.publish(ONE, ECHO) == NONE
    found = made.published(ONE)
    assert found is not None
    assert found.available


def test_publishing_the_same_again_renews_its_freshness_and_nothing_else() -> None:
    clock = FakeClock(100.0)
    made = catalogue((ONE, ECHO), clock=clock)
    before, revision = made.published(ONE), made.current.revision
    clock.now = 200.0
    fresh = dataclasses.replace(ECHO, freshness={Kind.TOOL: Freshness(1000, public=True)})
    made.publish(ONE, fresh)
    after = made.published(ONE)
    assert before is not None
    assert after is not None
    assert (before.published_at, after.published_at) == (100.0, 200.0)
    assert after.definition is fresh
    assert after.own is before.own
    assert made.current.revision == revision, "what is derived from the items need not be made again"
    view = made.current.view("one")
    assert view is not None
    assert view.parts == (after,)


def test_the_revision_grows_with_each_change_and_a_snapshot_never_changes() -> None:
    made = catalogue((ONE, ECHO))
    before = made.current
    assert made.current is before
    made.publish(ONE, ADD)
    after = made.current
    assert after.revision > before.revision
    old = before.view("one")
    assert old is not None
    assert [item.exposed_name for item in old.items[Kind.TOOL]] == ["echo"]


def test_a_burst_of_publications_has_one_snapshot() -> None:
    made = catalogue((ONE, ECHO))
    for number in range(10):
        made.publish(ONE, definition(tool(f"t{number}")))
    first = made.current
    assert made.current is first
    assert tools(made) == ["one__t9"]


def test_other_capabilities_alone_are_seen_at_once_and_told_to_nobody() -> None:
    made = catalogue((ONE, ECHO))
    told = listened(made)
    made.publish(ONE, definition(tool("echo"), capabilities={"logging": {}}))
    found = made.published(ONE)
    assert found is not None
    assert found.definition.capabilities == {"logging": {}}
    assert told == []


def test_a_change_in_any_member_of_an_item_is_a_change() -> None:
    for members in ({"description": "x"}, {"inputSchema": {"type": "object", "x": 2**70}}, {"vendor": [1, None]}):
        made = catalogue((ONE, definition(tool("t"))))
        assert made.publish(ONE, definition({**tool("t"), **members})) == TOOLS


def test_the_order_of_a_list_is_part_of_it_and_the_order_of_members_is_not() -> None:
    made = catalogue((ONE, definition(tool("a"), tool("b"))))
    assert made.publish(ONE, definition(tool("b"), tool("a"))) == TOOLS
    turned = dict(reversed(tool("b").items()))
    assert made.publish(ONE, definition(turned, tool("a"))) == NONE


def test_what_was_kept_of_an_earlier_run_is_published_like_anything_else() -> None:
    made = Catalogue([ONE], FakeClock())
    made.publish(ONE, Definition.from_json(ECHO.to_json()))
    assert tools(made) == ["one__echo"]
    assert made.publish(ONE, ECHO) == NONE
