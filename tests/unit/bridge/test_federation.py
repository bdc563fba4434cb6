"""What an endpoint says of itself: the union of what its caller may see, fresh as long as its stalest part."""

from __future__ import annotations

from typing import Any

import pytest

from catalogue.live import Catalogue
from catalogue.model import Definition, Freshness, Kind, Server
from catalogue.snapshot import View
from gateway.bridge import federation
from gateway.bridge.federation import INSTRUCTIONS_CHARACTERS, introduce, remaining_ttl, shared
from gateway.calls import Caller, Principal
from gateway.edge.authentication import ANONYMOUS
from tests.support.calls import ALICE, NOBODY, ONE, TWO, FakeClock, caller, catalogue, definition, tool

CHANGES = {"listChanged": True}
OURS = {"name": "mcp-gateway", "version": "0.1.0"}


def view(made: Catalogue, endpoint: str = "") -> View:
    found = made.current.view(endpoint)
    assert found is not None
    return found


def offering(*tools: str, **capabilities: Any) -> Definition:
    return definition(*map(tool, tools), capabilities=capabilities)


def told(*published: tuple[Server, Definition], asking: Caller | None = None) -> dict[str, Any]:
    asking = asking or caller()
    return dict(introduce(view(catalogue(*published), asking.endpoint), asking).capabilities)


@pytest.mark.parametrize(
    ("one", "two", "merged"),
    [
        ({}, {}, {}),
        ({"tools": {}}, {}, {"tools": CHANGES}),
        ({"tools": {"listChanged": False}}, {"prompts": {}}, {"tools": CHANGES, "prompts": CHANGES}),
        ({"resources": {}}, {}, {"resources": {"listChanged": True, "subscribe": False}}),
        ({"resources": {}}, {"resources": {"subscribe": True}}, {"resources": {**CHANGES, "subscribe": True}}),
        ({"resources": 5}, {}, {"resources": {"listChanged": True, "subscribe": False}}),
        ({"completions": {}}, {"logging": {"x": 1}}, {"completions": {}, "logging": {}}),
        ({"experimental": {"x": {}}, "tasks": {}, "extensions": {"a/b": {}}}, {}, {}),
        ({"tools": None}, {}, {}),
    ],
)  # fmt: skip
def test_capabilities_are_the_union_of_what_we_can_carry(
    one: dict[str, Any], two: dict[str, Any], merged: dict[str, Any]
) -> None:
    assert told((ONE, offering("a", **one)), (TWO, offering("b", **two))) == merged


def test_a_server_of_which_the_caller_sees_nothing_adds_nothing() -> None:
    published = (ONE, offering("a", tools={})), (TWO, offering("b", tools={}, logging={}, completions={}))
    only_one = caller(Principal("key:g", "key", grants=("one__*",)))
    assert told(*published, asking=only_one) == {"tools": {"listChanged": True}}
    assert told(*published, asking=caller(NOBODY)) == {}


def test_on_its_own_endpoint_a_server_introduces_itself() -> None:
    made = catalogue((ONE, definition(tool("a"), server_info={"name": "upstream"}, instructions="Be kind.")))
    found = introduce(view(made, "one"), caller(endpoint="one"))
    assert (found.server_info, found.instructions) == ({"name": "upstream"}, "Be kind.")


def test_a_hidden_server_says_nothing_of_itself() -> None:
    made = catalogue((ONE, definition(tool("a"), server_info={"name": "upstream"}, instructions="Be kind.")))
    found = introduce(view(made, "one"), caller(NOBODY, "one"))
    assert (found.server_info, found.instructions, found.capabilities) == (OURS, None, {})


def test_on_the_federated_endpoint_the_gateway_introduces_itself_with_a_section_per_server() -> None:
    made = catalogue(
        (ONE, definition(tool("a"), server_info={"name": "upstream"}, instructions="Be kind.")),
        (TWO, definition(tool("b"), instructions="Be quick.")),
    )
    found = introduce(view(made), caller())
    assert found.server_info == OURS
    assert found.instructions == (
        "## one (names begin with one__)\nBe kind.\n\n## two (names begin with two__)\nBe quick."
    )
    only_two = introduce(view(made), caller(Principal("key:g", "key", grants=("two__*",))))
    assert only_two.instructions == "## two (names begin with two__)\nBe quick."


def test_no_instructions_are_none_and_not_an_empty_text() -> None:
    made = catalogue((ONE, definition(tool("a"))), (TWO, definition(tool("b"), instructions="")))
    assert introduce(view(made), caller()).instructions is None


