"""Answers of upstreams as the HTTP client hands them over, without a connection."""

from __future__ import annotations

from collections.abc import Iterable

from gateway.upstream.response import BrokenOff, Response


class FakeSource:
    """The connection of an answer; `reusable` says how it was given back, None while it was not."""

    def __init__(self) -> None:
        self.reusable: bool | None = None
        self.resumed = 0
        self.lingered = False

    def resume(self) -> None:
        """Counted."""
        self.resumed += 1

    def finished(self, *, reusable: bool) -> None:
        """Noted."""
        self.reusable = reusable

    def linger(self) -> None:
        """Noted."""
        self.lingered = True


def answered(
    status: int, content_type: str, body: Iterable[bytes], *, broken: bool = False, **headers: str
) -> tuple[Response, FakeSource]:
    """An answer that has arrived whole, or up to where the connection broke."""
    source = FakeSource()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    response = Response(status, {"content-type": content_type, **named}, source)
    for chunk in body:
        if chunk:
            response.feed(chunk)
    response.end(BrokenOff("the connection ended") if broken else None)
    return response, source
