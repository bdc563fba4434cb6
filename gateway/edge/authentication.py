"""Who is calling: an API key, or nobody where the operator allows that."""

from __future__ import annotations

from typing import Final

from gateway.calls import Principal
from gateway.edge.http import Request
from gateway.errors import Unauthenticated
from gateway.identity.api_keys import ApiKeys

ANONYMOUS: Final = Principal("anonymous", "anonymous")


class Authentication:
    """Answers with a principal or raises; there is no third outcome to fall through."""

    def __init__(self, keys: ApiKeys, *, anonymous: bool) -> None:
        self._keys = keys
        self._anonymous = anonymous

    async def authenticate(self, request: Request) -> Principal:
        """The principal of the request. A credential that is given must be valid, also where none is required.

        Raises:
            Unauthenticated: none, malformed, unknown, expired or revoked.
        """
        header = request.headers.get("authorization")
        if header is None:
            if self._anonymous:
                return ANONYMOUS
            raise Unauthenticated("no credential")
        kind, _, text = header.partition(" ")
        if kind.lower() != "bearer":
            raise Unauthenticated("not a bearer credential")
        return self._keys.find_cached(text) or await self._keys.authenticate(text)
