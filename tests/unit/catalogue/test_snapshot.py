"""Which names exist on which endpoint, and what they stand for."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalogue.live import Catalogue
from catalogue.model import Definition, Facts, Kind, Server
from catalogue.snapshot import View
from tests.support.calls import ONE, TWO, catalogue, definition, tool


def view(made: Catalogue, endpoint: str = "") -> View:
    found = made.current.view(endpoint)
    assert found is not None
    return found


def names(of: View, kind: Kind = Kind.TOOL) -> list[str]:
    return [item.exposed_name for item in of.items[kind]]


def resource(uri: str) -> dict[str, Any]:
    return {"uri": uri, "name": uri}


def template(uri: str) -> dict[str, Any]:
    return {"uriTemplate": uri, "name": uri}


def app_tool(name: str, *visibility: str, **meta: Any) -> dict[str, Any]:
    ui: dict[str, Any] = {"resourceUri": "ui://app"}
    if visibility:
        ui["visibility"] = list(visibility)
    return tool(name, _meta={"ui": ui, "ui/resourceUri": "ui://app", **meta})


FULL = definition(
    tool("echo"),
    tool("add"),
    prompts=[{"name": "ask"}],
    resources=[resource("file:///a"), resource("ui://app"), resource("https://example.com/a")],
    templates=[template("file:///{path}")],
)


def test_a_name_is_prefixed_on_the_federated_endpoint_and_its_own_on_the_servers() -> None:
    made = catalogue((ONE, FULL))
    assert names(view(made)) == ["one__echo", "one__add"]
    assert names(view(made, "one")) == ["echo", "add"]
    assert names(view(made), Kind.PROMPT) == ["one__ask"]
    assert names(view(made), Kind.RESOURCE) == ["one+file:///a", "ui://app", "https://example.com/a"]
    assert names(view(made), Kind.TEMPLATE) == ["one+file:///{path}"]
    for kind in Kind:
        assert [item.raw[kind.key] for item in view(made).items[kind]] == names(view(made), kind)


def test_items_stand_in_the_order_of_the_servers_and_of_their_own_lists() -> None:
    first = definition(tool("z"), tool("a"))
    assert names(view(catalogue((TWO, first), (ONE, first)))) == ["two__z", "two__a", "one__z", "one__a"]


def test_the_order_does_not_depend_on_who_publishes_first() -> None:
    made = Catalogue([ONE, TWO], lambda: 0.0)
    made.publish(TWO, definition(tool("t")))
    made.publish(ONE, definition(tool("o")))
    assert names(view(made)) == ["one__o", "two__t"]


@pytest.mark.parametrize("uri", ["https://example.com/a", "http://example.com/a", "ui://app/main"])
def test_a_uri_of_two_servers_that_keeps_its_form_is_served_by_neither(uri: str) -> None:
    made = catalogue((ONE, definition(resources=[resource(uri)])), (TWO, definition(resources=[resource(uri)])))
    federated = view(made)
    assert names(federated, Kind.RESOURCE) == []
    assert federated.resource(uri) is None
    assert federated.findings == (f"{uri}: offered by one and two; served by neither",)
    own = view(made, "two").resource(uri)
    assert own is not None
    assert own[0] is TWO


def test_a_third_owner_does_not_bring_the_uri_back() -> None:
    three = Server("three", "1", "http://three.test/mcp")
    shared = definition(resources=[resource("https://example.com/a"), resource("https://example.com/b")])
    made = catalogue((ONE, shared), (TWO, shared), (three, definition(resources=[resource("https://example.com/a")])))
    assert view(made).resource("https://example.com/a") is None
    assert len(view(made).findings) == 3


def test_prefixed_uris_of_two_servers_never_meet() -> None:
    made = catalogue((ONE, FULL), (TWO, definition(resources=[resource("file:///a")])))
    assert "one+file:///a" in names(view(made), Kind.RESOURCE)
    assert "two+file:///a" in names(view(made), Kind.RESOURCE)
    assert view(made).findings == ()


def test_a_tool_for_its_apps_alone_is_not_on_the_federated_endpoint() -> None:
    made = catalogue((ONE, definition(app_tool("hidden", "app"), app_tool("shown", "model", "app"), app_tool("usual"))))
    assert names(view(made)) == ["one__shown", "one__usual"]
    assert view(made).tool("one__hidden") is None
    assert names(view(made, "one")) == ["hidden", "shown", "usual"]


def test_the_federated_endpoint_offers_no_app_and_the_servers_own_does() -> None:
    made = catalogue((ONE, definition(app_tool("shown", other=1))))
    assert view(made).items[Kind.TOOL][0].raw["_meta"] == {"other": 1}
    assert set(view(made, "one").items[Kind.TOOL][0].raw["_meta"]) == {"ui", "ui/resourceUri", "other"}


@pytest.mark.parametrize("meta", [None, 5, [], {"ui": None}, {"ui": 5}, {"ui": {"visibility": "app"}}])
def test_odd_metadata_hides_nothing(meta: Any) -> None:
    assert names(view(catalogue((ONE, definition(tool("t", _meta=meta)))))) == ["one__t"]


def test_the_first_version_of_a_slug_is_the_one_that_is_federated() -> None:
    second = Server("one", "2", "http://one.test/mcp")
    made = catalogue((ONE, definition(tool("old"))), (second, definition(tool("new"))))
    assert names(view(made)) == ["one__old"]
    assert names(view(made, "one")) == names(view(made, "one@1")) == ["old"]
    assert names(view(made, "one@2")) == ["new"]


def test_views_of_two_versions_can_be_told_apart() -> None:
    second = Server("one", "2", "http://one.test/mcp")
    made = catalogue((ONE, FULL), (second, FULL))
    assert view(made, "one@1").endpoint != view(made, "one@2").endpoint
    assert view(made, "one").endpoint == view(made, "one@1").endpoint


def test_a_server_that_has_published_nothing_has_an_empty_endpoint() -> None:
    made = Catalogue([ONE, TWO], lambda: 0.0)
    made.publish(TWO, FULL)
    assert names(view(made, "one")) == []
    assert view(made, "one").resource("file:///a") is None
    assert names(view(made)) == ["two__echo", "two__add"]


def test_no_other_endpoint_exists() -> None:
    made = catalogue((ONE, FULL))
    assert [made.current.view(name) for name in ("nobody", "one@2", "ONE", "one@")] == [None] * 4


@pytest.mark.parametrize(
    ("uri", "found"),
    [
        ("one+file:///a", (ONE, "file:///a", True)),
        ("one+file:///never-listed", (ONE, "file:///never-listed", False)),
        ("two+x:", (TWO, "x:", False)),
        ("one+file:///{path}", (ONE, "file:///{path}", True)),
        ("ui://app", (ONE, "ui://app", True)),
        ("ui://never-listed", None),
        ("https://example.com/never-listed", None),
        ("git+ssh://host", None),
        ("file:///a", None),
        ("", None),
    ],
)
def test_a_uri_leads_to_the_server_that_answers_for_it(uri: str, found: tuple[Server, str, bool] | None) -> None:
    answered = view(catalogue((ONE, FULL), (TWO, definition()))).resource(uri)
    assert (answered and (answered[0], answered[2], answered[1] is not None)) == found


def test_on_a_servers_own_endpoint_every_uri_is_its_own() -> None:
    answered = view(catalogue((ONE, FULL)), "one").resource("one+file:///a")
    assert answered == (ONE, None, "one+file:///a")


def test_the_operators_facts_go_to_the_tool_of_that_name_and_to_nothing_else() -> None:
    facts = Facts(scopes=frozenset({"write"}))
    stated = Server("one", "1", "http://one.test/mcp", facts={"echo": facts, "ask": facts})
    made = catalogue((stated, FULL))
    for endpoint in ("", "one"):
        echo, add = view(made, endpoint).items[Kind.TOOL]
        assert (echo.facts, add.facts) == (facts, Facts())
        assert view(made, endpoint).items[Kind.PROMPT][0].facts == Facts()


def test_arguments_that_travel_in_headers_are_known_on_both_endpoints() -> None:
    schema = {"type": "object", "properties": {"region": {"type": "string", "x-mcp-header": "Region"}}}
    made = catalogue((ONE, definition({"name": "t", "inputSchema": schema})))
    for endpoint in ("", "one"):
        assert view(made, endpoint).items[Kind.TOOL][0].header_map == {("region",): "Region"}


LISTED = st.lists(st.text("ab_-é.", min_size=1, max_size=5) | st.text("a", min_size=60, max_size=70), unique=True)


@given(LISTED, LISTED)
def test_every_listed_tool_can_be_found_again_under_its_exposed_name(of_one: list[str], of_two: list[str]) -> None:
    offered: dict[Server, Definition] = {
        ONE: definition(*map(tool, of_one)),
        TWO: definition(*map(tool, of_two)),
    }
    federated = view(catalogue(*offered.items()))
    assert len(federated.items[Kind.TOOL]) == len(of_one) + len(of_two)
    for listed in federated.items[Kind.TOOL]:
        assert federated.tool(listed.exposed_name) is listed
        assert listed.upstream_name in (of_one if listed.server is ONE else of_two)
        assert listed.raw["name"] == listed.exposed_name
