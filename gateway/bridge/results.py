"""From an upstream's result to the one a client of another revision understands; bytes stay bytes where they can."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from mcp_types import SERVER_INFO_META_KEY

from catalogue import schemas
from gateway import jsonrpc
from gateway.calls import OUR_META_PREFIX, RECORD_META_KEY, Answer, Call, Method
from gateway.errors import UpstreamProtocolError

SERVER_INFO: Final = {"name": "mcp-gateway", "version": "0.1.0"}

_INTERIM = "input_required"
_MAY_ASK = frozenset({Method.TOOLS_CALL, Method.PROMPTS_GET, Method.RESOURCES_READ})
_COMPLETE = b'"resultType":"complete"'
_NO_CACHE: Final = {"ttlMs": b'"ttlMs":0', "cacheScope": b'"cacheScope":"private"'}


def checked(answer: Answer, call: Call) -> Answer:
    """Refuses a `resultType` nobody negotiated (2026-07-28 basic/index: unknown means invalid).

    Raises:
        UpstreamProtocolError: the result is not one of this method's.
    """
    kind = answer.value.get("resultType", "complete")
    if kind == "complete" or (kind == _INTERIM and call.method in _MAY_ASK and call.caller.modern):
        return answer
    slug = call.server.slug
    raise UpstreamProtocolError(slug, f"The server {slug} answered with a kind of result that was not asked for.")


def is_interim(answer: Answer) -> bool:
    """Does the upstream ask for input before it answers?"""
    return answer.value.get("resultType") == _INTERIM


def for_client(answer: Answer, call: Call) -> bytes:
    """The JSON text of the result as this client's revision has it, with the record's id in `_meta`.

    Raises:
        UpstreamProtocolError: it has a member twice, which two readers may read differently.
    """
    try:
        return _for_client(answer, call)
    except ValueError as error:
        slug = call.server.slug
        raise UpstreamProtocolError(slug, f"The server {slug} answered with a malformed result.") from error


def _for_client(answer: Answer, call: Call) -> bytes:
    caller = call.caller
    if not caller.modern:
        method, revision = call.method.value, caller.revision
        if schemas.result_for(answer.value, method, revision) is not answer.value:
            answer = answer.rewritten(lambda exact: schemas.result_for(exact, method, revision))
        return _with_meta(answer, {RECORD_META_KEY: call.id}, ())
    additions: list[bytes] = []
    value = answer.value
    if "resultType" not in value:
        additions.append(_COMPLETE)
    if call.method is Method.RESOURCES_READ and not is_interim(answer):
        additions += [hint for name, hint in _NO_CACHE.items() if name not in value]
    ours: dict[str, Any] = {RECORD_META_KEY: call.id}
    if call.federated or SERVER_INFO_META_KEY not in _meta(value):
        ours = {SERVER_INFO_META_KEY: SERVER_INFO, **ours}
    return _with_meta(answer, ours, additions)


def _meta(value: Mapping[str, Any]) -> Mapping[str, Any]:
    meta = value.get("_meta")
    return meta if isinstance(meta, dict) else {}


def _with_meta(answer: Answer, ours: Mapping[str, Any], additions: list[bytes] | tuple[()]) -> bytes:
    """Adds members at the front of the object's text, so that what the upstream wrote stays as it wrote it."""
    raw = answer.raw
    if "_meta" in answer.value:
        members = jsonrpc.member_bytes(raw)
        theirs = jsonrpc.loads_exact(members.pop("_meta"))
        if isinstance(theirs, dict):  # what stands under our own prefix is said by us alone
            ours = {**{key: theirs[key] for key in theirs if not key.startswith(OUR_META_PREFIX)}, **ours}
        rest = [jsonrpc.dumps(name) + b":" + value for name, value in members.items()]
        return b"{" + b",".join((b'"_meta":' + jsonrpc.dumps(ours), *additions, *rest)) + b"}"
    front = b",".join((b'"_meta":' + jsonrpc.dumps(ours), *additions))
    inside = raw[raw.index(b"{") + 1 :]
    return b"{" + front + (b"," if answer.value else b"") + inside
