"""Resources of both kinds, a template, and a resource to watch."""

import json
import re

import mcp_types as types
from mcp.shared.exceptions import MCPError
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from conformance.reference.content import PNG
from conformance.reference.rounds import Context

WATCHED = "test://watched-resource"
TEMPLATE = "test://template/{id}/data"

# Revisions before 2026-07-28 have a code of their own for this; later ones must not use it.
RESOURCE_NOT_FOUND = -32002

_BY_TEMPLATE = re.compile(r"test://template/([^/]+)/data")

_STATIC: list[types.TextResourceContents | types.BlobResourceContents] = [
    types.TextResourceContents(uri="test://static-text", mime_type="text/plain", text="A resource made of text."),
    types.BlobResourceContents(uri="test://static-binary", mime_type="image/png", blob=PNG),
    types.TextResourceContents(uri=WATCHED, mime_type="text/plain", text="A resource that is updated at times."),
]

_DESCRIPTIONS = {
    "test://static-text": "Text that never changes.",
    "test://static-binary": "An image that never changes.",
    WATCHED: "Announces updates to those who watch it.",
}


def listed() -> list[types.Resource]:
    return [
        types.Resource(
            uri=contents.uri,
            name=contents.uri.removeprefix("test://"),
            description=_DESCRIPTIONS[contents.uri],
            mime_type=contents.mime_type,
        )
        for contents in _STATIC
    ]


def templates() -> list[types.ResourceTemplate]:
    return [
        types.ResourceTemplate(
            uri_template=TEMPLATE, name="template", description="Data by its id.", mime_type="application/json"
        )
    ]


def read(context: Context, uri: str) -> types.ReadResourceResult:
    for contents in _STATIC:
        if contents.uri == uri:
            return types.ReadResourceResult(contents=[contents])
    if (match := _BY_TEMPLATE.fullmatch(uri)) is not None:
        data = json.dumps({"id": match[1], "templateTest": True, "data": f"Data for ID: {match[1]}"})
        filled = types.TextResourceContents(uri=uri, mime_type="application/json", text=data)
        return types.ReadResourceResult(contents=[filled])
    code = types.INVALID_PARAMS if context.protocol_version in MODERN_PROTOCOL_VERSIONS else RESOURCE_NOT_FOUND
    raise MCPError(code, "Resource not found", {"uri": uri})
