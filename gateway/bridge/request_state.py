"""Our requestState around the upstream's: says which call a retry belongs to, and belongs to nobody else.

2026-07-28 basic/patterns/mrtr: the state is the server's; a client echoes it. The upstream's own state travels
inside, sealed, and is given back to it byte by byte.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from gateway import jsonrpc
from gateway.calls import Call
from gateway.errors import InvalidParams
from gateway.keys import KeyRing, SealBroken

LIFETIME_SECONDS: Final = 3600
"""A person may take a while to answer."""

_LABEL = "request-state"
_NOT_BOUND = frozenset({"_meta", "requestState", "inputResponses"})


@dataclass(frozen=True, slots=True)
class Resumed:
    """What a retry's requestState says: which call it continues, the round it is, the upstream's own state."""

    call_id: str
    round: int
    inner: str | None


class RequestStates:
    """Seals and opens; every replica with the same key ring can open what another sealed."""

    def __init__(self, keys: KeyRing, *, clock: Callable[[], float] = time.time) -> None:
        self._keys = keys
        self._clock = clock

    def seal(self, call: Call, params: Mapping[str, Any], inner: str | None) -> str:
        """The state a client gets; `params` are the client's own."""
        payload = jsonrpc.dumps([call.id, call.round.number, int(self._clock()) + LIFETIME_SECONDS, inner])
        return self._keys.seal(_LABEL, payload, _bound_to(call, params))

    def open(self, call: Call, params: Mapping[str, Any], token: object) -> Resumed:
        """What the retry continues.

        Raises:
            InvalidParams: not ours, changed, too old, or made for another principal, server, method, name or arguments.
        """
        if not isinstance(token, str):
            raise InvalidParams("requestState: must be a string")
        try:
            sealed = self._keys.open(_LABEL, token, _bound_to(call, params))
        except SealBroken as error:
            raise InvalidParams("requestState: not valid for this request") from error
        call_id, number, expires, inner = jsonrpc.loads(sealed)
        if expires < self._clock():
            raise InvalidParams("requestState: too old; call again without it")
        return Resumed(call_id, number + 1, inner)


def _bound_to(call: Call, params: Mapping[str, Any]) -> bytes:
    """Principal, upstream, method, name and arguments, as one digest."""
    arguments = {key: value for key, value in params.items() if key not in _NOT_BOUND}
    facts = [
        call.caller.principal.id,
        call.caller.endpoint,
        call.server.slug,
        call.server.version,
        call.method.value,
        _canonical(arguments),
    ]
    return hashlib.sha256("\x00".join(facts).encode("utf-8", "surrogatepass")).digest()


def _canonical(value: Mapping[str, Any]) -> str:
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()
    except TypeError:  # integers beyond 64 bits
        return jsonrpc.dumps(_sorted(value)).decode()


def _sorted(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _sorted(value[key]) for key in sorted(value)}
    return [_sorted(item) for item in value] if isinstance(value, list) else value
