"""What every server last published, and the snapshot made of it when somebody looks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from catalogue import snapshot
from catalogue.digest import fingerprint
from catalogue.model import Definition, Kind, Server
from catalogue.snapshot import ServerItems, Snapshot

Listener = Callable[[Server, frozenset[Kind], frozenset[Kind]], None]
"""Takes a server, the kinds of which a list changed, and those of which its upstream said so."""


class Catalogue:
    """Publishing is cheap and may come in bursts; the snapshot is built at the next look.

    A server that is away keeps what it last published: a dead upstream does not shrink a list.
    """

    def __init__(self, servers: Sequence[Server], clock: Callable[[], float]) -> None:
        self.servers = tuple(servers)
        self._clock = clock
        self._published: dict[Server, ServerItems] = {}
        self._digests: dict[Server, dict[Kind, str]] = {}
        self._snapshot: Snapshot | None = None
        self._revision = 0
        self._listeners: list[Listener] = []

    @property
    def current(self) -> Snapshot:
        """The snapshot of now; the same object until something is published."""
        if self._snapshot is None:
            self._snapshot = snapshot.build(
                self._revision, [(server, self._published.get(server)) for server in self.servers]
            )
        return self._snapshot

    def listen(self, listener: Listener) -> None:
        """Calls `listener` after each publication that changes a list."""
        self._listeners.append(listener)

    def published(self, server: Server) -> ServerItems | None:
        """What the server last published."""
        return self._published.get(server)

    def publish(
        self, server: Server, definition: Definition | None, told: frozenset[Kind] = frozenset()
    ) -> frozenset[Kind]:
        """Takes a definition, or None for a server that is away; returns the kinds that differ from before.

        `told` are kinds of which the upstream said that they changed: listeners hear of them even if nothing differs.
        """
        before = self._published.get(server)
        if definition is None:
            if before is not None and before.available:
                self._replace(server, dataclasses.replace(before, available=False))
            return frozenset()
        digests = {kind: fingerprint(definition.items.get(kind, ())) for kind in Kind}
        known = self._digests.get(server, {})
        changed = frozenset(kind for kind in Kind if known.get(kind) != digests[kind])
        now = self._clock()
        if before is not None and not changed and before.definition.capabilities == definition.capabilities:
            self._replace(server, dataclasses.replace(before, definition=definition, published_at=now, available=True))
        else:
            self._revision += 1
            self._replace(server, ServerItems.build(server, definition, now, available=True))
        self._digests[server] = digests
        if changed | told:
            for listener in self._listeners:
                listener(server, changed, told)
        return changed

    def _replace(self, server: Server, items: ServerItems) -> None:
        self._published[server] = items
        self._snapshot = None
