"""One request at an upstream and the stream that answers it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

import structlog

from catalogue.model import Server
from gateway import jsonrpc
from gateway.calls import Answer, Message, MessageKind, Outlet
from gateway.errors import UpstreamProtocolError, UpstreamRefused, UpstreamUnavailable
from gateway.upstream.response import Response
from gateway.upstream.sse import Event, EventParser, EventTooLarge
from gateway.upstream.transport import EVENT_STREAM, JSON, Transport

log = structlog.get_logger()

AT_ONCE: Final = 100
"""Events of one stream after which everybody else has a turn: a piece of a flood holds thousands."""

_PROGRESS = "notifications/progress"
_LEVELS = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")

Aside = Callable[[str, dict[str, Any]], None]
"""Takes a notification that belongs to no request: a change of lists or resources."""
Asked = Callable[[str, dict[str, Any], str | int], Awaitable[None]]
"""Takes a request of the server: method, parameters, its id."""


class SessionLost(UpstreamUnavailable):
    """The upstream no longer knows its session (404): nothing was executed."""


class NotSpoken(UpstreamUnavailable):
    """An HTTP answer that says this era or transport is not spoken here; `status` is the HTTP status."""

    def __init__(self, slug: str, status: int) -> None:
        super().__init__(slug, f"The server {slug} answered with HTTP status {status}.")
        self.status = status


class Exchange:
    """Reads the answer to one request, passing on what comes before the result.

    `progress_token` is the client's, restored into progress notifications; None when it asked for none.
    `log_level` is the least level the client wants; None when it wants no log messages.
    """

    __slots__ = (
        "_aside",
        "_asked",
        "_last_progress",
        "_log_level",
        "_outlet",
        "_server",
        "last_event_id",
        "progress_token",
        "request_id",
        "retry",
    )

    def __init__(
        self,
        server: Server,
        request_id: str,
        outlet: Outlet,
        *,
        aside: Aside,
        asked: Asked | None = None,
        progress_token: str | int | None = None,
        log_level: str | None = None,
    ) -> None:
        self._server = server
        self._outlet = outlet
        self._aside = aside
        self._asked = asked
        self._log_level = log_level
        self._last_progress: float | None = None
        self.request_id = request_id
        self.progress_token = progress_token
        self.last_event_id: str | None = None
        self.retry: int | None = None

    async def read(self, transport: Transport, response: Response, *, session: bool) -> Answer | None:
        """The result, or None when an event stream ended without it.

        Raises:
            UpstreamRefused: the upstream answered with a JSON-RPC error.
            SessionLost: 404 on a request that carried an upstream session id (`session`).
            NotSpoken: another HTTP status without a JSON-RPC error.
            UpstreamProtocolError: not JSON-RPC, or not an answer to this request.
        """
        kind = response.content_type
        answered = False
        try:
            if response.status == 200 and kind == EVENT_STREAM:
                answer = await self._stream(transport, response)
                answered = answer is not None
                return answer
            body = await transport.read(response)
        finally:
            response.settle(answered=answered)
        if session and response.status == 404:
            raise SessionLost(self._server.slug, f"The server {self._server.slug} no longer knows its session.")
        if response.status == 200 or (kind == JSON and 400 <= response.status < 500 and response.status not in _CLOSED):
            try:
                return self._result(body, response.status)
            except UpstreamProtocolError:
                if response.status == 200:
                    raise
        raise NotSpoken(self._server.slug, response.status)

    async def _stream(self, transport: Transport, response: Response) -> Answer | None:
        parser = EventParser(self._server.max_event_bytes)
        try:
            async for chunk in transport.chunks(response):
                for number, event in enumerate(parser.feed(chunk), 1):
                    if (answer := await self._event(event)) is not None:
                        return answer
                    if number % AT_ONCE == 0:
                        await asyncio.sleep(0)
        except EventTooLarge as error:
            cap = self._server.max_event_bytes
            raise self._protocol_error(f"sent more than {cap} bytes at once") from error
        return None

    async def _event(self, event: Event) -> Answer | None:
        if event.id is not None:
            self.last_event_id = event.id
        if event.retry is not None:
            self.retry = event.retry
        return await self.message(event.data) if event.has_data and event.data else None

    async def message(self, data: bytes) -> Answer | None:
        """Takes one JSON-RPC message of the stream: the result, or None after passing on anything else."""
        try:
            decoded = jsonrpc.loads(data)
        except ValueError as error:
            raise self._protocol_error("sent something that is not JSON") from error
        if not isinstance(decoded, dict):
            raise self._protocol_error("sent something that is not a JSON-RPC message")
        method = decoded.get("method")
        if not isinstance(method, str):
            if decoded.get("id") == self.request_id:
                return self._result(data)
            log.warning("orphan_response", upstream=self._server.slug)  # late, duplicate or swapped: never a result
            return None
        params = decoded.get("params") or {}
        if not isinstance(params, dict):
            raise self._protocol_error("sent parameters that are not an object")
        if "id" in decoded:
            await self._server_request(method, params, decoded["id"])
        else:
            await self._notification(method, params)
        return None

    def _result(self, data: bytes, status: int = 200) -> Answer:
        try:
            response = jsonrpc.split_response(data, self.request_id)
        except ValueError as error:
            raise self._protocol_error("answered with something that is not JSON-RPC") from error
        if (refusal := response.error) is not None:
            code, text = refusal.get("code"), refusal.get("message")
            if not isinstance(code, int) or isinstance(code, bool):
                raise self._protocol_error("answered with an error that has no code")
            if response.id not in (None, self.request_id):
                # Servers that did not get as far as the id put a word of theirs there, under a status of HTTP. It may
                # as well be another request's answer: what kind of refusal it is can be believed, its words cannot.
                if status == 200:
                    raise self._protocol_error("answered another request")
                raise UpstreamRefused(self._server.slug, code, f"The server {self._server.slug} refused the request.")
            raise UpstreamRefused(self._server.slug, code, str(text or ""), refusal.get("data"))
        if response.id != self.request_id or not isinstance(response.result, dict):
            raise self._protocol_error("answered with something that is not the result of this request")
        return Answer(response.result, response.result_bytes)

    async def _server_request(self, method: str, params: dict[str, Any], upstream_id: Any) -> None:
        if not isinstance(upstream_id, str | int) or isinstance(upstream_id, bool):
            raise self._protocol_error("sent a request without a usable id")
        if self._asked is None:  # 2026-07-28: servers send no requests; there is nobody to answer it
            log.warning("server_request_dropped", upstream=self._server.slug, method=method)
            return
        await self._asked(method, params, upstream_id)

    async def _notification(self, method: str, params: dict[str, Any]) -> None:
        if method == _PROGRESS:
            progress = params.get("progress")
            if (
                self.progress_token is None
                or params.get("progressToken") != self.request_id
                or not isinstance(progress, int | float)
                or (self._last_progress is not None and progress <= self._last_progress)
            ):
                return
            self._last_progress = progress
            params = {**params, "progressToken": self.progress_token}
        elif method == "notifications/message":
            if self._log_level is None or _rank(params.get("level")) < _rank(self._log_level):
                return
        else:
            self._aside(method, params)
            return
        await self._outlet.send(Message(MessageKind.NOTIFICATION, method, Answer(params)))

    def _protocol_error(self, what: str) -> UpstreamProtocolError:
        return UpstreamProtocolError(self._server.slug, f"The server {self._server.slug} {what}.")


_CLOSED = frozenset({401, 403, 407, 429})


def _rank(level: object) -> int:
    return _LEVELS.index(level) if level in _LEVELS else len(_LEVELS)
