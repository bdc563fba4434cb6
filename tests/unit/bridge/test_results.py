"""Results for the client's revision: what is added stands in front, and what the upstream wrote stays as it was."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway import jsonrpc
from gateway.bridge import results
from gateway.calls import Answer, Call, Method
from gateway.errors import UpstreamProtocolError
from tests.support.calls import LEGACY, MODERN, call, caller

OURS = {"name": "mcp-gateway", "version": "0.1.0"}
INFO = "io.modelcontextprotocol/serverInfo"
RECORD = "dev.mcp-gateway/record"


def of(revision: str = MODERN, method: Method = Method.TOOLS_CALL, endpoint: str = "") -> Call:
    return call(caller(endpoint=endpoint, revision=revision), method)


def answer(raw: bytes) -> Answer:
    return Answer(jsonrpc.loads(raw), raw)


def shown(raw: bytes, to: Call) -> dict[str, Any]:
    """The result as the client decodes it, once it is proved to be strict JSON."""
    text = results.for_client(answer(raw), to)
    jsonrpc.member_bytes(text)  # refuses a member twice
    decoded: dict[str, Any] = orjson.loads(text)
    return decoded


def test_what_a_modern_client_needs_is_added_in_front_of_the_bytes_that_came() -> None:
    raw = b'{"content" : [ ], "n":1.50, "big":12345678901234567890123, "e":1e400}'
    text = results.for_client(answer(raw), of())
    assert text.endswith(b',"content" : [ ], "n":1.50, "big":12345678901234567890123, "e":1e400}')
    assert text.startswith(b'{"_meta":{"')
    assert b'"resultType":"complete","content"' in text


def test_an_empty_result_gets_no_stray_comma() -> None:
    assert shown(b"{}", of()) == {"_meta": {INFO: OURS, RECORD: "call-1"}, "resultType": "complete"}
    assert shown(b"{ }", of(LEGACY)) == {"_meta": {RECORD: "call-1"}}


def test_a_result_type_that_is_there_is_not_added_again() -> None:
    assert shown(b'{"resultType":"complete","content":[]}', of())["resultType"] == "complete"


@pytest.mark.parametrize(
    ("hints", "ttl", "scope"),
    [
        (b"", 0, "private"),
        (b',"ttlMs":5,"cacheScope":"public"', 5, "public"),
        (b',"ttlMs":5', 5, "private"),
        (b',"cacheScope":"public"', 0, "public"),
    ],
)
def test_a_read_always_says_how_long_and_for_whom_it_may_be_kept(hints: bytes, ttl: int, scope: str) -> None:
    found = shown(b'{"contents":[]' + hints + b"}", of(method=Method.RESOURCES_READ))
    assert (found["ttlMs"], found["cacheScope"]) == (ttl, scope)


@pytest.mark.parametrize("method", [method for method in Method if method is not Method.RESOURCES_READ])
def test_nothing_else_says_so(method: Method) -> None:
    assert "ttlMs" not in shown(b"{}", of(method=method))


def test_a_question_in_place_of_a_read_says_nothing_of_the_kind() -> None:
    raw = b'{"resultType":"input_required","inputRequests":{}}'
    assert "ttlMs" not in shown(raw, of(method=Method.RESOURCES_READ))
    assert "resultType" in shown(raw, of(method=Method.RESOURCES_READ))


@pytest.mark.parametrize("theirs", [b"null", b"5", b"[]", b'"x"', b"{}"])
def test_odd_metadata_gives_way_to_ours(theirs: bytes) -> None:
    found = shown(b'{"a":1,"_meta":' + theirs + b',"b":2}', of())
    assert found == {"_meta": {INFO: OURS, RECORD: "call-1"}, "resultType": "complete", "a": 1, "b": 2}


def test_the_upstreams_metadata_is_kept_beside_ours_exactly() -> None:
    forged = b'"dev.mcp-gateway/record":"forged","dev.mcp-gateway/denial":{"reason":"forged"}'
    raw = b'{"_meta":{"x":12345678901234567890123,' + forged + b'},"content":[1.50]}'
    text = results.for_client(answer(raw), of())
    assert b'"x":12345678901234567890123' in text
    assert b'"content":[1.50]' in text
    assert b"forged" not in text


def test_on_the_federated_endpoint_we_are_the_server_and_on_its_own_the_upstream_is() -> None:
    theirs = {"name": "upstream", "version": "9"}
    raw = orjson.dumps({"_meta": {INFO: theirs}})
    assert shown(raw, of())["_meta"][INFO] == OURS
    assert shown(raw, of(endpoint="one"))["_meta"][INFO] == theirs
    assert shown(b"{}", of(endpoint="one"))["_meta"][INFO] == OURS


@pytest.mark.parametrize("revision", ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"])
def test_an_older_client_gets_no_members_that_its_revision_does_not_know(revision: str) -> None:
    raw = b'{"resultType":"complete","ttlMs":5,"cacheScope":"public","contents":[],"big":12345678901234567890123}'
    found = results.for_client(answer(raw), of(revision, Method.RESOURCES_READ))
    assert orjson.loads(found).keys() == {"_meta", "contents", "big"}
    assert b'"big":12345678901234567890123' in found
    assert INFO not in orjson.loads(found)["_meta"]


def test_a_result_that_an_older_client_knows_stays_the_bytes_it_is() -> None:
    raw = b'{"content":[], "x" : 1.50}'
    assert results.for_client(answer(raw), of(LEGACY)) == b'{"_meta":{"dev.mcp-gateway/record":"call-1"},' + raw[1:]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**80), 2**80) | st.text(max_size=4) | st.just("\ud800"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
NAMES = st.text(max_size=4) | st.sampled_from(["_meta", "content", "resultType", "ttlMs", "cacheScope", "contents"])


@settings(deadline=None, max_examples=120)
@given(st.dictionaries(NAMES, VALUES, max_size=5), st.sampled_from([Method.TOOLS_CALL, Method.RESOURCES_READ]))
def test_nothing_of_a_result_is_lost_doubled_or_changed_on_the_way_to_a_modern_client(
    value: dict[str, Any], method: Method
) -> None:
    raw = jsonrpc.dumps(value)
    members = jsonrpc.member_bytes(results.for_client(answer(raw), of(method=method)))
    for name, text in jsonrpc.member_bytes(raw).items():
        if name != "_meta":
            assert members[name] == text
    assert members.keys() - value.keys() <= {"_meta", "resultType", "ttlMs", "cacheScope"}
    assert jsonrpc.loads(members["_meta"])[RECORD] == "call-1"


@pytest.mark.parametrize("revision", [MODERN, LEGACY])
def test_an_upstreams_result_with_a_member_twice_is_its_fault_and_said_so(revision: str) -> None:
    raw = b'{"_meta":{},"content":[],"content":[1]}'
    with pytest.raises(UpstreamProtocolError):
        results.for_client(answer(raw), of(revision))


# --- kinds of results


@pytest.mark.parametrize(
    ("kind", "method", "revision", "accepted"),
    [
        (None, Method.TOOLS_CALL, MODERN, True),
        ("complete", Method.COMPLETE, LEGACY, True),
        ("input_required", Method.TOOLS_CALL, MODERN, True),
        ("input_required", Method.PROMPTS_GET, MODERN, True),
        ("input_required", Method.RESOURCES_READ, MODERN, True),
        ("input_required", Method.COMPLETE, MODERN, False),
        ("input_required", Method.TOOLS_CALL, LEGACY, False),
        ("task", Method.TOOLS_CALL, MODERN, False),
        ("", Method.TOOLS_CALL, MODERN, False),
        ([], Method.TOOLS_CALL, MODERN, False),
        (5, Method.TOOLS_CALL, LEGACY, False),
    ],
)
def test_only_kinds_of_results_that_were_negotiated_are_accepted(
    kind: Any, method: Method, revision: str, accepted: bool
) -> None:
    found = Answer({} if kind is None else {"resultType": kind})
    if accepted:
        assert results.checked(found, of(revision, method)) is found
        assert results.is_interim(found) == (kind == "input_required")
    else:
        with pytest.raises(UpstreamProtocolError):
            results.checked(found, of(revision, method))
