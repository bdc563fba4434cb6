"""What an endpoint says of itself: merged capabilities, instructions, identity, freshness."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from catalogue.model import Kind
from catalogue.snapshot import View
from gateway.bridge.results import SERVER_INFO
from gateway.calls import Caller
from gateway.policy.authorization import Hidden, permits

INSTRUCTIONS_CHARACTERS: Final = 16_000
"""Bound of the merged instructions; what does not fit is left out, whole servers at a time."""
UNAVAILABLE_TTL_MS: Final = 5_000
"""For lists with a part that is away and served from what it last published."""
DEFAULT_TTL_MS: Final = 60_000
"""For lists of upstreams whose revision names no ttl: we hear of changes, a client without a stream does not."""


@dataclass(frozen=True, slots=True)
class Introduction:
    """The answer's parts to `initialize` and `server/discover`."""

    server_info: Mapping[str, Any]
    capabilities: Mapping[str, Any]
    instructions: str | None


def introduce(view: View, caller: Caller) -> Introduction:
    """Union over what the caller may see at all; what the gateway makes itself (list changes) is always offered."""
    principal = caller.principal
    parts = [
        part
        for part in view.parts
        if principal.grants == ("*",)
        or any(
            not isinstance(permits(principal, part.server, item, item.upstream_name), Hidden)
            for kind in Kind
            for item in part.own[kind]
        )
    ]
    capabilities: dict[str, Any] = {}
    for name in ("tools", "prompts", "resources"):
        sections = [section for part in parts if (section := part.definition.capabilities.get(name)) is not None]
        if sections:
            capabilities[name] = {"listChanged": True}
            if name == "resources":
                watched = any(isinstance(section, dict) and section.get("subscribe") for section in sections)
                capabilities[name]["subscribe"] = watched
    for name in ("completions", "logging"):
        if any(name in part.definition.capabilities for part in parts):
            capabilities[name] = {}
    if view.endpoint:
        part_info = parts[0].definition.server_info if parts else {}
        instructions = parts[0].definition.instructions if parts else None
        return Introduction(part_info or SERVER_INFO, capabilities, instructions)
    return Introduction(SERVER_INFO, capabilities, _merged(parts))


def _merged(parts: list[Any]) -> str | None:
    sections: list[str] = []
    room = INSTRUCTIONS_CHARACTERS
    for part in parts:
        if not part.definition.instructions:
            continue
        slug = part.server.slug
        section = f"## {slug} (names begin with {slug}__)\n{part.definition.instructions}"
        if len(section) > room:
            break
        sections.append(section)
        room -= len(section)
    return "\n\n".join(sections) or None


def remaining_ttl(view: View, kind: Kind | None) -> int:
    """Milliseconds for which a list (None: the introduction) is fresh: the least of what its parts have left."""
    longest, stale_at = _freshness(view, kind)
    return max(0, int(min(longest, (stale_at - time.monotonic()) * 1000)))


@lru_cache(maxsize=64)
def _freshness(view: View, kind: Kind | None) -> tuple[int, float]:
    """The longest a list may be kept (ms), and when the first of its parts is stale (monotonic seconds)."""
    longest, stale_at = DEFAULT_TTL_MS, math.inf
    for part in view.parts:
        for listed, fresh in part.definition.freshness.items():
            if kind is None or listed is kind:
                stale_at = min(stale_at, part.published_at + fresh.ttl_ms / 1000)
        if not part.available:
            longest = UNAVAILABLE_TTL_MS
    return longest, stale_at


def shared(view: View, caller: Caller, kind: Kind | None) -> bool:
    """May the reply be kept for other callers? Only where nothing was filtered and every part says so itself."""
    return caller.principal.kind == "anonymous" and caller.principal.grants == ("*",) and _public(view, kind)


@lru_cache(maxsize=64)
def _public(view: View, kind: Kind | None) -> bool:
    if not view.parts:
        return False
    kinds = list(Kind) if kind is None else [kind]
    return all(
        part.definition.freshness[each].public if each in part.definition.freshness else False
        for part in view.parts
        for each in kinds
        if part.definition.items.get(each) or each in part.definition.freshness
    )
