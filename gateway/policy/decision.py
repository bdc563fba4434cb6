"""What a stage may answer."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeAlias, TypeVar

from gateway.errors import GatewayError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Allow:
    """Nothing against it."""


@dataclass(frozen=True, slots=True)
class Rewrite(Generic[T]):
    """Go on with this value instead."""

    value: T


@dataclass(frozen=True, slots=True)
class Deny:
    """Stop. `reason` is a member of the stage's own closed enum; `sentence` is for a model to act on.

    `answered_as` is set where the wire has a form of its own for the refusal: absence, or a missing scope.
    """

    reason: StrEnum
    sentence: str
    retry_after_ms: int | None = None
    answered_as: GatewayError | None = None


Decision: TypeAlias = Allow | Rewrite[T] | Deny

ALLOW = Allow()
