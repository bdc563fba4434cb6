"""What goes over the wire to an upstream: built from nothing, so that nothing of the client's comes along unseen."""

from __future__ import annotations

import re
from typing import Any

import orjson
import pytest

from catalogue.model import Server
from gateway.calls import Method
from gateway.upstream import wire
from tests.support.calls import LEGACY, MODERN, ONE, call, caller

ENVELOPE = "io.modelcontextprotocol/"
FORGED = {
    f"{ENVELOPE}protocolVersion": "1999-01-01",
    f"{ENVELOPE}clientInfo": {"name": "client"},
    f"{ENVELOPE}clientCapabilities": {"sampling": {}},
}


def test_a_modern_request_carries_our_envelope_whatever_is_put_beside_it() -> None:
    body = wire.modern_body("tools/call", "id-1", {"name": "echo"}, capabilities={"roots": {}}, meta={**FORGED, "x": 1})
    assert orjson.loads(body) == {
        "jsonrpc": "2.0",
        "id": "id-1",
        "method": "tools/call",
        "params": {
            "name": "echo",
            "_meta": {
                "x": 1,
                f"{ENVELOPE}protocolVersion": MODERN,
                f"{ENVELOPE}clientInfo": {"name": "mcp-gateway", "version": "0.1.0"},
                f"{ENVELOPE}clientCapabilities": {"roots": {}},
            },
        },
    }


def test_metadata_within_the_parameters_gives_way_to_ours() -> None:
    body = orjson.loads(wire.modern_body("tools/call", "1", {"name": "a", "_meta": FORGED}, capabilities={}))
    assert body["params"]["_meta"][f"{ENVELOPE}protocolVersion"] == MODERN
    assert body["params"]["_meta"][f"{ENVELOPE}clientCapabilities"] == {}


def test_large_integers_reach_the_upstream_exactly() -> None:
    arguments = {"n": 12345678901234567890123}
    for body in (
        wire.modern_body("tools/call", "1", {"name": "a", "arguments": arguments}, capabilities={}),
        wire.legacy_body("tools/call", "1", {"name": "a", "arguments": arguments}),
    ):
        assert b"12345678901234567890123" in body


BASE = {"content-type": "application/json", "accept": "application/json, text/event-stream"}


@pytest.mark.parametrize(
    ("method", "params", "name"),
    [
        ("tools/call", {"name": "echo"}, "echo"),
        ("prompts/get", {"name": "ask"}, "ask"),
        ("resources/read", {"uri": "file:///a"}, "file:///a"),
        ("tools/list", {}, None),
        ("server/discover", {"name": "x"}, None),
        ("completion/complete", {"ref": {"name": "x"}}, None),
    ],
)
def test_a_modern_request_is_routed_by_headers_made_of_its_body(
    method: str, params: dict[str, Any], name: str | None
) -> None:
    routed = {"mcp-protocol-version": MODERN, "mcp-method": method, **({} if name is None else {"mcp-name": name})}
    assert wire.modern_headers(method, params) == {**BASE, **routed}


@pytest.mark.parametrize("name", ["é", "a\r\nauthorization: x", " padded ", "\u2028", "=?base64?eA==?="])
def test_a_name_that_no_header_can_hold_is_encoded(name: str) -> None:
    header = wire.modern_headers("tools/call", {"name": name})["mcp-name"]
    assert header.isascii()
    assert header.isprintable()
    assert header != name


def test_arguments_that_a_tool_names_for_headers_are_sent_in_them() -> None:
    header_map = {("region",): "Region", ("deep", "id"): "Id", ("absent",): "Absent"}
    params = {"name": "t", "arguments": {"region": "eu", "deep": {"id": 5}}}
    headers = wire.modern_headers("tools/call", params, header_map)
    assert {name.lower(): value for name, value in headers.items() if name.lower().startswith("mcp-param")} == {
        "mcp-param-region": "eu",
        "mcp-param-id": "5",
    }
    assert wire.modern_headers("tools/call", {"name": "t"}, header_map).keys() == {*BASE, *(
        "mcp-protocol-version", "mcp-method", "mcp-name")}  # fmt: skip


