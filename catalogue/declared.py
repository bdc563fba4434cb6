"""Servers declared in the operator's own file (`trust: config`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from catalogue.model import Facts, Server


class _Facts(Protocol):
    @property
    def idempotent(self) -> bool: ...
    @property
    def scopes(self) -> tuple[str, ...]: ...
    @property
    def price(self) -> float: ...
    @property
    def labels(self) -> tuple[str, ...]: ...
    @property
    def approval(self) -> bool: ...


class _Allow(Protocol):
    @property
    def sampling(self) -> bool: ...
    @property
    def roots(self) -> bool: ...


class _Version(Protocol):
    @property
    def version(self) -> str: ...
    @property
    def url(self) -> str | None: ...
    @property
    def transport(self) -> str: ...
    @property
    def protocol(self) -> str: ...


class _Section(Protocol):
    @property
    def slug(self) -> str: ...
    @property
    def versions(self) -> Iterable[_Version]: ...
    @property
    def allow(self) -> _Allow: ...
    @property
    def deadline(self) -> float: ...
    @property
    def concurrency(self) -> int: ...
    @property
    def max_event_bytes(self) -> int: ...
    @property
    def tools(self) -> Mapping[str, _Facts]: ...


def servers(sections: Iterable[_Section]) -> tuple[Server, ...]:
    """One `Server` per declared version, in the file's order; commands have no address and are left out."""
    return tuple(
        Server(
            slug=section.slug,
            version=version.version,
            url=version.url,
            transport=version.transport,
            protocol=version.protocol,
            allow_sampling=section.allow.sampling,
            allow_roots=section.allow.roots,
            deadline=section.deadline,
            concurrency=section.concurrency,
            max_event_bytes=section.max_event_bytes,
            facts={
                name: Facts(fact.idempotent, frozenset(fact.scopes), fact.price, frozenset(fact.labels), fact.approval)
                for name, fact in section.tools.items()
            },
        )
        for section in sections
        for version in section.versions
        if version.url is not None
    )
