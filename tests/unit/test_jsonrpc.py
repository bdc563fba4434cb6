"""What clients may send, and that what upstreams answer goes through byte for byte."""

import json
import math
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway import jsonrpc
from gateway.jsonrpc import InvalidMessage, Kind

QUICK = settings(deadline=None, max_examples=60)
ID = "0b7f3a52-3f1f-4b8e-9a55-0a9d3f6b1c2d"

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=8,
)


def call(**members: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", **members}).encode()


def call_with_id(identity: Any) -> bytes:
    return call(id=identity)


def call_with_method(method: Any) -> bytes:
    return call(method=method)


def refusal(body: bytes, *, batch: bool = False) -> InvalidMessage:
    with pytest.raises(InvalidMessage) as caught:
        jsonrpc.decode_request(body, batch=batch)
    return caught.value


def nested(levels: int) -> bytes:
    """A request whose deepest bracket is at `levels`: envelope, params, arguments, then lists."""
    return call(params={"arguments": {"x": 0}}).replace(b"0}}", b"[" * (levels - 3) + b"]" * (levels - 3) + b"}}")


class TestDecoding:
    def test_a_usual_call_comes_back_as_it_was_sent(self) -> None:
        params = {
            "name": "a__b",
            "arguments": {"Name": "free", "big": 2**70, "ratio": 1.5, "emoji": "\U0001f600"},
            "_meta": {"progressToken": 1, "com.example/x": [None, True]},
        }
        assert jsonrpc.decode_request(call(params=params))["params"] == params

    @QUICK
    @given(json_values)
    def test_arguments_survive_decoding(self, value: Any) -> None:
        body = call(params={"name": "x", "arguments": {"value": value}})
        assert jsonrpc.decode_request(body)["params"]["arguments"]["value"] == value

    @pytest.mark.parametrize("space", [b" ", b"\n", b"\r\n\t"])
    def test_whitespace_around_the_message_is_allowed(self, space: bytes) -> None:
        assert jsonrpc.decode_request(space + call() + space)["id"] == 1

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"   ",
            b"{",
            b"nonsense",
            b'{"jsonrpc":"2.0",}',
            b"\xef\xbb\xbf" + call(),
            b"\x00" + call(),
            b"\x0b" + call(),
            call() + b"\x85",
            call() + b"{}",
            call().decode().encode("utf-16"),
            call().replace(b"tools", b"\xff"),
            call().replace(b"tools", b"\xed\xa0\x80"),
            call().replace(b"tools", b"a\nb"),
            call(params={"arguments": 0}).replace(b" 0}", b" NaN}"),
            call(params={"arguments": 0}).replace(b" 0}", b" -Infinity}"),
            call(params={"arguments": 0}).replace(b" 0}", b" 1e400}"),
            call(params={"arguments": 0}).replace(b" 0}", b" -1E+9999}"),
            call(params={"arguments": 0}).replace(b" 0}", b" " + b"9" * 4301 + b"}"),
            call(params={"arguments": "\ud800"}),
            call(params={"arguments": {"\udfff": 1}}),
            call(params={"arguments": "\ude00\ud83d"}),
            call(params={"arguments": "\ud800"}).replace(b"\\ud800", b"\\uD800"),
        ],
    )
    def test_what_is_not_strict_json_is_a_parse_error(self, body: bytes) -> None:
        assert refusal(body).code == -32700

    @pytest.mark.parametrize(
        "text",
        ['"\\ud83d\\ude00"', '"\\\\ud800"', '"\\\\\\\\uD800"', '"\\uD83D\\uDE00"', '"\\"', "1e308", "-0", "1e-400"],
    )
    def test_escapes_and_numbers_near_the_edge_are_allowed(self, text: str) -> None:
        if text == '"\\"':
            text = '"\\\\"'
        body = call(params={"arguments": 0}).replace(b" 0}", b" " + text.encode() + b"}")
        assert jsonrpc.decode_request(body)["params"]["arguments"] == json.loads(text)

    @pytest.mark.parametrize(
        "body",
        [
            b'{"jsonrpc":"2.0","id":1,"method":"tools/list","method":"tools/call"}',
            b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","name":"b"}}',
            b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","n\\u0061me":"b"}}',
            b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"arguments":{"deep":[{"x":1,"x":1}]}}}',
        ],
    )
    def test_a_member_twice_is_refused_at_any_depth(self, body: bytes) -> None:
        assert refusal(body).code == -32600

    @pytest.mark.parametrize("member", ["Method", "PARAMS", "Id", "JsonRpc", "Result", "eRRor", "param\u017f"])
    def test_envelope_members_in_other_case_are_refused(self, member: str) -> None:
        assert refusal(call(**{member: {}})).code == -32600

    @pytest.mark.parametrize(
        "params",
        [
            {"Name": "x"},
            {"name": "a", "NAME": "b"},
            {"URI": "x"},
            {"Arguments": {}},
            {"_Meta": {}},
            {"Cursor": ""},
            {"requeststate": ""},
            {"inputresponses": {}},
            {"_meta": {"ProgressToken": 1}},
            {"_meta": {"io.modelcontextprotocol/ProtocolVersion": "2026-07-28"}},
            {"ref": {"type": "ref/prompt", "name": "a", "Name": "b"}},
        ],
    )
    def test_members_of_params_in_other_case_are_refused(self, params: dict[str, Any]) -> None:
        assert refusal(call(params=params)).code == -32600

    def test_unknown_members_are_kept(self) -> None:
        message = jsonrpc.decode_request(call(extra=1, params={"vendor": 1, "_meta": {"com.example/Name": 1}}))
        assert message["extra"] == 1
        assert message["params"] == {"vendor": 1, "_meta": {"com.example/Name": 1}}

    @pytest.mark.parametrize(
        "body",
        [
            b"null",
            b"1",
            b'"2.0"',
            b"[]",
            b"{}",
            b'{"jsonrpc":2.0,"id":1,"method":"x"}',
            b'{"jsonrpc":"1.0","id":1,"method":"x"}',
            *map(call_with_id, (None, True, 1.0, 1.5, [], {})),
            *map(call_with_method, (None, 1, [], {})),
            *(call(params=params) for params in (None, 1, "x", [], [1])),
        ],
    )
    def test_what_is_not_a_message_is_an_invalid_request(self, body: bytes) -> None:
        assert refusal(body).code == -32600

    @pytest.mark.parametrize("identity", [1, -1, 0, 2**70, "", "1", "x" * 500])
    def test_ids_keep_their_type(self, identity: str | int) -> None:
        decoded = jsonrpc.decode_request(call(id=identity))["id"]
        assert decoded == identity
        assert type(decoded) is type(identity)

    def test_the_reason_holds_nothing_the_caller_wrote(self) -> None:
        secret = b"hunter2"
        bodies = (
            secret,
            b'{"' + secret + b'":1}',
            b'{"' + secret + b'":1,"' + secret + b'":1}',
            call(id=[secret.decode()]),
        )
        for body in bodies:
            error = refusal(body)
            assert "hunter2" not in f"{error} {error.args} {error.reason}"
            assert error.__suppress_context__ or error.__context__ is None


