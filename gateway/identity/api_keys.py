"""API keys: from the text on a request to a principal.

In steady state this costs a hash and a dictionary look-up. What is remembered is forgotten when a change of the key is
heard, is not believed while changes may go unheard, and ends by itself after a minute at the latest.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import Callable
from typing import NamedTuple, Protocol

from gateway.errors import StorageUnavailable, Unauthenticated
from gateway.identity import key_text as form
from gateway.identity.issuing import LABEL
from gateway.identity.model import KeyRecord, KeyStore, Principal
from gateway.keys import KeyRing

KIND = "key"
"""The kind of change under which key ids are published."""

_EVERYTHING = "*"
_UNKNOWN_FOR = 5.0
_NO_MAC = bytes(32)


class Changes(Protocol):
    """What is needed here of the bus of changes (gateway/sessions/changes.py)."""

    @property
    def healthy(self) -> bool:
        """False while changes may go unheard."""

    def subscribe(self, kind: str, callback: Callable[[str], None]) -> Callable[[], None]:
        """Calls back with the id of every change of this kind."""


class _Verified(NamedTuple):
    principal: Principal
    until: float
    key_id: str


class _Known(NamedTuple):
    record: KeyRecord | None
    until: float


class ApiKeys:
    """Authenticates key texts. `remembered` is in seconds; `cache_size` bounds each of the caches."""

    def __init__(
        self,
        store: KeyStore,
        ring: KeyRing,
        changes: Changes,
        *,
        clock: Callable[[], float],
        remembered: float = 60.0,
        cache_size: int = 50_000,
    ) -> None:
        self._store = store
        self._ring = ring
        self._changes = changes
        self._clock = clock
        self._remembered = remembered
        self._size = cache_size
        # By the hash of the text, so that no key lies in memory.
        self._verified: dict[bytes, _Verified] = {}
        self._digests: dict[str, bytes] = {}
        self._known: dict[str, _Known] = {}
        self._reading: dict[str, asyncio.Task[KeyRecord | None]] = {}
        changes.subscribe(KIND, self._changed)
        changes.subscribe(_EVERYTHING, self._all_changed)

    def find_cached(self, key_text: str) -> Principal | None:
        """The key's principal if this replica can tell without asking the store; None is no answer."""
        verified = self._verified.get(hashlib.sha256(key_text.encode("utf-8", "surrogatepass")).digest())
        if verified is None or self._clock() >= verified.until or not self._changes.healthy:
            return None
        return verified.principal

    async def authenticate(self, key_text: str) -> Principal:
        """The key's principal.

        Raises:
            Unauthenticated: malformed, unknown, wrong, expired or revoked, all alike.
        """
        found = self.find_cached(key_text)
        if found is not None:
            return found
        key_id = form.find_id(key_text)
        if key_id is None:
            raise _refused()
        record = await self._record(key_id)
        # An unknown id takes as long as a wrong secret: the MACs are made and compared all the same.
        macs = self._ring.macs(LABEL, key_text.encode("ascii"))
        stored = _NO_MAC if record is None else record.mac
        fits = [hmac.compare_digest(mac, stored) for mac in macs]
        now = self._clock()
        if record is None or not any(fits) or not record.is_valid_at(now):
            raise _refused()
        principal = Principal(record.principal, "key", frozenset(record.scopes), record.grants)
        known = self._known.get(key_id)
        if known is not None and known.record is record:  # else it has changed meanwhile
            self._remember(key_text, record, principal, known.until)
        if not fits[0]:
            await self._renew(record, macs[0])
        return principal

    async def _record(self, key_id: str) -> KeyRecord | None:
        known = self._known.get(key_id)
        if known is not None and self._clock() < known.until and self._changes.healthy:
            return known.record
        reading = self._reading.get(key_id)
        if reading is None:
            reading = self._reading[key_id] = asyncio.create_task(self._read(key_id))
        return await asyncio.shield(reading)

    async def _read(self, key_id: str) -> KeyRecord | None:
        this = asyncio.current_task()
        try:
            record = await self._store.find(key_id)
            # A change heard meanwhile has taken us off the list: what was read may be older than it.
            if self._reading.get(key_id) is this:
                lifetime = _UNKNOWN_FOR if record is None else self._remembered
                if len(self._known) >= self._size:
                    del self._known[next(iter(self._known))]
                self._known[key_id] = _Known(record, self._clock() + lifetime)
            return record
        finally:
            if self._reading.get(key_id) is this:
                del self._reading[key_id]

    def _remember(self, key_text: str, record: KeyRecord, principal: Principal, until: float) -> None:
        if record.expires is not None:
            until = min(until, record.expires)
        digest = hashlib.sha256(key_text.encode("ascii")).digest()
        if len(self._verified) >= self._size:
            oldest = self._verified.pop(next(iter(self._verified)))
            self._digests.pop(oldest.key_id, None)
        self._verified[digest] = _Verified(principal, until, record.id)
        self._digests[record.id] = digest

    async def _renew(self, record: KeyRecord, mac: bytes) -> None:
        # The MAC was made under an older key of the ring. Made anew at its use, the old key can leave the ring once
        # every API key was used. That it fails now is no reason to refuse a valid key.
        try:
            await self._store.renew_mac(record.id, record.mac, mac)
        except StorageUnavailable:
            return

    def _changed(self, key_id: str) -> None:
        self._reading.pop(key_id, None)
        self._known.pop(key_id, None)
        digest = self._digests.pop(key_id, None)
        if digest is not None:
            self._verified.pop(digest, None)

    def _all_changed(self, _: str) -> None:
        self._reading.clear()
        self._known.clear()
        self._digests.clear()
        self._verified.clear()


def _refused() -> Unauthenticated:
    return Unauthenticated("The API key is not valid.")
