"""JSON-RPC as bytes: strict about what clients send, exact about what upstreams answer.

A request is decided on by us and read again by an upstream with another parser. Whatever two parsers may read
differently (a member twice, `Method` beside `method`, `NaN`, half a surrogate pair) is therefore refused, so that
what was permitted is what gets executed. A result is decoded to be inspected, and forwarded as the bytes received.
"""

import json
import math
import re
from decimal import Decimal
from enum import Enum
from typing import Any, Literal, NamedTuple, overload

import orjson
from mcp_types.jsonrpc import INVALID_REQUEST, PARSE_ERROR

MAX_DEPTH = 64

# RFC 8259 whitespace: narrower than what str.strip() and \s take.
_WHITESPACE = " \t\n\r"

_ENVELOPE = frozenset({"jsonrpc", "id", "method", "params", "result", "error"})
# Members of `params` that any revision of the protocol defines.
_PARAMS = frozenset(
    {
        *("_meta", "argument", "arguments", "capabilities", "clientInfo", "context", "cursor", "data"),
        *("inputResponses", "level", "logger", "message", "name", "notifications", "progress", "progressToken"),
        *("protocolVersion", "reason", "ref", "requestId", "requestState", "task", "taskId", "total", "uri"),
    }
)
_META = frozenset(
    {
        *("progressToken", "traceparent", "tracestate", "baggage"),
        *("io.modelcontextprotocol/protocolVersion", "io.modelcontextprotocol/clientInfo"),
        *("io.modelcontextprotocol/clientCapabilities", "io.modelcontextprotocol/logLevel"),
        *("io.modelcontextprotocol/subscriptionId", "io.modelcontextprotocol/related-task"),
    }
)
_REFERENCE = frozenset({"type", "name", "uri"})
_FOLDED = {name.casefold(): name for name in _ENVELOPE | _PARAMS | _META | _REFERENCE}


class InvalidMessage(ValueError):
    """A message that is refused: `code` is -32700 or -32600, `reason` never holds the caller's text."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class Kind(Enum):
    """What a message is: by its members alone, as JSON-RPC has no member that says so."""

    REQUEST = "request"
    NOTIFICATION = "notification"
    RESPONSE = "response"


class Response(NamedTuple):
    """An upstream's response. `result_bytes` is None for an error; `result` alone cannot tell (it may be null)."""

    id: str | int | None
    result: Any | None
    result_bytes: bytes | None
    error: dict[str, Any] | None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise InvalidMessage(INVALID_REQUEST, "an object has the same member twice")
    return members


def _refuse_constant(_text: str) -> float:
    raise InvalidMessage(PARSE_ERROR, "NaN and Infinity are not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise InvalidMessage(PARSE_ERROR, "a number is too large")
    return number


# Integers keep the interpreter's own limit (4300 digits), above which int() raises ValueError.
_STRICT = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_refuse_constant, parse_float=_finite)


def _exact(text: str) -> float | int:
    """A number as a float, or as an exact integer where a float would overflow, so that it can be written again."""
    number = float(text)
    if math.isfinite(number):
        return number
    try:
        exact = Decimal(text)
    except ArithmeticError:
        raise ValueError("a number is too large") from None
    if exact.adjusted() > 4000:
        raise ValueError("a number is too large")
    return int(exact)


def _no_constant(_text: str) -> float:
    raise ValueError("NaN and Infinity are not JSON")


_TOLERANT = json.JSONDecoder(parse_constant=_no_constant, parse_float=_exact)

_STRING = re.compile(rb'"[^"]*+"')
_NOT_STRUCTURE = bytes(set(range(256)) - set(b'[]{}"'))
_SAME_BRACKETS = bytes.maketrans(b"{}", b"[]")
_PEAK = re.compile(rb"(\[++)(\]*+)")


def _too_deep(body: bytes) -> bool:
    """True if brackets outside strings nest deeper than MAX_DEPTH. Linear, and without a loop over the bytes."""
    # Two quotes side by side open and close nothing that matters here: without them the others keep their parity.
    bare = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    brackets = _STRING.sub(b"", bare.translate(_SAME_BRACKETS, _NOT_STRUCTURE).replace(b'""', b""))
    # Taking out the innermost pairs takes one level off. It is done while it shortens the text well; what is left
    # then has long runs of brackets, and the loop below runs over the runs.
    limit = MAX_DEPTH
    while limit and len(inner := brackets.replace(b"[]", b"")) < len(brackets) * 7 // 8:
        brackets = inner
        limit -= 1
    height = 0
    for peak in _PEAK.finditer(brackets):
        rise, fall = peak.end(1) - peak.start(), peak.end() - peak.end(1)
        height += rise
        if height > limit:
            return True
        height -= fall
    return False