class TestDepth:
    def test_sixty_four_levels_are_allowed_and_one_more_is_not(self) -> None:
        jsonrpc.decode_request(nested(64))
        assert refusal(nested(65)).code == -32700

    def test_levels_that_each_hold_many_flat_objects_are_counted_too(self) -> None:
        comb: Any = []
        for _ in range(61):
            comb = [{}, {}, {}, {}, {}, {}, {}, {}, comb]
        jsonrpc.decode_request(call(params={"arguments": comb}))
        assert refusal(call(params={"arguments": [comb]})).code == -32700

    def test_brackets_in_strings_do_not_count(self) -> None:
        for text in ("[" * 200, '"' + "{" * 200, "\\" + "[" * 200, '\\"' + "[" * 200 + "\\\\", '["' * 200):
            assert jsonrpc.decode_request(call(params={"arguments": text}))["params"]["arguments"] == text

    def test_many_flat_objects_are_allowed(self) -> None:
        rows = [{"id": [index]} for index in range(500)]
        assert jsonrpc.decode_request(call(params={"arguments": rows}))["params"]["arguments"] == rows

    @QUICK
    @given(json_values, st.integers(50, 80))
    def test_the_scan_agrees_with_a_plain_walk(self, value: Any, levels: int) -> None:
        for _ in range(levels):
            value = [value, "]["] if levels % 2 else {"}{": value}
        body = json.dumps(value).encode()
        assert jsonrpc._too_deep(body) == (depth_of(value) > jsonrpc.MAX_DEPTH)

    @pytest.mark.parametrize(
        "body",
        [
            b"[" * 10_000,
            b'{"a":' * 10_000,
            b"[" * 4_000_000,
            b'{"a":[' * 600_000,
            b"[" + (b"[" * 70 + b"]" * 70 + b",") * 28_000,
            b"[" + b"[[][]]," * 600_000,
            b'["' + b'\\"[' * 1_300_000,
            b'["\\' * 1_000_000,
        ],
        ids=range(8),
    )
    def test_hostile_nesting_is_refused_within_a_second_of_processor_time(self, body: bytes) -> None:
        started = time.process_time()
        assert refusal(body).code == -32700
        assert time.process_time() - started < 1.0


