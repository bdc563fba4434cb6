"""Ids of server requests as clients see them: sealed addresses, so that the answer may arrive at any replica."""

from __future__ import annotations

from dataclasses import dataclass

from gateway import jsonrpc
from gateway.keys import KeyRing, SealBroken

_LABEL = "server-request"


@dataclass(frozen=True, slots=True)
class Address:
    """Where an answer goes: the upstream session's key and the id that the upstream gave its request."""

    upstream_key: str
    upstream_id: str | int


class ServerRequests:
    """Seals and opens the ids; a session's ids are of no use to another session."""

    def __init__(self, keys: KeyRing) -> None:
        self._keys = keys

    def seal(self, session_id: str, address: Address) -> str:
        """The id under which the client gets the request."""
        payload = jsonrpc.dumps([address.upstream_key, address.upstream_id])
        return self._keys.seal(_LABEL, payload, session_id.encode())

    def open(self, session_id: str, request_id: object) -> Address | None:
        """The address in an answer's id; None for an id that was not given to this session."""
        if not isinstance(request_id, str):
            return None
        try:
            upstream_key, upstream_id = jsonrpc.loads_exact(self._keys.open(_LABEL, request_id, session_id.encode()))
        except (SealBroken, ValueError):
            return None
        return Address(upstream_key, upstream_id)
