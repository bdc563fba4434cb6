"""The laws of a stage, held by every stage of the product: total, pure, repeatable, with reasons from a closed list."""

from __future__ import annotations

import copy
import dataclasses
import inspect
from collections.abc import Iterator
from enum import StrEnum
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalogue.model import Facts, Item, Kind, Server
from gateway.calls import Answer, Call, Message, MessageKind, Method, Principal
from gateway.policy import authorization, standard
from gateway.policy.decision import Allow, Deny, Rewrite
from gateway.policy.pipeline import Pipeline
from gateway.policy.stage import RequestStage, ResultStage
from tests.support.calls import LEGACY, MODERN, MemoryRecorder, call, caller, item

PIPELINE: Pipeline = standard.standard(MemoryRecorder())
REASONS: dict[str, type[StrEnum]] = {"authorization": authorization.AuthorizationReason}
"""The closed list of each stage that may deny; a stage that is not named here may not."""
STAGES = [*PIPELINE.request_stages, *PIPELINE.result_stages]
QUICK = settings(deadline=None, max_examples=60)

TEXTS = st.sampled_from(["x", "\ud800", "file:///a", "ui://x", "https://x", "one+file:///a", "\0", ""])
VALUES = (
    st.none()
    | st.booleans()
    | st.just(2**70)
    | TEXTS
    | st.lists(TEXTS, max_size=2)
    | st.just({"content": [{"uri": "a:"}]})
)
BLOCKS = st.fixed_dictionaries(
    {"type": st.sampled_from(["resource_link", "resource", "tool_result", "text"]) | VALUES},
    optional={"uri": TEXTS | VALUES, "resource": VALUES, "content": VALUES},
)
MEMBERS = ["content", "contents", "messages", "inputRequests", "result", "logger", "message", "uri", "level"]
OBJECTS = st.dictionaries(st.sampled_from(MEMBERS) | TEXTS, st.lists(BLOCKS, max_size=2) | BLOCKS | VALUES, max_size=4)
MESSAGES = st.builds(
    lambda kind, method, value, upstream_id: Message(kind, method, Answer(value), upstream_id, "one@1"),
    st.sampled_from(list(MessageKind)),
    st.sampled_from(["notifications/message", "elicitation/create", "sampling/createMessage", ""]) | TEXTS,
    OBJECTS,
    st.none() | st.integers() | TEXTS,
)
SERVERS = st.builds(Server, st.sampled_from(["one", "two"]), st.just("1"), st.just("http://one.test/mcp"))
SCOPES = st.frozensets(st.sampled_from(["read", "write", "é"]))
PRINCIPALS = st.builds(
    Principal,
    st.just("key:a"),
    st.just("key"),
    SCOPES,
    st.lists(st.sampled_from(["*", "one__*", "one__", "[", "[!", "**", ""]) | TEXTS, max_size=3).map(tuple),
)


@st.composite
def calls(draw: st.DrawFn) -> Call:
    server = draw(SERVERS)
    kind, facts = draw(st.sampled_from(list(Kind))), Facts(scopes=draw(SCOPES))
    listed: Item | None = item(kind, draw(TEXTS), server, facts) if draw(st.booleans()) else None
    who = caller(draw(PRINCIPALS), draw(st.sampled_from(["", "one"])), draw(st.sampled_from([MODERN, LEGACY])))
    method = draw(st.sampled_from(list(Method)))
    made = call(who, method, draw(OBJECTS), of=listed, server=server, exposed_name=draw(TEXTS))
    return made if listed is not None else call(who, method, draw(OBJECTS), server=server, exposed_name=draw(TEXTS))


def each(stages: tuple[Any, ...]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("stage", stages, ids=lambda stage: str(stage.name))


def of(stage: object) -> Iterator[str]:
    yield from (name for name in ("on_request", "on_message") if hasattr(stage, name))


def reasons_of(decision: object, stage: str) -> None:
    if isinstance(decision, Deny):
        assert type(decision.reason) is REASONS[stage], "the reason is of the stage's own closed list"
        assert decision.sentence


def run(coroutine: Any) -> Any:
    """A stage of this product waits for nothing, so one step ends it; that keeps the property tests without a loop."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("the stage waits for something: drive it in a loop")


def shown(decision: object) -> Any:
    """A decision as something that can be compared: errors and answers are compared by what they hold."""
    match decision:
        case Rewrite(value=Message() as message):
            return (
                "rewrite",
                message.kind,
                message.method,
                message.upstream_id,
                message.upstream_key,
                message.answer.raw,
            )
        case Deny():
            error = decision.answered_as
            return (
                "deny",
                decision.reason,
                decision.sentence,
                decision.retry_after_ms,
                type(error),
                vars(error or object),
            )
        case _:
            return decision


@each(PIPELINE.request_stages)
@QUICK
@given(asked=calls())
def test_a_request_stage_decides_about_anything_alike_twice_and_changes_nothing(
    stage: RequestStage, asked: Call
) -> None:
    before = repr(asked)
    decision = run(stage.on_request(asked))
    assert isinstance(decision, Allow | Rewrite | Deny)
    reasons_of(decision, stage.name)
    assert repr(asked) == before
    assert shown(run(stage.on_request(copy.copy(asked)))) == shown(decision)


@each(PIPELINE.result_stages)
@QUICK
@given(asked=calls(), message=MESSAGES)
def test_a_result_stage_decides_about_anything_alike_twice_and_changes_nothing(
    stage: ResultStage, asked: Call, message: Message
) -> None:
    before = repr(asked), repr(message), repr(message.answer.value)
    decision = run(stage.on_message(asked, message))
    assert isinstance(decision, Allow | Rewrite | Deny)
    reasons_of(decision, stage.name)
    assert (repr(asked), repr(message), repr(message.answer.value)) == before
    same = dataclasses.replace(message, answer=Answer(copy.deepcopy(message.answer.value)))
    assert shown(run(stage.on_message(asked, same))) == shown(decision)
    if isinstance(decision, Rewrite):
        kept = dataclasses.replace(decision.value, answer=message.answer)
        assert kept == message, "only the answer of a message may be another"


@pytest.mark.parametrize("stages", [PIPELINE.request_stages, PIPELINE.result_stages], ids=["request", "result"])
def test_the_names_of_stages_are_unique_and_fit_for_a_machine(stages: tuple[Any, ...]) -> None:
    names = [stage.name for stage in stages]
    assert len(set(names)) == len(names)
    assert all(name.isidentifier() and name.islower() for name in names)


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_a_stage_never_sees_the_way_to_an_upstream(stage: object) -> None:
    for name in of(stage):
        parameters = list(inspect.signature(getattr(stage, name)).parameters)
        assert parameters == (["call"] if name == "on_request" else ["call", "message"])


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_a_stage_keeps_nothing_of_a_call(stage: Any) -> None:
    before = copy.deepcopy(getattr(stage, "__dict__", {}))
    for name in of(stage):
        arguments = [call()] if name == "on_request" else [call(), Message(MessageKind.RESULT, "", Answer({}))]
        run(getattr(stage, name)(*arguments))
    assert getattr(stage, "__dict__", {}) == before


def test_authorization_is_the_first_of_the_request_stages() -> None:
    assert PIPELINE.request_stages[0].name == "authorization"


def test_nothing_comes_between_uri_rewriting_and_the_client() -> None:
    assert PIPELINE.result_stages[-1].name == "uri_rewriting"