def depth_of(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth_of, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(depth_of, value), default=0)
    return 0


class TestBatches:
    def test_an_array_is_refused_unless_asked_for(self) -> None:
        assert refusal(b"[" + call() + b"]").code == -32600

    def test_a_batch_gives_its_messages_in_order(self) -> None:
        body = b"[" + call(id=1) + b"," + call(id="b") + b"]"
        assert [message["id"] for message in jsonrpc.decode_request(body, batch=True)] == [1, "b"]  # type: ignore[index]

    def test_a_single_message_is_still_a_message(self) -> None:
        assert isinstance(jsonrpc.decode_request(call(), batch=True), dict)

    @pytest.mark.parametrize("body", [b"[]", b"[1]", b"[[]]", b"[" + call() + b",{}]"])
    def test_an_empty_batch_or_one_with_an_invalid_message_is_refused(self, body: bytes) -> None:
        assert refusal(body, batch=True).code == -32600


class TestKinds:
    @pytest.mark.parametrize(
        ("message", "kind"),
        [
            ({"id": 1, "method": "ping"}, Kind.REQUEST),
            ({"method": "notifications/initialized"}, Kind.NOTIFICATION),
            ({"id": 1, "result": {}}, Kind.RESPONSE),
            ({"id": 1, "error": {"code": 1, "message": ""}}, Kind.RESPONSE),
        ],
    )
    def test_the_three_kinds_are_told_apart(self, message: dict[str, Any], kind: Kind) -> None:
        assert jsonrpc.kind_of(message) is kind

    @pytest.mark.parametrize(
        "message",
        [
            {},
            {"id": 1},
            {"result": {}},
            {"error": {}},
            {"id": 1, "result": {}, "error": {}},
            {"id": 1, "method": "x", "result": {}},
            {"id": 1, "result": None},
            {"id": 1, "error": "x"},
        ],
    )
    def test_what_is_none_of_them_or_two_at_once_is_refused(self, message: dict[str, Any]) -> None:
        with pytest.raises(InvalidMessage) as caught:
            jsonrpc.kind_of(message)
        assert caught.value.code == -32600


