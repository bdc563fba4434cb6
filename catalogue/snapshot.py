"""The immutable picture a request sees: which names exist on which endpoint, and what they stand for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mcp.shared.inbound import x_mcp_header_map

from catalogue import naming, uris
from catalogue.model import NO_FACTS, Definition, Item, Kind, Server

_OWNED_AS_IS = ("http://", "https://", "ui://")


@dataclass(frozen=True, slots=True)
class ServerItems:
    """One server version's items under both names: its own and the federated ones."""

    server: Server
    definition: Definition
    own: Mapping[Kind, tuple[Item, ...]]
    federated: Mapping[Kind, tuple[Item, ...]]
    published_at: float
    available: bool = True

    @classmethod
    def build(cls, server: Server, definition: Definition, published_at: float, *, available: bool) -> ServerItems:
        """Names every item once; a snapshot only joins what was built here."""
        own: dict[Kind, tuple[Item, ...]] = {}
        federated: dict[Kind, tuple[Item, ...]] = {}
        for kind in Kind:
            raws = definition.items.get(kind, ())
            own[kind] = tuple(_item(kind, server, raw, raw[kind.key], exposed_raw=raw) for raw in raws)
            names = _exposed(kind, server.slug, [raw[kind.key] for raw in raws])
            federated[kind] = tuple(
                _item(kind, server, raw, names[raw[kind.key]], exposed_raw={**raw, kind.key: names[raw[kind.key]]})
                for raw in raws
                if not _app_only(raw)
            )
        return cls(server, definition, own, federated, published_at, available)


def _exposed(kind: Kind, slug: str, names: Sequence[str]) -> Mapping[str, str]:
    if kind in (Kind.TOOL, Kind.PROMPT):
        return naming.assign(slug, names)
    return {name: uris.expose(slug, name) for name in names}


def _item(kind: Kind, server: Server, raw: Mapping[str, Any], name: str, *, exposed_raw: Mapping[str, Any]) -> Item:
    tool = kind is Kind.TOOL
    return Item(
        kind=kind,
        server=server,
        upstream_name=raw[kind.key],
        exposed_name=name,
        raw=_without_app(exposed_raw) if exposed_raw is not raw else exposed_raw,
        facts=server.facts.get(raw[kind.key], NO_FACTS) if tool else NO_FACTS,
        header_map=x_mcp_header_map(raw.get("inputSchema")) if tool else {},
    )


def _ui(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    meta = raw.get("_meta")
    ui = meta.get("ui") if isinstance(meta, dict) else None
    return ui if isinstance(ui, dict) else {}


def _app_only(raw: Mapping[str, Any]) -> bool:
    """A tool that only its own server's app may call: the federated endpoint cannot tell apps apart."""
    return _ui(raw).get("visibility") == ["app"]


def _without_app(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """Apps call tools by upstream names, so on the federated endpoint the app is not offered at all."""
    meta = raw.get("_meta")
    if not isinstance(meta, dict) or not ("ui" in meta or "ui/resourceUri" in meta):
        return raw
    return {**raw, "_meta": {key: value for key, value in meta.items() if key not in ("ui", "ui/resourceUri")}}


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """All that one endpoint offers, before anybody's grants are applied. Order is stable: servers, then their own.

    `endpoint` is "" (federated) or slug@version: what is kept of one version's view is never taken for another's.
    """

    endpoint: str
    parts: tuple[ServerItems, ...]
    items: Mapping[Kind, tuple[Item, ...]]
    by_name: Mapping[Kind, Mapping[str, Item]]
    findings: tuple[str, ...] = ()

    def tool(self, name: str) -> Item | None:
        """The tool under that exposed name."""
        return self.by_name[Kind.TOOL].get(name)

    def prompt(self, name: str) -> Item | None:
        """The prompt under that exposed name."""
        return self.by_name[Kind.PROMPT].get(name)

    def resource(self, uri: str) -> tuple[Server, Item | None, str] | None:
        """Which server answers for a URI, and by which URI of its own; None when nobody does."""
        listed = self.by_name[Kind.RESOURCE].get(uri) or self.by_name[Kind.TEMPLATE].get(uri)
        if listed is not None:
            return listed.server, listed, listed.upstream_name
        if self.endpoint:
            return (self.parts[0].server, None, uri) if self.parts else None
        prefixed = uris.split(uri)
        if prefixed is None:
            return None
        for part in self.parts:
            if part.server.slug == prefixed[0]:
                return part.server, None, prefixed[1]
        return None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Every endpoint's view at one moment. `revision` grows with each change of an item, not of freshness alone."""

    revision: int
    views: Mapping[str, View] = field(default_factory=dict)

    def view(self, endpoint: str) -> View | None:
        """The view of an endpoint: "" (federated), a slug, or slug@version."""
        return self.views.get(endpoint)


def build(revision: int, servers: Iterable[tuple[Server, ServerItems | None]]) -> Snapshot:
    """Joins what each server published; the first version of a slug is the one that is federated."""
    views: dict[str, View] = {}
    federated: list[ServerItems] = []
    for server, published in servers:
        parts = () if published is None else (published,)
        own = _view(f"{server.slug}@{server.version}", parts, federated=False)
        views[own.endpoint] = own
        if server.slug not in views:
            views[server.slug] = own
            federated.extend(parts)
    views[""] = _view("", tuple(federated), federated=True)
    return Snapshot(revision, views)


def _view(endpoint: str, parts: tuple[ServerItems, ...], *, federated: bool) -> View:
    items: dict[Kind, tuple[Item, ...]] = {}
    by_name: dict[Kind, dict[str, Item]] = {}
    findings: list[str] = []
    for kind in Kind:
        table: dict[str, Item] = {}
        refused: set[str] = set()
        for part in parts:
            for item in (part.federated if federated else part.own)[kind]:
                if item.exposed_name in table and table[item.exposed_name].server is not item.server:
                    refused.add(item.exposed_name)
                    findings.append(
                        f"{item.exposed_name}: offered by {table[item.exposed_name].server.slug} and "
                        f"{item.server.slug}; served by neither"
                    )
                table.setdefault(item.exposed_name, item)
        for name in refused:  # two owners of one URI: whoever were first would shadow the other
            del table[name]
        by_name[kind] = table
        items[kind] = tuple(table.values())
    return View(endpoint, parts, items, by_name, tuple(findings))
