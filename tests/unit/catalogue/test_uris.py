"""URIs of many upstreams behind one endpoint."""

import copy
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalogue.uris import expose, rewrite_result, split

QUICK = settings(deadline=None, max_examples=100)

slugs = st.text("abc019", min_size=1, max_size=12)
# A template: literals and simple expressions in any order, also an expression at the very start.
templates = st.lists(
    st.sampled_from(["file:///", "{x}", "{+x}", "a+b:", "/", "mem://", "{scheme}://", "\n", "\u00e9"])
).map("".join)


def expand(template: str, value: str) -> str:
    return re.sub(r"\{\+?\w+\}", lambda _: value, template)


@QUICK
@given(slugs, st.text(max_size=30))
def test_an_exposed_uri_is_taken_apart_again(slug: str, uri: str) -> None:
    exposed = expose(slug, uri)
    assert exposed == uri or split(exposed) == (slug, uri)


@QUICK
@given(slugs, templates, st.text("abc+:/", max_size=6))
def test_expanding_and_exposing_may_be_done_in_either_order(slug: str, template: str, value: str) -> None:
    expanded = expand(template, value)
    exposed = expand(expose(slug, template), value)
    assert exposed == expose(slug, expanded) or split(exposed) == (slug, expanded)


@pytest.mark.parametrize("uri", ["ui://app/x", "http://a/b", "https://a/b?c+d", "HTTPS://A", "https://{host}/{+path}"])
def test_what_clients_fetch_or_hosts_render_stays(uri: str) -> None:
    assert expose("gh", uri) == uri
    assert split(uri) is None


@pytest.mark.parametrize(
    "uri", ["file:///x", "{+path}", "uix://a", "https:x", "git+ssh://x", "gh+file:///x", "", "a\nb"]
)
def test_everything_else_is_prefixed(uri: str) -> None:
    assert expose("gh", uri) == f"gh+{uri}"
    assert split(f"gh+{uri}") == ("gh", uri)


@pytest.mark.parametrize("uri", ["file:///a+b", "GH+file:///x", "toolongforaslug+file:///x", "+x", "", "a_b+c:x"])
def test_uris_without_a_prefix_are_told_apart(uri: str) -> None:
    assert split(uri) is None


LINK = {"type": "resource_link", "uri": "file:///a", "name": "a", "extra": 1}
EMBEDDED = {"type": "resource", "resource": {"uri": "mem://b", "text": "file:///a", "extra": 1}, "annotations": {}}
LINK_EXPOSED = {**LINK, "uri": "gh+file:///a"}
EMBEDDED_EXPOSED = {**EMBEDDED, "resource": {"uri": "gh+mem://b", "text": "file:///a", "extra": 1}}
TEXT = {"type": "text", "text": "file:///a", "uri": "file:///a", "resource": {"uri": "file:///a"}}
SAMPLING = {
    "messages": [{"role": "user", "content": [{"type": "tool_result", "toolUseId": "1", "content": [TEXT, LINK]}]}]
}
SAMPLING_EXPOSED = {
    "messages": [
        {"role": "user", "content": [{"type": "tool_result", "toolUseId": "1", "content": [TEXT, LINK_EXPOSED]}]}
    ]
}


@pytest.mark.parametrize(
    ("result", "exposed"),
    [
        ({"content": [TEXT, LINK, EMBEDDED]}, {"content": [TEXT, LINK_EXPOSED, EMBEDDED_EXPOSED]}),
        ({"messages": [{"role": "user", "content": LINK}]}, {"messages": [{"role": "user", "content": LINK_EXPOSED}]}),
        ({"messages": [{"content": [EMBEDDED]}, 1]}, {"messages": [{"content": [EMBEDDED_EXPOSED]}, 1]}),
        (
            {"contents": [{"uri": "file:///a"}, {"uri": "ui://a"}]},
            {"contents": [{"uri": "gh+file:///a"}, {"uri": "ui://a"}]},
        ),
        ({"taskId": "1", "result": {"content": [LINK]}}, {"taskId": "1", "result": {"content": [LINK_EXPOSED]}}),
        (
            {"inputRequests": {"k": {"method": "sampling/createMessage", "params": SAMPLING}, "l": {"params": {}}}},
            {
                "inputRequests": {
                    "k": {"method": "sampling/createMessage", "params": SAMPLING_EXPOSED},
                    "l": {"params": {}},
                }
            },
        ),
        (SAMPLING, SAMPLING_EXPOSED),
    ],
)
def test_the_uris_of_a_result_are_exposed_in_a_copy(result: dict[str, Any], exposed: dict[str, Any]) -> None:
    before = copy.deepcopy(result)
    assert rewrite_result(result, "gh") == (exposed, True)
    assert result == before


@pytest.mark.parametrize(
    "result",
    [
        {},
        {"content": []},
        {"content": [TEXT, {"type": "image", "data": ""}], "structuredContent": {"uri": "file:///a"}},
        {"content": [{"type": "resource_link", "uri": "https://a", "name": "a"}]},
        {"contents": [{"uri": "ui://a"}]},
        # Nothing an upstream may send in the wrong shape stops the walk.
        {"content": None, "messages": 1, "contents": "x", "inputRequests": [1], "result": []},
        {"content": [None, 1, [], {"type": []}, {"type": "resource"}, {"type": "resource", "resource": 1}]},
        {"content": [{"type": "resource_link"}, {"type": "resource_link", "uri": 1}, {"type": "tool_result"}]},
        {"messages": [None, {}, {"content": None}], "contents": [None, {}, {"uri": None}]},
        {"inputRequests": {"a": None, "b": {}, "c": {"params": None}}},
    ],
)
def test_a_result_without_uris_to_expose_is_the_same_object(result: dict[str, Any]) -> None:
    same, changed = rewrite_result(result, "gh")
    assert same is result
    assert not changed


@pytest.mark.parametrize("value", [None, 1, "file:///a", [LINK]])
def test_other_json_values_pass(value: Any) -> None:
    assert rewrite_result(value, "gh") == (value, False)


def test_deep_nesting_does_not_exhaust_the_stack() -> None:
    blocks: Any = [LINK]
    result: Any = {"content": [LINK]}
    requests: Any = {}
    for _ in range(5000):
        blocks = [{"type": "tool_result", "content": blocks}]
        result = {"result": result}
        requests = {"inputRequests": {"k": {"params": requests}}}
    for value in ({"content": blocks}, result, requests):
        assert rewrite_result(value, "gh")[1] is False
    rewritten, _ = rewrite_result({"content": [{"type": "tool_result", "content": [LINK, blocks[0]]}]}, "gh")
    assert rewritten["content"][0]["content"][0] == LINK_EXPOSED
