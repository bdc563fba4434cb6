"""Tools that answer by themselves: every content kind, errors, progress, logging, schemas, headers, a cut stream."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import anyio
import mcp_types as types

from conformance.reference.content import audio, embedded, image, text
from conformance.reference.rounds import Round
from conformance.reference.sessions import Sessions

Arguments = Mapping[str, Any]
Run = Callable[[Round, Arguments], Awaitable[types.CallToolResult]]

# Long enough that messages of one call arrive as separate ones, short enough not to slow the suite down.
PAUSE = 0.05
# The SDK closes a stream at once, even before its opening event, with the position to come back to, was written.
OPENING = 0.2
# A call that cuts its stream goes on for longer than a client or gateway waits before it commits to streaming.
UNSEEN_WORK = 0.6

NO_ARGUMENTS: dict[str, Any] = {"type": "object", "properties": {}}

# What JSON Schema 2020-12 has beyond older dialects, all of which has to survive a listing unchanged.
CONTACT_SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {
        "address": {
            "$anchor": "addressDef",
            "type": "object",
            "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
        }
    },
    "properties": {
        "name": {"type": "string"},
        "address": {"$ref": "#/$defs/address"},
        "contactMethod": {"type": "string", "enum": ["phone", "email"]},
        "phone": {"type": "string"},
        "email": {"type": "string"},
    },
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}

REGION_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "region": {"type": "string", "description": "Where to run", "x-mcp-header": "Region"},
        "dry_run": {"type": "boolean", "description": "Whether to only pretend", "x-mcp-header": "Dry-Run"},
    },
    "required": ["region"],
}


@dataclass(frozen=True)
class ToolEntry:
    definition: types.Tool
    run: Run


def entry(name: str, description: str, run: Run, schema: dict[str, Any] | None = None) -> ToolEntry:
    return ToolEntry(types.Tool(name=name, description=description, input_schema=schema or NO_ARGUMENTS), run)


def result(*content: types.ContentBlock) -> types.CallToolResult:
    return types.CallToolResult(content=list(content))


def _always(*content: types.ContentBlock) -> Run:
    async def run(_: Round, __: Arguments) -> types.CallToolResult:
        return result(*content)

    return run


async def _fail(_: Round, __: Arguments) -> types.CallToolResult:
    return types.CallToolResult(content=[text("This tool always fails.")], is_error=True)


async def _report_progress(call: Round, _: Arguments) -> types.CallToolResult:
    for done in (0, 50, 100):
        await call.context.session.report_progress(done, 100)
        await anyio.sleep(PAUSE)
    return result(text("Reported progress three times."))


async def _echo_region(_: Round, arguments: Arguments) -> types.CallToolResult:
    return result(text(f"region={arguments['region']}"))


async def _contact(_: Round, arguments: Arguments) -> types.CallToolResult:
    return result(text(f"Contact by {arguments.get('contactMethod', 'any means')}."))


async def _cut_stream(call: Round, _: Arguments) -> types.CallToolResult:
    """Close the response stream and go on; the client has to come back for the result. Only 2025-11-25 can.

    At other revisions it takes as long, so that whoever is in between has reason to stream there too.
    """
    await anyio.sleep(OPENING)
    if call.context.close_sse_stream is not None:
        await call.context.close_sse_stream()
    await anyio.sleep(UNSEEN_WORK)
    return result(text("Finished, though the stream may have been closed."))


def _logging(sessions: Sessions, messages: tuple[str, ...]) -> Run:
    async def run(call: Round, _: Arguments) -> types.CallToolResult:
        for message in messages:
            if sessions.wants(call.context, "info"):
                await call.context.session.send_log_message(
                    "info", message, logger="reference", related_request_id=call.context.request_id
                )
            await anyio.sleep(PAUSE)
        return result(text(f"Logged {len(messages)} times."))

    return run


def plain_tools(sessions: Sessions) -> list[ToolEntry]:
    return [
        # First, because the suite calls the first tool of the list without arguments.
        entry("test_simple_text", "Returns one line of text.", _always(text("A line of text."))),
        entry("test_image_content", "Returns an image.", _always(image())),
        entry("test_audio_content", "Returns a sound.", _always(audio())),
        entry(
            "test_embedded_resource",
            "Returns a resource inside its result.",
            _always(embedded("test://embedded-resource", "The content of an embedded resource.")),
        ),
        entry(
            "test_multiple_content_types",
            "Returns text, an image and a resource together.",
            _always(
                text("Three kinds of content:"),
                image(),
                embedded("test://mixed-content-resource", '{"test":"data","value":123}', "application/json"),
            ),
        ),
        entry("test_error_handling", "Always fails.", _fail),
        entry("test_tool_with_progress", "Reports progress while it runs.", _report_progress),
        entry(
            "test_tool_with_logging",
            "Logs three messages while it runs.",
            _logging(sessions, ("Started", "Half way", "Finished")),
        ),
        entry("test_logging_tool", "Logs one message if the client asked for it.", _logging(sessions, ("Called",))),
        entry("test_reconnection", "Closes its stream before it has a result.", _cut_stream),
        entry("json_schema_2020_12_tool", "Has a schema with 2020-12 vocabulary.", _contact, CONTACT_SCHEMA),
        entry("test_x_mcp_header", "Has arguments that are repeated in headers.", _echo_region, REGION_SCHEMA),
    ]
