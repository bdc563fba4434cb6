"""The one predicate: grants decide what exists, scopes what may be called."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalogue.model import NO_FACTS, Facts, Item, Kind
from gateway.calls import Method, Principal
from gateway.errors import NeedsScope, UnknownName, UnknownResource
from gateway.policy import authorization
from gateway.policy.authorization import CALLABLE, HIDDEN, Authorization, absent, permits, visible
from gateway.policy.decision import ALLOW, Deny
from tests.support.calls import ALICE, NOBODY, ONE, TWO, call, caller, item

WRITE = Facts(scopes=frozenset({"issues.write", "issues.read"}))
READER = frozenset({"issues.read"})
BOTH = frozenset({"issues.read", "issues.write", "more"})


def principal(*grants: str, scopes: frozenset[str] = frozenset()) -> Principal:
    return Principal("key:p", "key", scopes, grants)


@pytest.mark.parametrize(
    ("grants", "is_there"),
    [
        (("*",), True),
        ((), False),
        (("one__*",), True),
        (("one__echo",), True),
        (("one__ech?",), True),
        (("one__[de]cho",), True),
        (("one__[!e]cho",), False),
        (("two__*",), False),
        (("two__*", "one__echo"), True),
        (("echo",), False),
        (("ONE__*",), False),
        (("one__ech",), False),
        (("one__echo\n",), False),
        (("ne__echo",), False),
        (("one__*", "*"), True),
        (("",), False),
        (("one.*",), False),
    ],
)
@pytest.mark.parametrize(
    ("facts", "scopes", "access"),
    [
        (NO_FACTS, frozenset(), CALLABLE),
        (NO_FACTS, BOTH, CALLABLE),
        (WRITE, frozenset(), authorization.NeedsScope(frozenset({"issues.read", "issues.write"}))),
        (WRITE, READER, authorization.NeedsScope(frozenset({"issues.write"}))),
        (WRITE, BOTH, CALLABLE),
    ],
)
def test_grants_decide_what_exists_and_scopes_only_what_may_be_called(
    grants: tuple[str, ...], is_there: bool, facts: Facts, scopes: frozenset[str], access: authorization.Access
) -> None:
    found = permits(principal(*grants, scopes=scopes), ONE, item(facts=facts), "echo")
    assert found == (access if is_there else HIDDEN)


@pytest.mark.parametrize(
    ("grant", "is_there"),
    [("one__file:///pub/*", True), ("one__file:///*", True), ("one__http*", False), ("one+file:///pub/*", False)],
)
def test_a_uri_is_granted_by_the_upstreams_own_form_of_it(grant: str, is_there: bool) -> None:
    found = permits(principal(grant), ONE, None, "file:///pub/a")
    assert found == (CALLABLE if is_there else HIDDEN)


def test_a_grant_for_one_server_never_reaches_another_with_the_same_names() -> None:
    assert permits(principal("one__*"), TWO, item(server=TWO), "echo") == HIDDEN


NAMES = st.text("abc_[]*?!-", min_size=1, max_size=6)
GRANTS = st.lists(st.sampled_from(["one__", "two__", "*", ""]).flatmap(lambda head: NAMES.map(lambda t: head + t)))


@given(GRANTS, st.lists(NAMES, unique=True), st.booleans())
def test_what_is_listed_is_what_may_at_least_be_asked_for(grants: list[str], names: list[str], scoped: bool) -> None:
    who = principal(*grants)
    items = [item(name=name, facts=WRITE if scoped else NO_FACTS) for name in names]
    mask = visible(who, items)
    for position, each in enumerate(items):
        assert bool(mask >> position & 1) == (permits(who, ONE, each, each.upstream_name) != HIDDEN)
    assert mask >> len(items) == 0


@given(st.integers(0, 200))
def test_everything_is_visible_to_a_principal_with_every_grant(count: int) -> None:
    items = [item(name=str(number)) for number in range(count)]
    assert visible(ALICE, items) == visible(principal("*", "x"), items) == (1 << count) - 1


LISTED = [(Kind.TOOL, Method.TOOLS_CALL), (Kind.PROMPT, Method.PROMPTS_GET), (Kind.RESOURCE, Method.RESOURCES_READ)]


@pytest.mark.parametrize(("kind", "method"), LISTED)
async def test_a_hidden_item_is_denied_as_what_an_absent_one_is_answered(kind: Kind, method: Method) -> None:
    asked = call(caller(NOBODY), method, of=item(kind))
    decision = await Authorization().on_request(asked)
    assert isinstance(decision, Deny)
    assert decision.reason == "hidden"
    expected = absent(asked.item, asked.exposed_name)
    assert type(decision.answered_as) is type(expected)
    assert str(decision.answered_as) == str(expected) == decision.sentence


@pytest.mark.parametrize(
    ("listed", "error", "text"),
    [
        (item(), UnknownName, "Unknown tool"),
        (item(Kind.PROMPT), UnknownName, "Unknown prompt"),
        (item(Kind.RESOURCE), UnknownResource, "Resource not found"),
        (item(Kind.TEMPLATE), UnknownResource, "Resource not found"),
        (None, UnknownResource, "Resource not found"),
    ],
)
def test_absence_has_one_answer_for_each_kind(listed: Item | None, error: type[Exception], text: str) -> None:
    found = absent(listed, "one+file:///a")
    assert type(found) is error
    assert str(found) == text


async def test_a_missing_scope_is_denied_with_all_that_are_missing() -> None:
    decision = await Authorization().on_request(call(of=item(facts=WRITE)))
    assert isinstance(decision, Deny)
    assert decision.reason == "needs_scope"
    assert isinstance(decision.answered_as, NeedsScope)
    assert decision.answered_as.missing == ("issues.read", "issues.write")


async def test_what_is_granted_is_allowed() -> None:
    assert await Authorization().on_request(call()) is ALLOW


@pytest.mark.parametrize(("uri", "is_there"), [("file:///pub/a", True), ("file:///etc/passwd", False)])
async def test_a_uri_that_nothing_lists_is_decided_by_itself(uri: str, is_there: bool) -> None:
    who = caller(principal("one__file:///pub/*"))
    for method, params in (
        (Method.RESOURCES_READ, {"uri": uri}),
        (Method.SUBSCRIBE, {"uri": uri}),
        (Method.COMPLETE, {"ref": {"type": "ref/resource", "uri": uri}, "argument": {"name": "a", "value": ""}}),
    ):
        decision = await Authorization().on_request(call(who, method, params))
        assert (decision is ALLOW) == is_there, method
