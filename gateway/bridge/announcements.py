"""Tells open client streams that a list changed: ours to say, and only where that client's view did change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from catalogue.live import Catalogue
from catalogue.model import Kind, Server
from catalogue.snapshot import View
from gateway import jsonrpc
from gateway.calls import Caller
from gateway.policy.authorization import visible

NOTIFICATIONS: Final = {
    Kind.TOOL: "notifications/tools/list_changed",
    Kind.PROMPT: "notifications/prompts/list_changed",
    Kind.RESOURCE: "notifications/resources/list_changed",
    Kind.TEMPLATE: "notifications/resources/list_changed",
}

Tell = Callable[[str], None]
"""Takes the method of the notification to send."""


@dataclass(slots=True, eq=False)
class _Listener:
    caller: Caller
    tell: Tell
    seen: dict[Kind, bytes]


class Announcements:
    """In-process fan-out from the catalogue to the streams that this replica holds."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._listeners: set[_Listener] = set()
        catalogue.listen(self._changed)

    def open(self, caller: Caller, tell: Tell) -> Callable[[], None]:
        """Calls `tell` for each change of a list the caller sees, until the returned function is called."""
        listener = _Listener(caller, tell, {})
        if caller.principal.grants != ("*",) and (view := self._view(caller)) is not None:
            listener.seen = {kind: _seen(view, kind, caller) for kind in Kind}
        self._listeners.add(listener)
        return lambda: self._listeners.discard(listener)

    def _view(self, caller: Caller) -> View | None:
        return self._catalogue.current.view(caller.endpoint)

    def _changed(self, server: Server, changed: frozenset[Kind], told: frozenset[Kind]) -> None:
        if not self._listeners:
            return
        own = {server.slug, f"{server.slug}@{server.version}"}
        for listener in tuple(self._listeners):
            endpoint = listener.caller.endpoint
            if endpoint and endpoint not in own:
                continue
            # A server's own endpoint is transparent, so what the upstream says is said; the federated one is ours.
            kinds = self._really(listener, changed | told if endpoint else changed)
            for method in sorted({NOTIFICATIONS[kind] for kind in kinds}):
                listener.tell(method)

    def _really(self, listener: _Listener, kinds: frozenset[Kind]) -> frozenset[Kind]:
        """Those of the kinds of which this caller sees a change."""
        view = self._view(listener.caller)
        if listener.caller.principal.grants == ("*",) or view is None:
            return kinds
        now = {kind: _seen(view, kind, listener.caller) for kind in kinds}
        differing = frozenset(kind for kind in kinds if listener.seen.get(kind) != now[kind])
        listener.seen.update(now)
        return differing


def _seen(view: View, kind: Kind, caller: Caller) -> bytes:
    mask = visible(caller.principal, view.items[kind])
    return jsonrpc.dumps([dict(item.raw) for at, item in enumerate(view.items[kind]) if mask >> at & 1])
