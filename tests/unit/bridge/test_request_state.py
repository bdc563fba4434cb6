"""Rounds of one call: a state belongs to its call and to nobody else, and the upstream gets its own back."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalogue.model import Server
from gateway.bridge.request_state import LIFETIME_SECONDS, RequestStates, Resumed
from gateway.calls import Call, Caller, Method, Round
from gateway.errors import InvalidParams
from gateway.keys import KeyRing
from tests.support.calls import ALICE, BOB, ONE, TWO, FakeClock, MemoryOutlet, call, caller, definition, item, tool
from tests.support.worlds import RING, World

PARAMS = {"name": "one__echo", "arguments": {"b": [1, {"y": 1, "x": 2**70}], "a": "é"}}
OUTLET = MemoryOutlet()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def states(clock: FakeClock) -> RequestStates:
    return RequestStates(RING, clock=clock)


def test_a_state_says_which_call_goes_on_in_which_round_with_which_state_of_the_upstream(states: RequestStates) -> None:
    for number, inner in ((1, "theirs"), (2, None), (7, ""), (3, "\ud800\u2028")):
        of = call(round=Round(number))
        assert states.open(of, PARAMS, states.seal(of, PARAMS, inner)) == Resumed("call-1", number + 1, inner)


def test_the_answers_and_the_state_itself_are_not_part_of_what_it_is_bound_to(states: RequestStates) -> None:
    sealed = states.seal(call(), PARAMS, None)
    retry = {**PARAMS, "requestState": sealed, "inputResponses": {"a": 1}, "_meta": {"progressToken": 2}}
    assert states.open(call(id="another"), retry, sealed).call_id == "call-1"


def test_the_order_of_members_does_not_matter_and_of_items_it_does(states: RequestStates) -> None:
    sealed = states.seal(call(), PARAMS, None)
    turned = {"arguments": {"a": "é", "b": [1, {"x": 2**70, "y": 1}]}, "name": "one__echo"}
    assert states.open(call(), turned, sealed)
    with pytest.raises(InvalidParams):
        states.open(call(), {**PARAMS, "arguments": {"b": [{"y": 1, "x": 2**70}, 1], "a": "é"}}, sealed)


def changed_caller(**fields: Any) -> Call:
    return call(dataclasses.replace(caller(), **fields))


OTHERS: list[tuple[str, Call, dict[str, Any]]] = [
    ("principal", changed_caller(principal=BOB), PARAMS),
    ("endpoint", changed_caller(endpoint="one"), PARAMS),
    ("server", call(of=item(server=TWO)), PARAMS),
    ("version", call(of=item(server=Server("one", "2", ONE.url))), PARAMS),
    ("method", call(method=Method.PROMPTS_GET, of=item()), PARAMS),
    ("name", call(), {**PARAMS, "name": "one__other"}),
    ("arguments", call(), {**PARAMS, "arguments": {}}),
    ("no arguments", call(), {"name": "one__echo"}),
    ("a large integer", call(), {**PARAMS, "arguments": {"b": [1, {"y": 1, "x": 2**70 + 1}], "a": "é"}}),
    ("another parameter", call(), {**PARAMS, "task": {}}),
    ("number and text", call(), {**PARAMS, "arguments": {"b": ["1", {"y": 1, "x": 2**70}], "a": "é"}}),
]


@pytest.mark.parametrize(("of", "params"), [other[1:] for other in OTHERS], ids=[other[0] for other in OTHERS])
def test_a_state_is_of_no_use_for_anything_else(states: RequestStates, of: Call, params: dict[str, Any]) -> None:
    sealed = states.seal(call(), PARAMS, "theirs")
    with pytest.raises(InvalidParams, match=r"^requestState: not valid"):
        states.open(of, params, sealed)


def test_a_state_lives_as_long_as_a_person_may_take(states: RequestStates, clock: FakeClock) -> None:
    sealed = states.seal(call(), PARAMS, None)
    clock.now += LIFETIME_SECONDS
    assert states.open(call(), PARAMS, sealed)
    clock.now += 1
    with pytest.raises(InvalidParams, match=r"^requestState: too old"):
        states.open(call(), PARAMS, sealed)


@pytest.mark.parametrize("token", [None, 5, True, [], {}, "", "x", "é", "\ud800", "A" * 80, RING.seal("cursor", b"[]")])
def test_what_is_no_state_of_ours_is_a_wrong_parameter(states: RequestStates, token: Any) -> None:
    with pytest.raises(InvalidParams, match=r"^requestState: "):
        states.open(call(), PARAMS, token)


def test_a_state_is_good_on_every_replica_of_the_same_keys_and_on_no_other(states: RequestStates) -> None:
    sealed = states.seal(call(), PARAMS, None)
    with pytest.raises(InvalidParams):
        RequestStates(KeyRing.parse(KeyRing.generate())).open(call(), PARAMS, sealed)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**80), 2**80)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None, max_examples=60)
@given(st.dictionaries(st.text(max_size=4), VALUES, max_size=3), st.dictionaries(st.text(max_size=4), VALUES))
def test_a_state_opens_with_equal_arguments_and_with_no_others(one: dict[str, Any], other: dict[str, Any]) -> None:
    states = RequestStates(RING)
    sealed = states.seal(call(), {"arguments": one}, None)
    assert states.open(call(), {"arguments": copy.deepcopy(one)}, sealed)
    if one != other:
        with pytest.raises(InvalidParams):
            states.open(call(), {"arguments": other}, sealed)


# --- through dispatch

ASKING = {"resultType": "input_required", "requestState": "theirs", "inputRequests": {"q": {"method": "roots/list"}}}


@pytest.fixture
def world() -> World:
    return World((ONE, definition(tool("echo"))))


async def ask(world: World, asking: Caller | None = None, **more: Any) -> dict[str, Any]:
    found = await world.dispatch.call_tool(asking or caller(), {**PARAMS, **more}, OUTLET)
    decoded: dict[str, Any] = orjson.loads(found)
    return decoded


async def test_a_question_goes_to_the_client_under_a_state_of_ours(world: World) -> None:
    world.answers(ASKING)
    result = await ask(world)
    assert result["resultType"] == "input_required"
    assert result["inputRequests"] == ASKING["inputRequests"]
    assert "theirs" not in result["requestState"]
    assert world.recorder.lines[-1][2] == "input_required"


async def test_the_answer_goes_on_with_the_call_and_the_upstream_gets_its_own_state_back(world: World) -> None:
    world.answers(ASKING)
    first = await ask(world)
    second = await ask(world, requestState=first["requestState"], inputResponses={"q": {"roots": []}})
    await ask(world, requestState=second["requestState"])
    rounds = [permit.call.round for permit in world.pool.permits]
    assert rounds == [Round(), Round(2, "theirs", {"q": {"roots": []}}), Round(3, "theirs", None)]
    assert len({permit.call.id for permit in world.pool.permits}) == 1


async def test_an_upstream_without_a_state_of_its_own_gets_none_back(world: World) -> None:
    world.answers({**ASKING, "requestState": None})
    first = await ask(world)
    await ask(world, requestState=first["requestState"], inputResponses={})
    assert world.pool.permits[1].call.round == Round(2, None, {})


async def test_a_client_that_repeats_its_answer_is_in_the_same_round_again(world: World) -> None:
    world.answers(ASKING)
    first = await ask(world)
    for _ in range(3):
        await ask(world, requestState=first["requestState"])
    assert [permit.call.round.number for permit in world.pool.permits] == [1, 2, 2, 2]


async def test_nobody_else_can_answer_for_a_principal(world: World) -> None:
    world.answers(ASKING)
    first = await ask(world, caller(ALICE))
    with pytest.raises(InvalidParams):
        await ask(world, caller(BOB), requestState=first["requestState"])
    assert len(world.pool.permits) == 1


async def test_an_answer_without_a_state_is_a_call_in_its_first_round(world: World) -> None:
    world.answers(ASKING)
    await ask(world, inputResponses={"q": {"roots": []}})
    assert world.pool.permits[0].call.round == Round(1, None, {"q": {"roots": []}})


async def test_a_later_round_is_decided_anew(world: World) -> None:
    world.answers(ASKING)
    first = await ask(world)
    narrowed = caller(dataclasses.replace(ALICE, grants=("one__nothing",)))
    with pytest.raises(Exception, match="Unknown tool"):
        await ask(world, narrowed, requestState=first["requestState"])
    assert len(world.pool.permits) == 1