class TestWritingAndReading:
    @QUICK
    @given(json_values)
    def test_what_is_written_is_read_back(self, value: Any) -> None:
        assert jsonrpc.loads(jsonrpc.dumps(value)) == value

    @pytest.mark.parametrize("value", [2**64, -(2**80), ["\ud800"], {"\udc00": "a"}, {"n": 2**64, "s": "\ud800\u00e9"}])
    def test_big_integers_and_lone_surrogates_can_be_written(self, value: Any) -> None:
        assert json.loads(jsonrpc.dumps(value)) == value

    def test_deep_values_can_be_written(self) -> None:
        value: list[Any] = []
        for _ in range(400):
            value = [value]
        assert jsonrpc.dumps(value) == b"[" * 401 + b"]" * 401

    def test_what_json_cannot_hold_is_a_value_error(self) -> None:
        for value in (object(), {1, 2}, {"a": b"bytes"}):
            with pytest.raises(ValueError, match="cannot be written"):
                jsonrpc.dumps(value)

    def test_upstream_numbers_never_become_infinite(self) -> None:
        value = jsonrpc.loads(b"[1e400, -2.5e308, 1e-400]")
        assert value == [10**400, -25 * 10**307, 0]
        assert all(type(number) is int or math.isfinite(number) for number in value)
        assert json.loads(jsonrpc.dumps(value)) == value

    @pytest.mark.parametrize("number", [2**64, -(2**63) - 1, 10**30 + 1, 10**400])
    def test_what_will_be_written_again_is_read_with_exact_integers(self, number: int) -> None:
        body = b' {"n":[%d], "s":"\\ud800"}\n' % number
        assert jsonrpc.loads_exact(body) == {"n": [number], "s": "\ud800"}
        assert json.loads(jsonrpc.dumps(jsonrpc.loads_exact(body))) == json.loads(body)

    def test_lone_surrogates_from_upstreams_are_read(self) -> None:
        assert jsonrpc.loads(b'["\\ud800"]') == ["\ud800"]

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"NaN",
            b"[Infinity]",
            b"{} {}",
            b"\xff",
            b'"\xed\xa0\x80"',
            b"[" * 100_000,
            b"1e99999",
            b"1e" + b"9" * 40,
        ],
    )
    def test_other_texts_are_refused_without_quoting_them(self, body: bytes) -> None:
        for read in (jsonrpc.loads, jsonrpc.loads_exact):
            with pytest.raises(ValueError, match=r"^the text is not JSON$") as caught:
                read(body)
            assert caught.value.__suppress_context__ or caught.value.__context__ is None


def layouts(result: bytes, identity: str = ID) -> Iterator[tuple[str, bytes]]:
    name = identity.encode()
    yield "python", b'{"jsonrpc":"2.0","id":"%b","result":%b}' % (name, result)
    yield "spaced", b'{"jsonrpc": "2.0", "id": "%b", "result": %b}' % (name, result)
    yield "typescript", b'{"result":%b,"jsonrpc":"2.0","id":"%b"}' % (result, name)
    yield "go", b'{"jsonrpc":"2.0","id":"%b","result":%b}\n' % (name, result)
    yield "id first", b'{"id":"%b","jsonrpc":"2.0","result":%b}' % (name, result)
    yield "pretty", b'\r\n{\n  "jsonrpc" : "2.0",\n  "result" :\t%b ,\n  "id": "%b"\n}\n' % (result, name)
    yield "more members", b'{"jsonrpc":"2.0","id":"%b","result":%b,"extra":{"a":1}}' % (name, result)
    yield "escaped name", b'{"jsonrpc":"2.0","id":"%b","r\\u0065sult":%b}' % (name, result)


