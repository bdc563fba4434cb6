"""The port behind which definitions are kept between runs. Adapter: catalogue/storage.py."""

from __future__ import annotations

from typing import Protocol


class DefinitionStore(Protocol):
    """The last definition of every server version, as the bytes that were digested."""

    async def save(self, slug: str, version: str, digest: str, body: bytes) -> None:
        """Keeps this definition in place of the one before; writes nothing when the digest is the same."""

    async def load_all(self) -> dict[tuple[str, str], tuple[str, bytes]]:
        """(digest, body) by (slug, version)."""
