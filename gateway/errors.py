"""What can go wrong, as one tree.

    GatewayError
    ├── ConfigurationError          an operator's setting; the text names the field and the fix
    ├── StorageUnavailable          Postgres did not answer                          503 on the wire
    ├── Unauthenticated             no or no valid credential                        401
    ├── SessionGone                 unknown, expired, deleted or somebody else's     404
    ├── InvalidParams               the client's parameters                          -32602
    ├── UnknownMethod               no such method in this revision                  -32601
    ├── UnknownName                 absent or hidden: tool, prompt (one answer)      -32602
    ├── UnknownResource             absent or hidden: resource                       -32602 / -32002
    ├── NeedsScope                  visible, but the principal lacks scopes          403
    ├── MissingCapability           the client did not declare what the call needs   -32021
    ├── Denied                      a stage refused                                  see DESIGN 11
    └── UpstreamError
        ├── UpstreamUnavailable     cannot be reached, or answered outside the protocol's statuses
        ├── UpstreamTimeout         our deadline passed
        ├── UpstreamProtocolError   answered, but not as the protocol says
        └── UpstreamRefused         answered with a JSON-RPC error of its own

Only `edge/replies.py` turns these into statuses and JSON-RPC errors.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


class GatewayError(Exception):
    """Root of everything this product raises on purpose; `record` is the id of the call's record, if any."""

    record: str | None = None


class ConfigurationError(GatewayError):
    """A setting is wrong. The text names the field and the fix, never a secret's value."""


class StorageUnavailable(GatewayError):
    """Postgres could not be reached or did not answer in time."""


class Unauthenticated(GatewayError):
    """The request carries no credential, or none that is valid."""


class SessionGone(GatewayError):
    """The gateway session is unknown, expired, deleted or belongs to somebody else: all alike."""


class InvalidParams(GatewayError):
    """The client's parameters do not fit the method; the text names the parameter."""


class UnknownMethod(GatewayError):
    """The method does not exist in the client's protocol revision."""

    def __init__(self, method: str) -> None:
        super().__init__("Method not found")
        self.method = method


class UnknownName(GatewayError):
    """No such tool or prompt for this caller; hidden and absent are the same answer."""

    def __init__(self, kind: str) -> None:
        super().__init__(f"Unknown {kind}")
        self.kind = kind


class UnknownResource(GatewayError):
    """No such resource for this caller; hidden and absent are the same answer."""

    def __init__(self, uri: str) -> None:
        super().__init__("Resource not found")
        self.uri = uri


class NeedsScope(GatewayError):
    """The principal sees the tool but lacks scopes; carries all that are missing (RFC 6750 section 3.1)."""

    def __init__(self, missing: Iterable[str]) -> None:
        self.missing = tuple(sorted(missing))
        super().__init__("Insufficient scope")


class MissingCapability(GatewayError):
    """The call needs a capability that the client did not declare for it."""

    def __init__(self, required: dict[str, Any]) -> None:
        super().__init__("Missing required client capability")
        self.required = required


class Denied(GatewayError):
    """A stage refused the call or its result. `stage` and `reason` are stable machine codes.

    `answered_as` replaces it on the wire where the refusal must look like absence, or has a status of its own.
    """

    answered_as: GatewayError | None = None

    def __init__(self, stage: str, reason: str, sentence: str, retry_after_ms: int | None = None) -> None:
        super().__init__(sentence)
        self.stage = stage
        self.reason = reason
        self.retry_after_ms = retry_after_ms


class UpstreamError(GatewayError):
    """The upstream did not do its part. `reason` is a stable machine code."""

    reason = "upstream_failed"

    def __init__(self, slug: str, sentence: str) -> None:
        super().__init__(sentence)
        self.slug = slug


class UpstreamUnavailable(UpstreamError):
    """No connection, or an HTTP status that is no MCP answer."""

    reason = "upstream_unavailable"


class UpstreamTimeout(UpstreamError):
    """The deadline of the call passed before the upstream answered."""

    reason = "upstream_timeout"


class UpstreamProtocolError(UpstreamError):
    """The upstream answered with something that is not MCP."""

    reason = "upstream_protocol_error"


class UpstreamRefused(UpstreamError):
    """The upstream answered with a JSON-RPC error; `code`, `text` and `data` are its own words."""

    reason = "upstream_refused"

    def __init__(self, slug: str, code: int, text: str, data: Any = None) -> None:
        super().__init__(slug, text)
        self.code = code
        self.data = data
