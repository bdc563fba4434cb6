"""What it means to the client when an upstream refuses a call for want of a client capability (2026-07-28, -32021)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from gateway.calls import Call
from gateway.errors import GatewayError, MissingCapability, UpstreamError, UpstreamRefused

CODE: Final = -32021


def missing(error: UpstreamRefused, call: Call) -> GatewayError:
    """The refusal as this client should hear it: as its own where it lacks the capability, else as the gateway's."""
    asked = error.data.get("requiredCapabilities") if isinstance(error.data, dict) else None
    required: Mapping[str, Any] = asked if isinstance(asked, dict) else {}
    lacking = {name: value for name, value in required.items() if not _offers(call.caller.capabilities, name, value)}
    if call.caller.modern and lacking:
        return MissingCapability(lacking)
    slug, names = call.server.slug, ", ".join(sorted(lacking or required)) or "more than it was offered"
    why = "which your client does not offer" if lacking else "which is not passed on to it"
    return UpstreamError(slug, f"The server {slug} needs a client capability for this, {why}: {names}.")


def _offers(declared: Any, name: str, required: Any) -> bool:
    if not isinstance(declared, Mapping) or name not in declared:
        return False
    return not isinstance(required, Mapping) or all(_offers(declared[name], part, required[part]) for part in required)
