"""On the federated endpoint, words to people and logs say where they come from; elsewhere nothing is touched."""

from __future__ import annotations

import pytest

from gateway.calls import Answer, Message, MessageKind
from gateway.policy.attribution import Attribution
from gateway.policy.decision import ALLOW, Rewrite
from tests.support.calls import call, caller

LOG = "notifications/message"


def message(kind: MessageKind, method: str, value: dict[str, object]) -> Message:
    return Message(kind, method, Answer(value), "u1", "one@1")


def notification(**params: object) -> Message:
    return message(MessageKind.NOTIFICATION, LOG, params)


@pytest.mark.parametrize(
    ("params", "logger"),
    [
        ({"level": "info", "data": 1}, "one"),
        ({"level": "info", "logger": "db", "data": 1}, "one/db"),
        ({"level": "info", "logger": None, "data": 1}, "one"),
        ({"level": "info", "logger": 5, "data": 1}, "one"),
    ],
)
async def test_a_log_message_names_its_server(params: dict[str, object], logger: str) -> None:
    decision = await Attribution().on_message(call(), notification(**params))
    assert isinstance(decision, Rewrite)
    assert decision.value.answer.value == {**params, "logger": logger}


async def test_a_question_to_the_user_begins_with_the_server_that_asks() -> None:
    asked = message(MessageKind.REQUEST, "elicitation/create", {"message": "Your name?", "requestedSchema": {}})
    decision = await Attribution().on_message(call(), asked)
    assert isinstance(decision, Rewrite)
    assert decision.value.answer.value == {"message": "[one] Your name?", "requestedSchema": {}}
    assert (decision.value.upstream_id, decision.value.upstream_key) == ("u1", "one@1")


@pytest.mark.parametrize(
    "untouched",
    [
        message(MessageKind.RESULT, "", {"message": "x", "logger": "y"}),
        message(MessageKind.NOTIFICATION, "notifications/progress", {"progress": 1}),
        message(MessageKind.REQUEST, "sampling/createMessage", {"messages": []}),
        message(MessageKind.REQUEST, "elicitation/create", {"message": 5}),
        message(MessageKind.REQUEST, "elicitation/create", {}),
    ],
)
async def test_everything_else_stays_as_it_is(untouched: Message) -> None:
    assert await Attribution().on_message(call(), untouched) is ALLOW


async def test_a_servers_own_endpoint_is_transparent() -> None:
    own = call(caller(endpoint="one"))
    assert await Attribution().on_message(own, notification(level="info", data=1)) is ALLOW
