"""Making API keys and replacing them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from gateway.identity import key_text
from gateway.identity.model import KeyRecord, KeyStore
from gateway.keys import KeyRing

LABEL = "api-key"
"""Under which label of the key ring the MACs of keys are made."""

_SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")  # RFC 6749 section 3.3
_LONGEST_NAME = 100


class KeyUnknown(LookupError):
    """There is no valid key of this id."""


class KeyFieldWrong(ValueError):
    """A field of a key to be made is wrong; the text names it and what it should be."""


@dataclass(frozen=True, slots=True)
class IssuedKey:
    """A new key. Its text is known here and now only; it is shown once."""

    text: str
    record: KeyRecord


class KeyIssuer:
    """Makes keys."""

    def __init__(self, store: KeyStore, ring: KeyRing, clock: Callable[[], float]) -> None:
        self._store = store
        self._ring = ring
        self._clock = clock

    async def create(
        self,
        name: str,
        *,
        scopes: tuple[str, ...] = (),
        grants: tuple[str, ...] = ("*",),
        lifetime: float | None = None,
    ) -> IssuedKey:
        """A key for a new principal; `lifetime` in seconds, None for one that does not end by itself.

        Raises:
            KeyFieldWrong: naming the field.
        """
        if not name or len(name) > _LONGEST_NAME or not name.isprintable():
            raise KeyFieldWrong(f"name: must be 1 to {_LONGEST_NAME} printable characters")
        for scope in scopes:
            if not _SCOPE.fullmatch(scope):
                raise KeyFieldWrong(f"scope: {scope!r} is no scope; it must be visible ASCII without spaces and quotes")
        for grant in grants:
            if not grant or not grant.isprintable():
                raise KeyFieldWrong("grant: must be a pattern over exposed names, such as github__* or *")
        issued = self._made(name, None, scopes, grants, lifetime)
        await self._store.add(issued.record)
        return issued

    async def rotate(self, key_id: str, *, overlap: float) -> IssuedKey:
        """A key in place of another, for the same principal, living as long; the old one ends after `overlap` seconds.

        Raises:
            KeyUnknown: there is no valid key of this id.
        """
        old = await self._store.find(key_id)
        now = self._clock()
        if old is None or not old.is_valid_at(now):
            raise KeyUnknown(f"there is no valid key {key_id}")
        lifetime = None if old.expires is None else old.expires - old.created
        issued = self._made(old.name, old.principal, old.scopes, old.grants, lifetime)
        if not await self._store.replace(key_id, now + overlap, issued.record):
            raise KeyUnknown(f"there is no valid key {key_id}")
        return issued

    def _made(
        self,
        name: str,
        principal: str | None,
        scopes: tuple[str, ...],
        grants: tuple[str, ...],
        lifetime: float | None,
    ) -> IssuedKey:
        key_id, text = key_text.generate()
        now = self._clock()
        record = KeyRecord(
            id=key_id,
            principal=principal or f"key:{key_id}",
            name=name,
            mac=self._ring.macs(LABEL, text.encode("ascii"))[0],
            scopes=tuple(sorted(set(scopes))),
            grants=tuple(sorted(set(grants))),
            created=now,
            expires=None if lifetime is None else now + lifetime,
        )
        return IssuedKey(text, record)
