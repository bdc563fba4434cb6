"""The values of the request path: frozen, and answers that stay the bytes they were."""

from __future__ import annotations

import dataclasses
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway import calls, jsonrpc
from gateway.calls import FIRST_ROUND, Answer, Call, Caller, Message, MessageKind, Method, Principal, Round
from tests.support.calls import LEGACY, MODERN, call, caller


@pytest.mark.parametrize(
    ("value", "field"),
    [
        (Principal("a", "key"), "grants"),
        (caller(), "principal"),
        (call(), "params"),
        (Round(), "number"),
        (Message(MessageKind.RESULT, "", Answer({})), "answer"),
    ],
)
def test_what_travels_the_path_cannot_be_changed_on_the_way(value: Any, field: str) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(value, field, None)
    with pytest.raises((dataclasses.FrozenInstanceError, AttributeError, TypeError)):
        value.unheard_of = 1


def test_every_dataclass_of_the_path_is_frozen() -> None:
    found = [each for each in vars(calls).values() if isinstance(each, type) and dataclasses.is_dataclass(each)]
    assert {Call, Caller, Principal, Round, Message} <= set(found)
    assert all(each.__dataclass_params__.frozen for each in found)  # type: ignore[attr-defined]


def test_a_principal_may_do_nothing_beyond_its_scopes_by_default_and_see_everything() -> None:
    assert (Principal("a", "key").scopes, Principal("a", "key").grants) == (frozenset(), ("*",))


def test_a_caller_without_a_holder_is_of_the_stateless_era() -> None:
    assert caller(revision=MODERN).modern
    assert not caller(revision=LEGACY).modern


def test_a_call_is_federated_on_the_endpoint_without_a_name() -> None:
    assert call(caller(endpoint="")).federated
    assert not call(caller(endpoint="one")).federated


def test_a_call_begins_in_its_first_round() -> None:
    assert call().round is FIRST_ROUND
    assert (FIRST_ROUND.number, FIRST_ROUND.inner, FIRST_ROUND.input_responses) == (1, None, None)


def test_methods_are_those_of_the_protocol() -> None:
    assert {method.value for method in Method} == {
        "tools/call",
        "prompts/get",
        "resources/read",
        "completion/complete",
        "resources/subscribe",
        "resources/unsubscribe",
        "subscriptions/listen",
    }


def test_our_own_metadata_is_under_one_prefix() -> None:
    for key in (calls.RECORD_META_KEY, calls.DENIAL_META_KEY):
        assert key.startswith(calls.OUR_META_PREFIX)


def test_an_answer_that_nobody_changes_is_the_bytes_that_came() -> None:
    raw = b'{ "a" : 1.50, "big":12345678901234567890123 }'
    answer = Answer(orjson.loads(raw), raw)
    assert answer.raw is raw
    assert answer.exact() == {"a": 1.5, "big": 12345678901234567890123}


def test_an_answer_made_here_is_written_when_it_is_asked_for() -> None:
    answer = Answer({"a": 2**70})
    assert answer.raw == b'{"a":1180591620717411303424}'
    assert answer.raw is answer.raw


def test_a_rewritten_answer_is_another_and_the_first_stays() -> None:
    raw = b'{"keep":12345678901234567890123,"change":1}'
    first = Answer(orjson.loads(raw), raw)
    second = first.rewritten(lambda value: {**value, "change": 2})
    assert second.raw == b'{"keep":12345678901234567890123,"change":2}'
    assert (first.raw, first.value["change"]) == (raw, 1)


def test_changing_the_exact_copy_changes_nothing_else() -> None:
    first = Answer({"a": {"b": 1}})
    first.exact()["a"]["b"] = 2
    assert first.exact() == {"a": {"b": 1}}


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**90), 2**90) | st.text(max_size=4) | st.just("\ud800"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None, max_examples=60)
@given(st.dictionaries(st.text(max_size=4), VALUES, max_size=4))
def test_an_exact_copy_of_any_answer_is_equal_and_can_be_written_again(value: dict[str, Any]) -> None:
    answer = Answer(value)
    assert answer.exact() == value
    assert jsonrpc.loads_exact(answer.rewritten(lambda copy: copy).raw) == value


def test_ids_are_never_given_twice_and_fit_where_ids_go() -> None:
    ids = [calls.new_id() for _ in range(10_000)]
    assert len(set(ids)) == len(ids)
    assert all(each.isalnum() and each.isascii() and len(each) >= 32 for each in ids)