def _has_lone_surrogate(body: bytes, value: Any) -> bool:
    if b"\\ud" not in body and b"\\uD" not in body:
        return False
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False


def _parse(body: bytes) -> Any:
    # Fewer brackets than levels cannot nest too deep, which spares nearly every request the scan.
    if body.count(b"{") + body.count(b"[") > MAX_DEPTH and _too_deep(body):
        raise InvalidMessage(PARSE_ERROR, f"the body nests deeper than {MAX_DEPTH} levels")
    try:
        text = body.decode().strip(_WHITESPACE)
        value, end = _STRICT.raw_decode(text)
    except InvalidMessage:
        raise
    except UnicodeDecodeError:
        raise InvalidMessage(PARSE_ERROR, "the body is not UTF-8") from None
    except (ValueError, RecursionError):
        # `from None`, because a JSONDecodeError carries the whole document.
        raise InvalidMessage(PARSE_ERROR, "the body is not JSON") from None
    if end != len(text):
        raise InvalidMessage(PARSE_ERROR, "the body is not JSON")
    if b"\\" in body and _has_lone_surrogate(body, value):
        raise InvalidMessage(PARSE_ERROR, "a string holds half a surrogate pair")
    return value


def _refuse_variants(members: dict[str, Any], names: frozenset[str]) -> None:
    """Refuse members that a case-insensitive parser (Go's, for one) would take for one of `names`."""
    for member in members.keys() - names:
        if _FOLDED.get(member.casefold()) in names:
            raise InvalidMessage(INVALID_REQUEST, "a member's name differs from the protocol's in upper and lower case")


def _check_params(params: Any) -> None:
    if type(params) is not dict:
        raise InvalidMessage(INVALID_REQUEST, "params must be an object")
    if not _PARAMS.issuperset(params):
        _refuse_variants(params, _PARAMS)
    meta = params.get("_meta")
    if type(meta) is dict and not _META.issuperset(meta):
        _refuse_variants(meta, _META)
    reference = params.get("ref")
    if type(reference) is dict and not _REFERENCE.issuperset(reference):
        _refuse_variants(reference, _REFERENCE)


def _check_envelope(message: Any) -> dict[str, Any]:
    if type(message) is not dict:
        raise InvalidMessage(INVALID_REQUEST, "a message must be an object")
    if not _ENVELOPE.issuperset(message):
        _refuse_variants(message, _ENVELOPE)
    if message.get("jsonrpc") != "2.0":
        raise InvalidMessage(INVALID_REQUEST, 'jsonrpc must be "2.0"')
    # type() and not isinstance(): true and false are integers to Python, and not ids.
    if "id" in message and (kind := type(message["id"])) is not str and kind is not int:
        raise InvalidMessage(INVALID_REQUEST, "id must be a string or an integer")
    if "method" in message and type(message["method"]) is not str:
        raise InvalidMessage(INVALID_REQUEST, "method must be a string")
    if "params" in message:
        _check_params(message["params"])
    return message


@overload
def decode_request(body: bytes, *, batch: Literal[False] = False) -> dict[str, Any]: ...
@overload
def decode_request(body: bytes, *, batch: bool) -> dict[str, Any] | list[dict[str, Any]]: ...
def decode_request(body: bytes, *, batch: bool = False) -> dict[str, Any] | list[dict[str, Any]]:
    """Decode what a client sent; arrays only with `batch` (revision 2025-03-26 alone has them). Raises InvalidMessage.

    Linear in the size of the body. Callers hand bodies of more than 256 KiB to a thread.
    """
    value = _parse(body)
    if type(value) is list and batch:
        if not value:
            raise InvalidMessage(INVALID_REQUEST, "a batch must not be empty")
        return [_check_envelope(message) for message in value]
    return _check_envelope(value)


def kind_of(message: dict[str, Any]) -> Kind:
    """What a decoded message is. Raises InvalidMessage for one that is none of the three, or two at once."""
    answers = ("result" in message) + ("error" in message)
    if "method" in message:
        if answers:
            raise InvalidMessage(INVALID_REQUEST, "a message has both a method and an answer")
        return Kind.REQUEST if "id" in message else Kind.NOTIFICATION
    if answers != 1 or "id" not in message:
        raise InvalidMessage(INVALID_REQUEST, "a message needs a method, or an id with either result or error")
    if type(message.get("result", message.get("error"))) is not dict:
        raise InvalidMessage(INVALID_REQUEST, "result and error must be objects")
    return Kind.RESPONSE


