"""How replicas tell each other that something they may have cached has changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

EVERYTHING = "*"
"""The kind under which a subscriber is told to drop all it has cached: changes may have been missed."""


class Changes(Protocol):
    """A bus of (kind, id) pairs between all replicas of one database. It carries no contents."""

    @property
    def healthy(self) -> bool:
        """False while changes of other replicas may go unheard: every cache is then read through."""

    def subscribe(self, kind: str, callback: Callable[[str], None]) -> Callable[[], None]:
        """Calls back with the id of every change of this kind, ours included; returns what ends that."""

    def publish(self, kind: str, id: str) -> None:  # noqa: A002 - it is one
        """Tells this replica's subscribers before it returns, the other replicas soon after."""
