"""Who was authenticated, and by which key."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from gateway.calls import Principal

__all__ = ["KeyRecord", "KeyStore", "Principal"]


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """What is kept of an API key; of its text only a MAC. Times are Unix time.

    `principal` stays the same when the key is rotated, so that what belongs to it stays with its owner.
    """

    id: str
    principal: str
    name: str
    mac: bytes
    scopes: tuple[str, ...]
    grants: tuple[str, ...]
    created: float
    expires: float | None = None
    revoked: float | None = None

    def is_valid_at(self, now: float) -> bool:
        return self.revoked is None and (self.expires is None or now < self.expires)


class KeyStore(Protocol):
    """The port behind which API keys are kept. Adapters: storage/keys.py, and one in memory for tests.

    Every change of a key is published with it, as kind "key" and the key's id. Raises StorageUnavailable.
    """

    async def find(self, key_id: str) -> KeyRecord | None:
        """The key of this id, valid or not."""

    async def all(self) -> list[KeyRecord]:
        """Every key, oldest first."""

    async def add(self, record: KeyRecord) -> None:
        """Keeps a new key."""

    async def revoke(self, key_id: str, now: float) -> bool:
        """Ends a key at once. False when there is none of this id; a key revoked before stays as it was."""

    async def replace(self, key_id: str, expires: float, successor: KeyRecord) -> bool:
        """Keeps the successor and lets the key end at `expires`, or sooner if it would. False if it is not valid."""

    async def renew_mac(self, key_id: str, old: bytes, new: bytes) -> None:
        """Replaces a MAC made under an older key of the ring, unless it has changed."""
