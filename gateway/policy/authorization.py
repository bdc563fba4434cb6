"""One predicate with three answers, asked alike by lists, reads, completions, subscriptions and calls."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from catalogue.model import Item, Kind, Server
from gateway import errors
from gateway.calls import Call, Principal
from gateway.policy.decision import ALLOW, Decision, Deny


@dataclass(frozen=True, slots=True)
class Hidden:
    """Does not exist for this principal: the same bytes as absent."""


@dataclass(frozen=True, slots=True)
class NeedsScope:
    """Listed, but not callable before the principal has these scopes too."""

    missing: frozenset[str]


@dataclass(frozen=True, slots=True)
class Callable:
    """Listed and callable."""


Access = Hidden | NeedsScope | Callable
HIDDEN = Hidden()
CALLABLE = Callable()


@lru_cache(maxsize=4096)
def _pattern(grants: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(f"(?:{fnmatch.translate(grant)})" for grant in grants) or r"(?!)")


def permits(principal: Principal, server: Server, item: Item | None, upstream_name: str) -> Access:
    """May this principal see and use the item? Grants decide `Hidden`, scopes only `NeedsScope`.

    Grants are matched against `slug__` and the upstream's own name or URI: the same on every endpoint.
    """
    if principal.grants != ("*",):
        name = f"{server.slug}__{upstream_name}"
        if not _pattern(principal.grants).match(name):
            return HIDDEN
    if item is not None and item.facts.scopes and not item.facts.scopes <= principal.scopes:
        return NeedsScope(item.facts.scopes - principal.scopes)
    return CALLABLE


def visible(principal: Principal, items: Sequence[Item]) -> int:
    """A bit per item, in their order: set where the item is listed for this principal."""
    if principal.grants == ("*",):
        return (1 << len(items)) - 1
    bits = 0
    for position, item in enumerate(items):
        if not isinstance(permits(principal, item.server, item, item.upstream_name), Hidden):
            bits |= 1 << position
    return bits


class AuthorizationReason(StrEnum):
    """Why this stage denies."""

    HIDDEN = "hidden"
    NEEDS_SCOPE = "needs_scope"


class Authorization:
    """First of the request stages. What it hides is answered as absent, so that no answer tells the two apart."""

    name = "authorization"

    async def on_request(self, call: Call) -> Decision[Call]:
        """Asks the predicate that lists ask."""
        access = permits(call.caller.principal, call.server, call.item, _upstream_name(call))
        if isinstance(access, Hidden):
            error = absent(call.item, call.exposed_name)
            return Deny(AuthorizationReason.HIDDEN, str(error), answered_as=error)
        if isinstance(access, NeedsScope):
            lacking = errors.NeedsScope(access.missing)
            return Deny(AuthorizationReason.NEEDS_SCOPE, str(lacking), answered_as=lacking)
        return ALLOW


def _upstream_name(call: Call) -> str:
    """The upstream's own name or URI; without an item it is the URI that is read, or that a completion refers to."""
    if call.item is not None:
        return call.item.upstream_name
    reference = call.params.get("ref")
    found = reference if isinstance(reference, dict) else call.params
    return str(found.get("uri", ""))


def unless_hidden(call: Call, error: errors.GatewayError) -> errors.GatewayError:
    """What to answer where something else is wrong with a call: if it is hidden, no more than for an absent name."""
    access = permits(call.caller.principal, call.server, call.item, _upstream_name(call))
    return absent(call.item, call.exposed_name) if isinstance(access, Hidden) else error


def absent(item: Item | None, exposed_name: str) -> errors.GatewayError:
    """The answer for a name that does not exist for this caller."""
    if item is not None and item.kind is Kind.TOOL:
        return errors.UnknownName("tool")
    if item is not None and item.kind is Kind.PROMPT:
        return errors.UnknownName("prompt")
    return errors.UnknownResource(exposed_name)
