"""On the federated endpoint, every URI a client gets is one that the gateway can read; elsewhere nothing is touched."""

from __future__ import annotations

import pytest

from gateway.calls import Answer, Message, MessageKind
from gateway.policy.decision import ALLOW, Rewrite
from gateway.policy.uri_rewriting import UriRewriting
from tests.support.calls import call, caller

LINKS = b'{"content":[{"type":"resource_link","uri":"file:///a","size":12345678901234567890123}],"n":1.50}'


def result(value: dict[str, object], raw: bytes | None = None) -> Message:
    return Message(MessageKind.RESULT, "", Answer(value, raw))


async def test_links_embedded_resources_and_contents_get_the_servers_prefix() -> None:
    value: dict[str, object] = {
        "content": [
            {"type": "resource_link", "uri": "file:///a"},
            {"type": "resource", "resource": {"uri": "file:///b", "text": ""}},
            {"type": "text", "text": "file:///c"},
        ],
        "contents": [{"uri": "file:///d", "text": ""}],
    }
    decision = await UriRewriting().on_message(call(), result(value))
    assert isinstance(decision, Rewrite)
    assert decision.value.answer.value == {
        "content": [
            {"type": "resource_link", "uri": "one+file:///a"},
            {"type": "resource", "resource": {"uri": "one+file:///b", "text": ""}},
            {"type": "text", "text": "file:///c"},
        ],
        "contents": [{"uri": "one+file:///d", "text": ""}],
    }


async def test_a_rewritten_result_keeps_large_integers_exact() -> None:
    rounded: dict[str, object] = {
        "content": [{"type": "resource_link", "uri": "file:///a", "size": 1.2345678901234e22}]
    }
    decision = await UriRewriting().on_message(call(), result(rounded, LINKS))
    assert isinstance(decision, Rewrite)
    assert b'"size":12345678901234567890123' in decision.value.answer.raw


@pytest.mark.parametrize("uri", ["https://example.com/a", "http://example.com/a", "ui://app/view"])
async def test_uris_that_clients_know_how_to_read_stay(uri: str) -> None:
    value: dict[str, object] = {"content": [{"type": "resource_link", "uri": uri}]}
    assert await UriRewriting().on_message(call(), result(value)) is ALLOW


async def test_a_result_without_uris_stays_the_bytes_it_is() -> None:
    assert await UriRewriting().on_message(call(), result({"content": []}, b'{"content" : []}')) is ALLOW


async def test_a_servers_own_endpoint_is_transparent() -> None:
    message = Message(MessageKind.RESULT, "", Answer({"contents": [{"uri": "file:///a"}]}))
    assert await UriRewriting().on_message(call(caller(endpoint="one")), message) is ALLOW


async def test_uris_in_what_a_server_asks_of_the_client_are_rewritten_too() -> None:
    block = {"role": "user", "content": {"type": "resource_link", "uri": "file:///a"}}
    asked = Message(MessageKind.REQUEST, "sampling/createMessage", Answer({"messages": [block]}), "u1", "one@1")
    decision = await UriRewriting().on_message(call(), asked)
    assert isinstance(decision, Rewrite)
    assert decision.value.answer.value["messages"][0]["content"]["uri"] == "one+file:///a"
