"""What exists: servers, their versions, and the definition of each as its clients can see it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import sha256
from typing import Any

from catalogue.digest import canonical


class Kind(StrEnum):
    """The four listed primitives; the value is the member that lists them."""

    TOOL = "tools"
    PROMPT = "prompts"
    RESOURCE = "resources"
    TEMPLATE = "resourceTemplates"

    @property
    def method(self) -> str:
        """The list method."""
        return "resources/templates/list" if self is Kind.TEMPLATE else f"{self.value}/list"

    @property
    def key(self) -> str:
        """The member that identifies an item."""
        return {"resources": "uri", "resourceTemplates": "uriTemplate"}.get(self.value, "name")


@dataclass(frozen=True, slots=True)
class Facts:
    """What the operator (later the catalogue) states about one tool."""

    idempotent: bool = False
    scopes: frozenset[str] = frozenset()
    price: float = 0.0
    labels: frozenset[str] = frozenset()
    approval: bool = False


NO_FACTS = Facts()


@dataclass(frozen=True, slots=True, eq=False)
class Server:
    """One version of one server, as the operator declared it. One object per version: compared by identity."""

    slug: str
    version: str
    url: str
    transport: str = "auto"
    protocol: str = "auto"
    allow_sampling: bool = False
    allow_roots: bool = False
    deadline: float = 60.0
    concurrency: int = 64
    max_event_bytes: int = 4 * 1024 * 1024
    facts: Mapping[str, Facts] = field(default_factory=dict)
    trust: str = "config"


@dataclass(frozen=True, slots=True)
class Freshness:
    """Caching hints of one list: `ttl_ms` from when it was read, and whether other callers may be served it."""

    ttl_ms: int
    public: bool

    @classmethod
    def of(cls, page: Mapping[str, Any]) -> Freshness | None:
        """The hints of a list result; None where the revision has none. An odd ttl counts as none left."""
        ttl = page.get("ttlMs")
        if "ttlMs" not in page and "cacheScope" not in page:
            return None
        valid = isinstance(ttl, int) and not isinstance(ttl, bool) and ttl >= 0
        return cls(min(ttl, _DAY_MS) if valid and ttl is not None else 0, page.get("cacheScope") == "public")


_DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True)
class Definition:
    """All that a model or client can see of one server version.

    Items are raw JSON objects as the upstream listed them, malformed ones removed (`findings` says which and why).
    `capabilities` and `instructions` are the upstream's; `era` is "modern" or "legacy".
    """

    items: Mapping[Kind, tuple[Mapping[str, Any], ...]]
    capabilities: Mapping[str, Any] = field(default_factory=dict)
    server_info: Mapping[str, Any] = field(default_factory=dict)
    instructions: str | None = None
    findings: tuple[str, ...] = ()
    freshness: Mapping[Kind, Freshness] = field(default_factory=dict)

    def to_json(self) -> bytes:
        """The text that is kept and digested; freshness is of the moment and left out."""
        return canonical(
            {
                "items": {kind.value: list(items) for kind, items in self.items.items()},
                "capabilities": self.capabilities,
                "serverInfo": self.server_info,
                "instructions": self.instructions,
            }
        )

    @classmethod
    def from_json(cls, text: bytes) -> Definition:
        """What `to_json` wrote."""
        value = json.loads(text.decode("utf-8", "surrogatepass"))
        return cls(
            items={Kind(name): tuple(items) for name, items in value["items"].items()},
            capabilities=value["capabilities"],
            server_info=value["serverInfo"],
            instructions=value["instructions"],
        )

    @property
    def digest(self) -> str:
        """Fingerprint of all that a model or client can see."""
        return sha256(self.to_json()).hexdigest()

    @property
    def least_ttl(self) -> int | None:
        """Milliseconds after which the first of its lists is stale; None where none says."""
        return min((fresh.ttl_ms for fresh in self.freshness.values()), default=None)


@dataclass(frozen=True, slots=True)
class Item:
    """One listed thing under its exposed name, on the federated endpoint or on its server's own."""

    kind: Kind
    server: Server
    upstream_name: str
    exposed_name: str
    raw: Mapping[str, Any]
    facts: Facts = NO_FACTS
    header_map: Mapping[tuple[str, ...], str] = field(default_factory=dict)
