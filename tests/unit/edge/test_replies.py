"""The one table from errors to statuses, JSON-RPC errors and tool results, whole."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import orjson
import pytest
from mcp.shared.inbound import InboundLadderRejection

from gateway import errors
from gateway.edge.replies import Reply, for_error, invalid_message, rejection, result_body
from gateway.errors import GatewayError
from gateway.jsonrpc import InvalidMessage

NEW = "2026-07-28"
OLD = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
DENIAL = "dev.mcp-gateway/denial"
RECORD = "dev.mcp-gateway/record"


class Reason(StrEnum):
    OVER = "over"


def subclasses(of: type[GatewayError] = GatewayError) -> set[type[GatewayError]]:
    found = {of}
    for each in of.__subclasses__():
        found |= subclasses(each)
    return {each for each in found if each.__module__ == "gateway.errors"}


def reply(error: GatewayError, method: str = "prompts/get", revision: str = NEW) -> Reply:
    return for_error(error, method=method, revision=revision, modern=revision == NEW)


def shown(found: Reply) -> tuple[int, int, Any]:
    return found.status, found.code, found.data


# Error, then (status, code, data) for a modern client and for one of 2025-11-25.
UPSTREAM = {DENIAL: {"stage": "upstream", "reason": "upstream_failed"}}
INTERNAL = (200, -32603, None)
TABLE: list[tuple[GatewayError, tuple[int, int, Any], tuple[int, int, Any]]] = [
    (errors.InvalidParams("x: no"), (400, -32602, None), (200, -32602, None)),
    (errors.UnknownName("tool"), (400, -32602, None), (200, -32602, None)),
    (errors.UnknownMethod("x/y"), (404, -32601, None), (200, -32601, None)),
    (errors.UnknownResource("a:b"), (400, -32602, {"uri": "a:b"}), (200, -32002, {"uri": "a:b"})),
    (
        errors.MissingCapability({"sampling": {}}),
        (400, -32021, {"requiredCapabilities": {"sampling": {}}}),
        (200, -32021, {"requiredCapabilities": {"sampling": {}}}),
    ),
    (errors.SessionGone("x"), (404, -32600, None), (404, -32600, None)),
    (errors.Unauthenticated("x"), (401, -32600, None), (401, -32600, None)),
    (errors.NeedsScope(["b", "a"]), (403, -32600, None), (403, -32600, None)),
    (errors.StorageUnavailable("x"), (503, 1001, None), (503, 1001, None)),
    (errors.ConfigurationError("x"), INTERNAL, INTERNAL),
    (GatewayError("x"), INTERNAL, INTERNAL),
    (errors.UpstreamError("one", "x"), (200, 1002, UPSTREAM), (200, 1002, UPSTREAM)),
    (errors.UpstreamRefused("one", -32602, "x", 5), (400, -32602, 5), (200, -32602, 5)),
    (
        errors.Denied("budget", Reason.OVER, "x", 250),
        (200, 1001, {DENIAL: {"stage": "budget", "reason": "over", "retryAfterMs": 250}}),
        (200, 1001, {DENIAL: {"stage": "budget", "reason": "over", "retryAfterMs": 250}}),
    ),
]
for upstream_error in (errors.UpstreamUnavailable, errors.UpstreamTimeout, errors.UpstreamProtocolError):
    answered = (200, 1002, {DENIAL: {"stage": "upstream", "reason": upstream_error.reason}})
    TABLE.append((upstream_error("one", "x"), answered, answered))


@pytest.mark.parametrize(("error", "modern", "legacy"), TABLE, ids=lambda each: type(each).__name__)
def test_every_error_has_its_answer(
    error: GatewayError, modern: tuple[int, int, Any], legacy: tuple[int, int, Any]
) -> None:
    assert shown(reply(error)) == modern
    assert shown(reply(error, revision="2025-11-25")) == legacy


def test_the_table_above_has_every_error_of_the_tree() -> None:
    assert {type(error) for error, _, _ in TABLE} == subclasses()


def test_what_is_wrong_inside_is_never_told() -> None:
    for error in (errors.ConfigurationError("hunter2"), errors.StorageUnavailable("hunter2"), GatewayError("hunter2")):
        assert b"hunter2" not in reply(error).body(1)
    assert b"hunter2" not in reply(errors.UnknownMethod("hunter2")).body(1)


@pytest.mark.parametrize("revision", [*OLD, NEW])
def test_a_missing_resource_has_the_code_of_the_clients_revision(revision: str) -> None:
    found = reply(errors.UnknownResource("a:b"), "resources/read", revision)
    assert found.code == (-32602 if revision == NEW else -32002)


@pytest.mark.parametrize("revision", [*OLD, NEW])
@pytest.mark.parametrize(
    ("method", "error", "absent"),
    [
        ("tools/call", errors.UnknownName("tool"), errors.UnknownName("tool")),
        ("prompts/get", errors.UnknownName("prompt"), errors.UnknownName("prompt")),
        ("completion/complete", errors.UnknownName("prompt"), errors.UnknownName("prompt")),
        ("resources/read", errors.UnknownResource("a:b"), errors.UnknownResource("a:b")),
        ("resources/subscribe", errors.UnknownResource("a:b"), errors.UnknownResource("a:b")),
    ],
)
def test_hidden_is_answered_in_the_same_bytes_as_absent(
    method: str, error: GatewayError, absent: GatewayError, revision: str
) -> None:
    hidden = errors.Denied("authorization", "hidden", str(error), retry_after_ms=5)
    hidden.answered_as = error
    hidden.record = "record-1"  # the call had one; an absent name never gets that far
    found, expected = reply(hidden, method, revision), reply(absent, method, revision)
    assert found == expected
    assert found.body(7) == expected.body(7)


def test_a_missing_scope_is_challenged_with_all_that_are_missing() -> None:
    denied = errors.Denied("authorization", "needs_scope", "x")
    denied.answered_as = errors.NeedsScope(["write", "read"])
    for revision in (NEW, "2025-06-18"):
        found = reply(denied, "tools/call", revision)
        challenge = b'Bearer error="insufficient_scope", scope="read write"'
        assert (found.status, found.result, found.headers) == (403, None, ((b"www-authenticate", challenge),))


def test_nobody_and_not_now_say_what_to_do_in_a_header() -> None:
    assert reply(errors.Unauthenticated("x")).headers == ((b"www-authenticate", b"Bearer"),)
    assert reply(errors.StorageUnavailable("x")).headers == ((b"retry-after", b"1"),)


ACTIONABLE = [
    (errors.Denied("limit", Reason.OVER, "Wait.", 9), {"stage": "limit", "reason": "over", "retryAfterMs": 9}),
    (errors.Denied("limit", Reason.OVER, "Wait."), {"stage": "limit", "reason": "over"}),
    (errors.UpstreamTimeout("one", "Late."), {"stage": "upstream", "reason": "upstream_timeout"}),
]


@pytest.mark.parametrize(("error", "facts"), ACTIONABLE)
@pytest.mark.parametrize("revision", [NEW, "2025-06-18"])
def test_what_a_model_can_act_on_is_a_tool_result_with_one_sentence(
    error: GatewayError, facts: dict[str, Any], revision: str
) -> None:
    error.record = "record-1"
    found = reply(error, "tools/call", revision)
    assert found.status == 200
    body = orjson.loads(found.body(1))
    result = body["result"]
    assert result.pop("resultType", None) == ("complete" if revision == NEW else None)
    assert result == {
        "content": [{"type": "text", "text": str(error)}],
        "isError": True,
        "_meta": {DENIAL: facts, RECORD: "record-1"},
    }


def test_other_methods_get_the_same_facts_in_an_error() -> None:
    error = errors.Denied("limit", Reason.OVER, "Wait.")
    error.record = "record-1"
    found = reply(error, "resources/read")
    assert (found.code, found.message) == (1001, "Wait.")
    assert found.data == {DENIAL: {"stage": "limit", "reason": "over"}, RECORD: "record-1"}


@pytest.mark.parametrize(
    ("data", "expected"),
    [(None, {RECORD: "r"}), ({"a": 1}, {"a": 1, RECORD: "r"}), ([1], {"detail": [1], RECORD: "r"})],
)
def test_an_error_names_the_record_of_its_call_beside_its_own_data(data: Any, expected: Any) -> None:
    error = errors.UpstreamRefused("one", -32603, "x", data)
    error.record = "r"
    assert reply(error).data == expected


REFUSALS = [
    # (code, method, revision) -> (status, code)
    (-32600, "prompts/get", NEW, (400, -32600)),
    (-32602, "prompts/get", "2025-11-25", (200, -32602)),
    (-32603, "tools/call", NEW, (200, -32603)),
    (-32002, "resources/read", "2025-11-25", (200, -32002)),
    (-32002, "resources/read", NEW, (400, -32602)),
    (-32602, "resources/read", "2025-06-18", (200, -32002)),
    (-32602, "resources/read", NEW, (400, -32602)),
    (-32002, "prompts/get", NEW, (200, -32603)),
    (-32042, "tools/call", "2025-11-25", (200, -32042)),
    (-32042, "tools/call", "2025-06-18", (200, -32603)),
    (-32042, "tools/call", NEW, (200, -32603)),
    (-32021, "prompts/get", NEW, (200, -32603)),
    (-32021, "prompts/get", "2025-11-25", (200, -32603)),
    (-32020, "prompts/get", NEW, (200, -32603)),
    (-32022, "prompts/get", NEW, (200, -32603)),
    (-32601, "prompts/get", NEW, (200, -32603)),
    (-32700, "prompts/get", NEW, (200, -32603)),
    (-32000, "prompts/get", NEW, (200, -32603)),
    (-32768, "prompts/get", NEW, (200, -32603)),
    (-31999, "prompts/get", NEW, (200, -31999)),
    (-32769, "prompts/get", NEW, (200, -32769)),
    (42, "tools/call", NEW, (200, 42)),
    (1001, "tools/call", NEW, (200, 1001)),
    (1002, "tools/call", "2025-06-18", (200, 1002)),
    (10**30, "tools/call", NEW, (200, 10**30)),
]


@pytest.mark.parametrize(("code", "method", "revision", "expected"), REFUSALS)
def test_an_upstreams_own_error_is_relayed_unless_its_code_means_something_between_it_and_us(
    code: int, method: str, revision: str, expected: tuple[int, int]
) -> None:
    found = reply(errors.UpstreamRefused("one", code, "its words", {"its": "data"}), method, revision)
    assert (found.status, found.code) == expected
    assert found.result is None
    if expected[1] == -32603 and code != -32603:
        assert found.data == {"upstream": {"code": code}}
    if code == expected[1]:
        assert (found.message, found.data) == ("its words", {"its": "data"})


def test_the_text_of_a_reply_has_the_id_of_its_request_or_none() -> None:
    assert orjson.loads(Reply(400, -32600, "no").body(None)) == {
        "jsonrpc": "2.0",
        "error": {"code": -32600, "message": "no"},
    }
    for request_id in (0, "", "a\u2028", 2**70):
        assert orjson.loads(Reply(400, -32600, "no", {"a": 1}).body(request_id))["id"] == pytest.approx(request_id)
    assert result_body("1", b'{"a":', b"1.50}") == b'{"jsonrpc":"2.0","id":"1","result":{"a":1.50}}'
    assert result_body(2**70, b"{}").startswith(b'{"jsonrpc":"2.0","id":1180591620717411303424,')


def test_faults_of_the_envelope_keep_their_code() -> None:
    assert shown(rejection(InboundLadderRejection(code=-32022, message="x", data={"a": 1}))) == (400, -32022, {"a": 1})
    assert shown(rejection(InboundLadderRejection(code=-32601, message="x"))) == (404, -32601, None)
    assert shown(invalid_message(InvalidMessage(-32700, "x"))) == (400, -32700, None)