def test_a_legacy_message_is_a_request_with_an_id_and_a_notification_without() -> None:
    assert orjson.loads(wire.legacy_body("ping", "x", None)) == {"jsonrpc": "2.0", "id": "x", "method": "ping"}
    assert orjson.loads(wire.legacy_body("notifications/initialized", None, {})) == {
        "jsonrpc": "2.0",
        "method": "notifications/initialized",
        "params": {},
    }


def test_legacy_headers_name_revision_and_session_once_there_are_any() -> None:
    assert wire.legacy_headers(None, None) == BASE
    assert wire.legacy_headers(LEGACY, None) == {**BASE, "mcp-protocol-version": LEGACY}
    assert wire.legacy_headers(LEGACY, "s") == {**BASE, "mcp-protocol-version": LEGACY, "mcp-session-id": "s"}
    wire.legacy_headers(None, None)["x"] = "y"
    assert wire.legacy_headers(None, None) == BASE, "the one given out is the caller's own"


EVERYTHING: dict[str, Any] = {
    "elicitation": {"form": {}},
    "sampling": {"tools": {}},
    "roots": {},
    "experimental": {"x": {}},
    "tasks": {},
}


@pytest.mark.parametrize(
    ("allowed", "declared", "bridged"),
    [
        ({}, EVERYTHING, {"elicitation": {"form": {}}}),
        ({"allow_sampling": True}, EVERYTHING, {"elicitation": {"form": {}}, "sampling": {"tools": {}}}),
        ({"allow_roots": True}, EVERYTHING, {"elicitation": {"form": {}}, "roots": {}}),
        ({"allow_sampling": True, "allow_roots": True}, {}, {}),
        ({"allow_sampling": True, "allow_roots": True}, {"roots": {}}, {"roots": {}}),
    ],
)
def test_an_upstream_hears_of_what_the_client_can_and_the_operator_allows(
    allowed: dict[str, bool], declared: dict[str, Any], bridged: dict[str, Any]
) -> None:
    server = Server("one", "1", ONE.url, **allowed)  # type: ignore[arg-type]
    assert wire.bridgeable(caller(capabilities=declared), server) == bridged


TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def test_the_trace_goes_on_under_a_span_of_ours() -> None:
    meta = wire.call_meta(call(meta={"traceparent": TRACE, "tracestate": "a=b"}), "r", modern=True)
    assert meta["tracestate"] == "a=b"
    assert re.fullmatch(r"00-4bf92f3577b34da6a3ce929d0e0e4736-[0-9a-f]{16}-01", meta["traceparent"])
    assert meta["traceparent"] != TRACE


@pytest.mark.parametrize("trace", [None, 5, "", "x", TRACE + "-", TRACE.upper(), "ff" + TRACE[2:]])
def test_what_is_no_trace_is_left_behind_with_its_state(trace: Any) -> None:
    assert wire.call_meta(call(meta={"traceparent": trace, "tracestate": "a=b"}), "r", modern=True) == {}


@pytest.mark.parametrize("state", [None, 5, []])
def test_an_odd_trace_state_is_left_behind_alone(state: Any) -> None:
    assert wire.call_meta(call(meta={"traceparent": TRACE, "tracestate": state}), "r", modern=True).keys() == {
        "traceparent"
    }


@pytest.mark.parametrize("token", [0, "", "abc", 5])
def test_progress_is_asked_for_under_a_token_of_ours(token: str | int) -> None:
    assert wire.call_meta(call(progress_token=token), "r", modern=False) == {"progressToken": "r"}


def test_the_log_level_of_a_request_goes_to_modern_upstreams_only() -> None:
    asked = call(caller(log_level="info"), Method.PROMPTS_GET)
    assert wire.call_meta(asked, "r", modern=True) == {f"{ENVELOPE}logLevel": "info"}
    assert wire.call_meta(asked, "r", modern=False) == {}
