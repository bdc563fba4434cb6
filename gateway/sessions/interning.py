"""One copy of what thousands of sessions have in common.

Sessions of one client declare the same capabilities and the same name over and over; sharing the decoded value keeps a
cached session at about a kilobyte.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

_EMPTY: dict[str, Any] = {}
_LONGEST_TEXT = 16_384


class Shared:
    """Equal JSON objects become one object, which must therefore never be changed."""

    def __init__(self, size: int = 1024) -> None:
        self._size = size
        self._by_text: dict[str, Mapping[str, Any]] = {}

    def of(self, value: Mapping[str, Any]) -> Mapping[str, Any]:
        """The shared object that equals `value`."""
        if not value:
            return _EMPTY
        text = json.dumps(value, sort_keys=True)
        if len(text) > _LONGEST_TEXT:
            return value
        shared = self._by_text.get(text)
        if shared is None:
            if len(self._by_text) >= self._size:
                del self._by_text[next(iter(self._by_text))]
            # A copy of its own: the caller may go on to change what it gave.
            shared = self._by_text[text] = json.loads(text)
        return shared