def dumps(value: Any) -> bytes:
    """JSON text of a value. Raises ValueError for what JSON cannot hold, but writes inf and nan as null."""
    try:
        return orjson.dumps(value)
    except TypeError:
        pass
    # What orjson refuses: integers beyond 64 bits, lone surrogates, more than 254 levels.
    try:
        return json.dumps(value, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode("ascii")
    except (TypeError, RecursionError) as error:
        raise ValueError("the value cannot be written as JSON") from error


def loads(body: bytes) -> Any:
    """Decode what an upstream sent, with the lone surrogates and overflowing numbers that JSON's grammar allows.

    Integers beyond 64 bits come back as floats: to inspect, that is enough, and what is forwarded is the bytes.
    Never yields inf or nan. Raises ValueError without the upstream's text.
    """
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        pass  # Left before going on, since that error carries the whole text and would become the next one's context.
    return loads_exact(body)


def loads_exact(body: bytes) -> Any:
    """As `loads`, with integers of any size exact: for values that will be written again."""
    try:
        text = body.decode().strip(_WHITESPACE)
        value, end = _TOLERANT.raw_decode(text)
    except (ValueError, RecursionError):
        raise ValueError("the text is not JSON") from None
    if end != len(text):
        raise ValueError("the text is not JSON")
    return value


_SPACE = re.compile(r"[ \t\n\r]*+")


def _skip(text: str, at: int) -> int:
    space = _SPACE.match(text, at)
    return space.end() if space else at


def _after_member(text: str, at: int) -> int:
    """Where the next member's name starts, or the closing brace stands."""
    at = _skip(text, at)
    if text.startswith(",", at):
        at = _skip(text, at + 1)
        if text.startswith('"', at):
            return at
    elif text.startswith("}", at):
        return at
    raise ValueError("the text is not a JSON object")


def member_bytes(body: bytes) -> dict[str, bytes]:
    """The members of a JSON object: name -> exact bytes of its value. Refuses duplicates; raises ValueError."""
    members: dict[str, bytes] = {}
    try:
        text = body.decode().strip(_WHITESPACE)
        if not text.startswith("{"):
            raise ValueError("the text is not a JSON object")
        at = _skip(text, 1)
        while not text.startswith("}", at):
            name, at = _TOLERANT.raw_decode(text, at)
            at = _skip(text, at)
            if type(name) is not str or not text.startswith(":", at):
                raise ValueError("the text is not a JSON object")
            start = _skip(text, at + 1)
            _, at = _TOLERANT.raw_decode(text, start)
            if name in members:
                raise ValueError("the object has the same member twice")
            # Strict UTF-8 decodes one to one, so encoding the span again gives the bytes that were received.
            members[name] = text[start:at].encode()
            at = _after_member(text, at)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError):
        raise ValueError("the text is not a JSON object") from None
    if at != len(text) - 1:
        raise ValueError("text follows the JSON object")
    return members


def split_response(body: bytes, request_id: str) -> Response:
    """Split an upstream's response into its parts, `result` with its exact bytes. Raises ValueError for no response.

    `request_id` is ours: ASCII without quotes and backslashes. The response's own id is not compared here, since
    an error may carry null. Two layouts cost one parse: the Python SDK's and the TypeScript SDK's. There, a slice
    that parses as ONE value proves that the body has no other members: what is inspected is what is forwarded.
    """
    if not body.endswith(b"}"):
        body = body.strip(b" \t\n\r")  # Go's encoder ends its texts with a newline.
    identity = b'"' + request_id.encode("ascii") + b'"'
    if body.startswith(b'{"result":'):
        lead, rest = b'{"result":', b',"jsonrpc":"2.0","id":' + identity + b"}"
    elif body.startswith(b'{"jsonrpc":"2.0"'):
        lead, rest = b'{"jsonrpc":"2.0","id":' + identity + b',"result":', b"}"
    else:
        lead, rest = b'{"jsonrpc": "2.0", "id": ' + identity + b', "result": ', b"}"
    if body.startswith(lead) and body.endswith(rest):
        found = body[len(lead) : -len(rest)]
        try:
            return Response(request_id, orjson.loads(found), found, None)
        except orjson.JSONDecodeError:
            pass
    return _split_any_response(body)


def _split_any_response(body: bytes) -> Response:
    members = member_bytes(body)
    if loads(members.get("jsonrpc", b"null")) != "2.0" or "method" in members:
        raise ValueError("the message is not a JSON-RPC response")
    if ("result" in members) == ("error" in members):
        raise ValueError("a response needs either result or error")
    identity = loads(members.get("id", b"null"))
    if identity is not None and type(identity) is not str and type(identity) is not int:
        raise ValueError("the response's id is neither a string nor an integer")
    if "result" in members:
        return Response(identity, loads(members["result"]), members["result"], None)
    error = loads(members["error"])
    if type(error) is not dict:
        raise ValueError("the response's error is not an object")
    return Response(identity, None, None, error)
