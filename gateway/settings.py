"""What an operator can set: one YAML file plus `MCP_GATEWAY_*` for secrets. Unknown keys are errors."""

from __future__ import annotations

import ipaddress
import json
import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from gateway.errors import ConfigurationError

_SLUG = r"^[a-z][a-z0-9]{0,11}$"
Revision = Literal["auto", "2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25", "2026-07-28"]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _http_url(url: str) -> str:
    parts = urlsplit(url)
    plain = url.isascii() and url.isprintable() and " " not in url
    if not plain or parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        raise ValueError("must be http(s)://host[:port]/path, percent-encoded and without credentials")
    try:
        parts.port  # noqa: B018 - reading it is what checks it
    except ValueError:
        raise ValueError("must name a port from 0 to 65535") from None
    return url


class Authentication(_Section):
    """How clients prove who they are. `anonymous` is accepted on a loopback bind only."""

    mode: Literal["required", "anonymous"] = "required"


class GatewaySection(_Section):
    """Settings of the gateway itself."""

    mode: Literal["development", "production"] = "development"
    public_url: str | None = Field(None, description="Origin under which clients reach this gateway.")
    allowed_hosts: tuple[str, ...] = Field((), description="Host header values accepted besides the bind address.")
    allowed_origins: tuple[str, ...] = Field((), description="Origin header values accepted besides our own.")
    authentication: Authentication = Authentication()
    max_body_bytes: int = Field(4 * 1024 * 1024, ge=1024, description="Largest request body of a client.")
    page_size: int = Field(1000, ge=1, le=10_000, description="Items on one page of a list.")
    list_cache_bytes: int = Field(64 * 1024 * 1024, ge=0, description="Bound of the cache of joined list bodies.")
    session_idle: int = Field(86_400, ge=60, description="Seconds without use after which a gateway session ends.")
    keep_alive: float = Field(15.0, gt=0, description="Seconds of silence before a comment is sent on a stream.")
    stream_grace: float = Field(0.3, ge=0, description="Seconds to wait for a final answer before a stream is opened.")
    refresh: float = Field(300.0, gt=0, description="Seconds between discoveries of an upstream that names no ttl.")

    @field_validator("public_url")
    @classmethod
    def _reachable(cls, url: str | None) -> str | None:
        return url if url is None else _http_url(url)

    @field_validator("allowed_hosts")
    @classmethod
    def _host_names(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        if any("/" in host or not host.strip() for host in hosts):
            raise ValueError("each must be a host name, with :port if it is not ours; no scheme, no path")
        return hosts

    @field_validator("allowed_origins")
    @classmethod
    def _whole_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        if any(origin.count("/") != 2 or not all(urlsplit(origin)[:2]) for origin in origins):
            raise ValueError("each must be scheme://host[:port], as browsers write it in Origin; no path, no *")
        return origins


class Credentials(_Section):
    """How the gateway proves itself to an upstream. Nothing of the client's credential ever goes there."""

    strategy: Literal["none"] = "none"


class Version(_Section):
    """One version of a server. Exactly one of `url` and `command` is given; `command` only for `dev`."""

    version: str = Field("1", pattern=r"^[A-Za-z0-9._-]{1,64}$")
    url: str | None = None
    command: tuple[str, ...] | None = Field(None, min_length=1)
    env: Mapping[str, str] = Field(default_factory=dict)
    cwd: str | None = None
    transport: Literal["auto", "streamable-http", "sse"] = "auto"
    protocol: Revision = "auto"
    credentials: Credentials = Credentials()

    @field_validator("url")
    @classmethod
    def _http(cls, url: str | None) -> str | None:
        return url if url is None else _http_url(url)

    @model_validator(mode="after")
    def _one_way(self) -> Version:
        if (self.url is None) == (self.command is None):
            raise ValueError("give exactly one of url and command")
        if self.command is None and (self.env or self.cwd):
            raise ValueError("env and cwd go with command only")
        return self


class Allow(_Section):
    """Interactive requests an upstream may make that are refused by default."""

    sampling: bool = False
    roots: bool = False


class ToolFacts(_Section):
    """What the operator states about one tool; annotations of the upstream are never believed."""

    idempotent: bool = False
    scopes: tuple[str, ...] = ()
    price: float = Field(0.0, ge=0)
    labels: tuple[str, ...] = ()
    approval: bool = False


class ServerSection(_Section):
    """One upstream MCP server."""

    slug: str = Field(pattern=_SLUG)
    versions: tuple[Version, ...] = Field(min_length=1)
    allow: Allow = Allow()
    deadline: float = Field(60.0, gt=0, le=3600, description="Seconds a call may take.")
    concurrency: int = Field(64, ge=1, le=10_000, description="Calls in flight to this server from one replica.")
    max_event_bytes: int = Field(4 * 1024 * 1024, ge=1024, description="Largest message accepted from it.")
    tools: Mapping[str, ToolFacts] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _distinct_versions(self) -> ServerSection:
        names = [version.version for version in self.versions]
        if len(set(names)) != len(names):
            raise ValueError("versions must differ from one another")
        return self


class Settings(_Section):
    """The whole configuration file."""

    gateway: GatewaySection = GatewaySection()
    servers: tuple[ServerSection, ...] = ()

    @model_validator(mode="after")
    def _distinct_slugs(self) -> Settings:
        slugs = [server.slug for server in self.servers]
        if repeated := sorted({slug for slug in slugs if slugs.count(slug) > 1}):
            raise ValueError(f"slug used twice: {', '.join(repeated)}")
        return self


def load(path: Path | None) -> Settings:
    """Reads YAML, or a client's `{"mcpServers": …}` JSON.

    Raises:
        ConfigurationError: naming the file, the field and what it should be.
    """
    if path is None:
        return Settings()
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: is not YAML: {' '.join(str(error).split())}") from error
    return parse({} if document is None else document, source=str(path))


def parse(document: object, *, source: str = "configuration") -> Settings:
    """The settings of an already decoded document; errors as in `load`."""
    if not isinstance(document, dict):
        raise ConfigurationError(f"{source}: must be a mapping with `gateway` and `servers`")
    if "mcpServers" in document:
        document = _from_client_file(document, source)
    try:
        return Settings.model_validate(document)
    except ValidationError as error:
        raise ConfigurationError(f"{source}: {_words(error)}") from error


def _words(error: ValidationError) -> str:
    lines = []
    for item in error.errors(include_url=False, include_input=False):
        field = ".".join(str(part) for part in item["loc"]) or "document"
        text = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            text = "unknown key; remove it or check its spelling"
        elif item["type"] == "string_pattern_mismatch" and field.endswith("slug"):
            text = "must be 1 to 12 of a-z and 0-9, the first a letter: it begins URI schemes"
        lines.append(f"{field}: {text}")
    return "; ".join(lines)


def _from_client_file(document: dict[str, Any], source: str) -> dict[str, Any]:
    entries = document["mcpServers"]
    if not isinstance(entries, dict):
        raise ConfigurationError(f"{source}: mcpServers: must be a mapping of names to servers")
    servers: list[dict[str, Any]] = []
    slugs: dict[str, str] = {}
    for name, entry in entries.items():
        if not isinstance(entry, dict):
            raise ConfigurationError(f"{source}: mcpServers.{name}: must be a mapping")
        if entry.get("headers"):
            raise ConfigurationError(
                f"{source}: mcpServers.{name}.headers: static headers are not taken from a client's file; "
                "set credentials of the server in the gateway's own configuration"
            )
        if ("url" in entry) == ("command" in entry):
            raise ConfigurationError(f"{source}: mcpServers.{name}: give exactly one of url and command")
        slug = _slug_from(str(name))
        if not slug or slug in slugs:
            fault = f"is too much like {slugs[slug]}" if slug else "has no letter a-z"
            raise ConfigurationError(f"{source}: mcpServers.{name}: the name {fault}; rename the server")
        slugs[slug] = str(name)
        version: dict[str, Any] = {"version": "1"}
        if "url" in entry:
            version["url"] = entry["url"]
            if entry.get("type") == "sse":
                version["transport"] = "sse"
        if "command" in entry:
            arguments = entry.get("args") or []
            if not isinstance(arguments, list):
                raise ConfigurationError(f"{source}: mcpServers.{name}.args: must be a list")
            version["command"] = [entry["command"], *arguments]
            version["env"] = entry.get("env") or {}
            if entry.get("cwd"):
                version["cwd"] = entry["cwd"]
        servers.append({"slug": slug, "versions": [version]})
    return {"gateway": document.get("gateway", {}), "servers": servers}


def _slug_from(name: str) -> str:
    plain = "".join(character for character in name.lower() if character.isascii() and character.isalnum())
    return plain.lstrip("0123456789")[:12]


def is_loopback(host: str) -> bool:
    """True for a bind address that only this machine reaches."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check_bind(settings: Settings, host: str) -> None:
    """Refuses what must not listen: anonymous access off loopback, commands, unsigned servers in production.

    Raises:
        ConfigurationError: naming field and fix.
    """
    if settings.gateway.authentication.mode == "anonymous" and not is_loopback(host):
        raise ConfigurationError(
            f"gateway.authentication.mode: anonymous is accepted on a loopback bind only, not on {host}; "
            "set it to `required`, or bind 127.0.0.1"
        )
    for server in settings.servers:
        for version in server.versions:
            if version.command is not None:
                line = shlex.join((*(f"--env={name}" for name in version.env), "--", *version.command))
                raise ConfigurationError(
                    f"servers.{server.slug}.versions.{version.version}.command: the gateway starts no processes; "
                    f"run `mcp-gateway wrap --port P {line}` and set url to http://127.0.0.1:P/mcp"
                )
    if settings.gateway.mode == "production" and settings.servers:
        raise ConfigurationError(
            "servers: `trust: config` is refused in production mode; publish servers through a signed release, "
            "or set gateway.mode to development"
        )


def secret(name: str, environment: Mapping[str, str] = os.environ) -> str | None:
    """The environment variable `MCP_GATEWAY_<name>`; empty counts as unset."""
    return environment.get(f"MCP_GATEWAY_{name}") or None


def json_schema() -> str:
    """The JSON Schema of the configuration file, for editors."""
    return json.dumps(Settings.model_json_schema(), indent=2)
