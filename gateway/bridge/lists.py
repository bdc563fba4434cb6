"""List replies from pre-serialised fragments: joined once per set of visible items, kept within a bound."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from catalogue import schemas
from catalogue.model import Item, Kind
from catalogue.snapshot import Snapshot, View
from gateway import jsonrpc
from gateway.calls import Caller
from gateway.errors import InvalidParams
from gateway.keys import KeyRing, SealBroken
from gateway.policy.authorization import visible

CURSOR_SECONDS: Final = 3600
MASKS: Final = 10_000
"""Sets of visible items remembered; each is an integer of one bit per item."""

_LABEL = "cursor"
_CONVERT: Mapping[Kind, Callable[[dict[str, Any], str], dict[str, Any] | None]] = {
    Kind.TOOL: schemas.tool_for,
    Kind.PROMPT: schemas.prompt_for,
    Kind.RESOURCE: schemas.resource_for,
    Kind.TEMPLATE: schemas.template_for,
}


@dataclass(frozen=True, slots=True)
class Page:
    """One page: the items as JSON text without the brackets, and the cursor of the next page."""

    items: bytes
    next_cursor: str | None


class Lists:
    """Serves pages of any list to any caller. `cache_bytes` bounds the joined texts of this process."""

    def __init__(
        self, keys: KeyRing, *, page_size: int, cache_bytes: int, clock: Callable[[], float] = time.time
    ) -> None:
        self._keys = keys
        self._clock = clock
        self._page_size = page_size
        self._cache_bytes = cache_bytes
        self._revision = 0
        self._fragments: dict[tuple[str, Kind, str], list[bytes]] = {}
        self._masks: OrderedDict[tuple[str, Kind, tuple[str, ...]], int] = OrderedDict()
        self._joined: OrderedDict[tuple[str, Kind, str, int, int], tuple[bytes, int]] = OrderedDict()
        self.joined_bytes = 0

    def page(self, snapshot: Snapshot, view: View, kind: Kind, caller: Caller, cursor: object) -> Page:
        """The page after `cursor` (None for the first).

        Raises:
            InvalidParams: the cursor is not one of ours for this list, principal and endpoint, or is too old.
        """
        if snapshot.revision != self._revision:
            self._forget(snapshot.revision)
        start = 0 if cursor is None else self._position(view, kind, caller, cursor)
        mask = self._mask(view, kind, caller)
        joined, end = self._join(view, kind, caller.revision, mask, start)
        more = mask >> end
        return Page(joined, self._cursor(view, kind, caller, view.items[kind][end - 1]) if more else None)

    def _forget(self, revision: int) -> None:
        self._revision = revision
        self._fragments.clear()
        self._masks.clear()
        self._joined.clear()
        self.joined_bytes = 0

    def _mask(self, view: View, kind: Kind, caller: Caller) -> int:
        key = (view.endpoint, kind, caller.principal.grants)
        mask = self._masks.get(key)
        if mask is None:
            mask = self._masks[key] = visible(caller.principal, view.items[kind])
            if len(self._masks) > MASKS:
                self._masks.popitem(last=False)
        return mask

    def _join(self, view: View, kind: Kind, revision: str, mask: int, start: int) -> tuple[bytes, int]:
        """The texts of up to a page of visible items from `start`, and the position after the last one."""
        key = (view.endpoint, kind, revision, mask, start)
        if (found := self._joined.get(key)) is not None:
            self._joined.move_to_end(key)
            return found
        fragments = self._fragments_of(view, kind, revision)
        picked: list[bytes] = []
        position = start
        while position < len(fragments) and len(picked) < self._page_size:
            if mask >> position & 1 and fragments[position]:
                picked.append(fragments[position])
            position += 1
        joined = b",".join(picked)
        if len(joined) <= self._cache_bytes:
            self._joined[key] = (joined, position)
            self.joined_bytes += len(joined)
            while self.joined_bytes > self._cache_bytes:
                _, (dropped, _) = self._joined.popitem(last=False)
                self.joined_bytes -= len(dropped)
        return joined, position

    def _fragments_of(self, view: View, kind: Kind, revision: str) -> list[bytes]:
        """Every item of the view as a client of the revision may see it; empty text where it may not."""
        key = (view.endpoint, kind, revision)
        fragments = self._fragments.get(key)
        if fragments is None:
            convert = _CONVERT[kind]
            shown = (convert(dict(item.raw), revision) for item in view.items[kind])
            fragments = [b"" if item is None else jsonrpc.dumps(item) for item in shown]
            self._fragments[key] = fragments
        return fragments

    # --- cursors

    def _cursor(self, view: View, kind: Kind, caller: Caller, last: Item) -> str:
        payload = orjson.dumps([last.exposed_name, int(self._clock()) + CURSOR_SECONDS])
        return self._keys.seal(_LABEL, payload, _bound_to(view, kind, caller))

    def _position(self, view: View, kind: Kind, caller: Caller, cursor: object) -> int:
        if cursor == "":  # a valid cursor that we never give out: the beginning
            return 0
        if not isinstance(cursor, str):
            raise InvalidParams("cursor: must be a string")
        try:
            name, expires = orjson.loads(self._keys.open(_LABEL, cursor, _bound_to(view, kind, caller)))
        except (SealBroken, ValueError) as error:
            raise InvalidParams("cursor: not valid for this list; start again without one") from error
        if expires < self._clock():
            raise InvalidParams("cursor: too old; start again without one")
        for position, item in enumerate(view.items[kind]):
            if item.exposed_name == name:
                return position + 1
        raise InvalidParams("cursor: the list has changed; start again without one")


def _bound_to(view: View, kind: Kind, caller: Caller) -> bytes:
    return f"{caller.principal.id}\x00{view.endpoint}\x00{kind.value}".encode()
