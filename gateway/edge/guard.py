"""Who may talk to us at all: Host and Origin, before authentication and before any body is read."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlsplit

from gateway.settings import is_loopback

_LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")

_ONCE = frozenset({"host", "origin", "authorization", "content-type", "mcp-session-id", "last-event-id"})


def repeated_header(lines: Iterable[tuple[str, str]]) -> str | None:
    """A header that decides something and stands there twice: whoever is in front of us may go by the other one."""
    seen: set[str] = set()
    for name, _ in lines:
        if name in _ONCE and name in seen:
            return name
        seen.add(name)
    return None


class Guard:
    """Exact lists of Host and Origin values (2025-11-25 basic/transports, Security Warning; DNS rebinding)."""

    def __init__(
        self, *, host: str, port: int, public_url: str | None, hosts: Iterable[str], origins: Iterable[str]
    ) -> None:
        names = {_written(host), *(_written(name) for name in hosts)}
        own_origins = {origin.lower() for origin in origins}
        if is_loopback(host) or host in ("0.0.0.0", "::"):
            names.update(_LOOPBACK_NAMES)
        self._hosts: set[str] = set()
        for name in names:
            self._hosts.add(name)
            if ":" not in name.rsplit("]", 1)[-1]:
                self._hosts.add(f"{name}:{port}")
                own_origins.update((f"http://{name}:{port}", f"https://{name}:{port}"))
        if public_url:
            parts = urlsplit(public_url)
            self._hosts.add(parts.netloc.lower())
            own_origins.add(f"{parts.scheme}://{parts.netloc}".lower())
        self._origins = own_origins

    def host_allowed(self, host: str | None) -> bool:
        """Is the Host header one of ours?"""
        return host is not None and host.lower() in self._hosts

    def origin_allowed(self, origin: str | None) -> bool:
        """Programs send no Origin; a browser's must be one of ours or of those the operator listed."""
        return origin is None or origin.lower() in self._origins


def _written(name: str) -> str:
    """A name as Host headers have it: an IPv6 address in brackets."""
    bare = name.count(":") > 1 and not name.startswith("[")
    return f"[{name}]".lower() if bare else name.lower()