class TestResponses:
    @pytest.mark.parametrize(
        "result",
        [
            b'{"content":[]}',
            b'{"content":[{"type":"text","text":"caf\xc3\xa9 \\u00e9 \\/"}], "isError" : false}',
            b'{"n":12345678901234567890123456789,"m":1e400,"s":"\\ud800","z":-0.0,"e":1E5}',
            b"null",
            b"[]",
            b'{"result":{},"jsonrpc":"2.0","id":"' + ID.encode() + b'"}',
        ],
    )
    def test_the_bytes_of_a_result_are_kept_in_every_layout(self, result: bytes) -> None:
        for layout, body in layouts(result):
            response = jsonrpc.split_response(body, ID)
            assert response.result_bytes is not None, layout
            assert response.result_bytes.strip() == result, layout
            assert response.result == jsonrpc.loads(result), layout
            assert (response.id, response.error) == (ID, None), layout

    @QUICK
    @given(json_values, st.booleans())
    def test_any_result_is_found_in_every_layout(self, value: Any, ascii_only: bool) -> None:
        result = json.dumps(value, ensure_ascii=ascii_only).encode()
        for layout, body in layouts(result):
            assert jsonrpc.split_response(body, ID).result_bytes == result, layout

    @QUICK
    @given(st.text(alphabet='{}[]",:\\ r"esultjonpcid20.', max_size=60))
    def test_the_fast_path_finds_what_the_slow_path_finds(self, middle: str) -> None:
        for _, body in layouts(middle.encode()):
            try:
                slow: jsonrpc.Response | None = jsonrpc._split_any_response(body)
            except ValueError:
                slow = None
            try:
                fast: jsonrpc.Response | None = jsonrpc.split_response(body, ID)
            except ValueError:
                fast = None
            assert (fast is None) == (slow is None)
            if fast and slow:
                assert (fast.id, fast.result, fast.error) == (slow.id, slow.result, slow.error)
                assert (fast.result_bytes or b"").strip() == slow.result_bytes

    @pytest.mark.parametrize(
        "smuggled",
        [
            b'{"ok":1},"result":{"evil":1}',
            b'{"ok":1},"id":"other"',
            b'{"ok":1},"error":{"code":1,"message":""}',
            b'{"ok":1},"r\\u0065sult":{"evil":1}',
            b'{"ok":1}}{"a":1',
            b"",
        ],
    )
    def test_members_smuggled_behind_the_result_are_refused(self, smuggled: bytes) -> None:
        name = ID.encode()
        for body in (
            b'{"jsonrpc":"2.0","id":"%b","result":%b}' % (name, smuggled),
            b'{"result":%b,"jsonrpc":"2.0","id":"%b"}' % (smuggled, name),
        ):
            with pytest.raises(ValueError, match=r"\w"):
                jsonrpc.split_response(body, ID)

    def test_an_error_is_given_as_an_object(self) -> None:
        body = b'{"jsonrpc":"2.0","id":"%b","error":{"code":-32602,"message":"no","data":1}}' % ID.encode()
        response = jsonrpc.split_response(body, ID)
        assert response == (ID, None, None, {"code": -32602, "message": "no", "data": 1})

    @pytest.mark.parametrize(
        ("written", "identity"), [(b"1", 1), (b'"1"', "1"), (b"null", None), (b'"other"', "other")]
    )
    def test_another_id_is_given_as_it_is(self, written: bytes, identity: str | int | None) -> None:
        response = jsonrpc.split_response(b'{"jsonrpc":"2.0","id":%b,"result":{}}' % written, ID)
        assert response.id == identity
        assert type(response.id) is type(identity)

    def test_an_answer_to_another_request_keeps_its_own_id_in_every_layout(self) -> None:
        other = ID[::-1]
        for layout, body in layouts(b'{"content":[]}', other):
            assert jsonrpc.split_response(body, ID).id == other, layout

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"{}",
            b"[]",
            b'"x"',
            b"not json",
            b'{"jsonrpc":"2.0","id":"1"}',
            b'{"jsonrpc":"2.0","id":"1","result":{},"error":{}}',
            b'{"jsonrpc":"2.0","id":"1","method":"x","result":{}}',
            b'{"jsonrpc":"2.0","method":"notifications/progress","params":{}}',
            b'{"jsonrpc":"1.0","id":"1","result":{}}',
            b'{"id":"1","result":{}}',
            b'{"jsonrpc":"2.0","id":true,"result":{}}',
            b'{"jsonrpc":"2.0","id":1.5,"result":{}}',
            b'{"jsonrpc":"2.0","id":"1","error":"text"}',
            b'{"jsonrpc":"2.0","id":"1","result":' + b"[" * 100_000 + b"}",
            b'{"jsonrpc":"2.0","id":"1","result":NaN}',
        ],
    )
    def test_what_is_not_a_response_is_a_value_error(self, body: bytes) -> None:
        with pytest.raises(ValueError, match=r"\w"):
            jsonrpc.split_response(body, ID)

    @QUICK
    @given(st.dictionaries(st.text(max_size=8), json_values, max_size=5), st.sampled_from([None, 2]))
    def test_members_are_found_with_their_exact_bytes(self, value: dict[str, Any], indent: int | None) -> None:
        body = json.dumps(value, indent=indent, ensure_ascii=False).encode()
        members = jsonrpc.member_bytes(body)
        assert list(members) == list(value)
        assert all(json.loads(members[name]) == value[name] and members[name] in body for name in value)

    @pytest.mark.parametrize(
        "body",
        [b'{"a":1,"a":2}', b'{"a":1', b'{"a":1,}', b'{"a" 1}', b'{"a":1 "b":2}', b"{1:2}", b"{,}", b"{}x", b'{"a":}'],
    )
    def test_texts_that_are_no_object_with_distinct_members_are_refused(self, body: bytes) -> None:
        with pytest.raises(ValueError, match="object"):
            jsonrpc.member_bytes(body)
