"""From an HTTP body to one JSON-RPC message, or to the reply that says why not."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from pydantic import ValidationError

from gateway import jsonrpc
from gateway.edge.http import EVENT_STREAM, JSON, Request, TooLarge, accepts
from gateway.edge.replies import Reply, invalid_message

LARGE: Final = 256 * 1024
"""Bodies above this many bytes are decoded in a thread, so that nobody else waits for them."""


class Refused(Exception):
    """The request is answered with `reply` and goes no further."""

    def __init__(self, reply: Reply, request_id: object = None) -> None:
        super().__init__(reply.message)
        self.reply = reply
        self.request_id = request_id


async def read(request: Request, limit: int, *, batch: bool = False) -> Any:
    """The decoded body of a Streamable HTTP POST: one message, or a list of them where a batch is allowed.

    Raises:
        Refused: media types, size or text are not as they must be.
    """
    if not accepts(request.headers.get("accept"), JSON, EVENT_STREAM):
        raise Refused(Reply(406, -32600, f"Accept must list both {JSON} and {EVENT_STREAM}"))
    return await decode(await read_json_body(request, limit), batch=batch)


async def read_json_body(request: Request, limit: int) -> bytes:
    """The body, of the right media type and at most `limit` bytes."""
    kind = request.headers.get("content-type", "")
    if kind.split(";", 1)[0].strip().lower() != JSON:
        raise Refused(Reply(415, -32600, f"Content-Type must be {JSON}"))
    try:
        return await request.body(limit)
    except TooLarge:
        raise Refused(Reply(413, -32600, f"The body is larger than {limit} bytes")) from None


async def decode(body: bytes, *, batch: bool = False) -> Any:
    """One strictly decoded message, or a list of them."""
    try:
        if len(body) > LARGE:
            return await asyncio.to_thread(jsonrpc.decode_request, body, batch=batch)
        return jsonrpc.decode_request(body, batch=batch)
    except jsonrpc.InvalidMessage as error:
        raise Refused(invalid_message(error)) from None


def first_fault(error: ValidationError) -> str:
    """Which parameter is wrong and how, without repeating the client's text."""
    found = error.errors(include_url=False, include_input=False, include_context=False)[0]
    field = ".".join(str(part) for part in found["loc"] if part != "params")
    return f"{field or 'params'}: {found['msg']}"