def test_instructions_that_do_not_fit_are_left_out_whole() -> None:
    long = "x" * (INSTRUCTIONS_CHARACTERS - 100)
    made = catalogue((ONE, definition(instructions=long)), (TWO, definition(instructions="y" * 200)))
    found = introduce(view(made), caller()).instructions
    assert found is not None
    assert found.endswith(long)
    assert len(found) <= INSTRUCTIONS_CHARACTERS


# --- freshness


class Clocked:
    """A catalogue whose clock is the one that freshness is measured with."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock = FakeClock(1000.0)
        monkeypatch.setattr(federation, "time", self)

    def monotonic(self) -> float:
        """As `time.monotonic`."""
        return self.clock.now

    def view(self, *published: tuple[Server, Definition]) -> View:
        return view(catalogue(*published, clock=self.clock))


@pytest.fixture
def clocked(monkeypatch: pytest.MonkeyPatch) -> Clocked:
    return Clocked(monkeypatch)


def fresh(**ttl_ms: int) -> Definition:
    return definition(freshness={Kind[name]: Freshness(ttl, public=True) for name, ttl in ttl_ms.items()})


def test_a_list_is_as_fresh_as_the_stalest_of_its_parts_and_gets_staler(clocked: Clocked) -> None:
    found = clocked.view((ONE, fresh(TOOL=10_000, PROMPT=2_000)), (TWO, fresh(TOOL=8_000)))
    assert [remaining_ttl(found, kind) for kind in (Kind.TOOL, Kind.PROMPT, None)] == [8_000, 2_000, 2_000]
    clocked.clock.now += 5
    assert [remaining_ttl(found, kind) for kind in (Kind.TOOL, Kind.PROMPT, None)] == [3_000, 0, 0]
    clocked.clock.now += 500
    assert remaining_ttl(found, Kind.TOOL) == 0


def test_a_list_of_servers_that_name_no_ttl_is_kept_for_a_minute_and_no_ttl_makes_it_longer(clocked: Clocked) -> None:
    assert remaining_ttl(clocked.view((ONE, definition())), Kind.TOOL) == 60_000
    assert remaining_ttl(clocked.view((ONE, fresh(TOOL=3_600_000))), Kind.TOOL) == 60_000
    assert remaining_ttl(clocked.view(), None) == 60_000


def test_a_list_with_a_part_that_is_away_is_asked_for_again_soon(clocked: Clocked) -> None:
    made = catalogue((ONE, fresh(TOOL=60_000)), (TWO, fresh(TOOL=1_000)), clock=clocked.clock)
    made.publish(ONE, None)
    assert remaining_ttl(view(made), Kind.TOOL) == 1_000
    assert remaining_ttl(view(made, "one"), Kind.TOOL) == 5_000
    assert remaining_ttl(view(made, "two"), Kind.PROMPT) == 60_000


def hinted(**public: bool) -> Definition:
    hints = {Kind[name]: Freshness(1000, public=each) for name, each in public.items()}
    return definition(tool("a"), freshness=hints)


ANYBODY = caller(ANONYMOUS)


@pytest.mark.parametrize(
    ("one", "two", "kind", "is_shared"),
    [
        (hinted(TOOL=True), hinted(TOOL=True), Kind.TOOL, True),
        (hinted(TOOL=True), hinted(TOOL=False), Kind.TOOL, False),
        (hinted(TOOL=True), definition(), Kind.TOOL, True),
        (hinted(TOOL=True), definition(tool("b")), Kind.TOOL, False),
        (hinted(TOOL=True, PROMPT=False), definition(), Kind.TOOL, True),
        (hinted(TOOL=True, PROMPT=False), definition(), None, False),
        (hinted(TOOL=True, PROMPT=True), definition(), None, True),
    ],
)
def test_a_list_is_public_only_if_every_part_says_so(
    one: Definition, two: Definition, kind: Kind | None, is_shared: bool
) -> None:
    assert shared(view(catalogue((ONE, one), (TWO, two))), ANYBODY, kind) == is_shared


@pytest.mark.parametrize("asking", [caller(ALICE), caller(NOBODY), caller(Principal("x", "anonymous", grants=("a",)))])
def test_what_was_made_for_somebody_is_never_public(asking: Caller) -> None:
    assert not shared(view(catalogue((ONE, hinted(TOOL=True)))), asking, Kind.TOOL)


def test_nothing_is_public_of_an_endpoint_without_servers() -> None:
    assert not shared(view(catalogue()), ANYBODY, None)
