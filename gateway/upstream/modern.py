"""Requests to an upstream of the 2026-07-28 era: one POST, one answer, nothing remembered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mcp_types.version import LATEST_MODERN_VERSION

from catalogue.model import Server
from gateway.calls import Answer, Call, Message, Outlet, new_id
from gateway.errors import UpstreamError, UpstreamRefused, UpstreamUnavailable
from gateway.policy.pipeline import CallPermit
from gateway.upstream import wire
from gateway.upstream.exchange import Aside, Exchange
from gateway.upstream.permits import HousekeepingPermit
from gateway.upstream.transport import Transport, UnknownOutcome

_IDEMPOTENT = frozenset({"prompts/get", "resources/read", "completion/complete"})


class Silent:
    """The outlet of housekeeping: nobody listens."""

    async def send(self, message: Message) -> None:
        """Dropped."""

    def opened(self) -> None:
        """Nothing to open."""


SILENT = Silent()


def broken_off(server: Server) -> UpstreamUnavailable:
    """The stream ended without the result: it may have run."""
    return UnknownOutcome(server.slug, f"The server {server.slug} ended its answer before the result.")


def repeatable(call: Call) -> bool:
    """May the call be sent again when its outcome is unknown? Only the operator's word counts for tools."""
    return call.method in _IDEMPOTENT or (call.item is not None and call.item.facts.idempotent)


class Modern:
    """The 2026-07-28 side of one upstream."""

    def __init__(self, server: Server, transport: Transport) -> None:
        self._server = server
        self._transport = transport

    async def forward(self, permit: CallPermit, outlet: Outlet, aside: Aside) -> Answer:
        """Sends a permitted call; a connection that dies under an idempotent one is tried once more."""
        call = permit.call
        try:
            return await self._once(call, outlet, aside)
        except UnknownOutcome:
            if not repeatable(call):
                raise
            return await self._once(call, outlet, aside)

    async def _once(self, call: Call, outlet: Outlet, aside: Aside) -> Answer:
        request_id = new_id()
        params = dict(call.params)
        if call.round.inner is not None:
            params["requestState"] = call.round.inner
        if call.round.input_responses is not None:
            params["inputResponses"] = call.round.input_responses
        body = wire.modern_body(
            call.method.value,
            request_id,
            params,
            capabilities=wire.bridgeable(call.caller, self._server) if call.caller.modern else {},
            meta=wire.call_meta(call, request_id, modern=True),
        )
        headers = wire.modern_headers(call.method.value, params, call.item.header_map if call.item else None)
        exchange = Exchange(
            self._server,
            request_id,
            outlet,
            aside=aside,
            progress_token=call.progress_token,
            log_level=call.caller.log_level,
        )
        return await self._send(exchange, headers, body)

    async def housekeep(self, permit: HousekeepingPermit, params: Mapping[str, Any]) -> Answer:
        """Sends a request that carries nothing of any caller."""
        method = permit.method.value
        request_id = new_id()
        body = wire.modern_body(method, request_id, params, capabilities=_DISCOVERY_CAPABILITIES)
        exchange = Exchange(self._server, request_id, SILENT, aside=_ignore)
        return await self._send(exchange, wire.modern_headers(method, params), body)

    async def listen(self, permit: HousekeepingPermit, notifications: Mapping[str, Any], aside: Aside) -> None:
        """Holds a `subscriptions/listen` until the upstream ends it."""
        method = permit.method.value
        request_id = new_id()
        params = {"notifications": notifications}
        body = wire.modern_body(method, request_id, params, capabilities={})
        exchange = Exchange(self._server, request_id, SILENT, aside=aside)
        await self._send(exchange, wire.modern_headers(method, params), body)

    async def _send(self, exchange: Exchange, headers: Mapping[str, str], body: bytes) -> Answer:
        response = await self._transport.request("POST", self._transport.target, headers, body)
        answer = await exchange.read(self._transport, response, session=False)
        if answer is None:
            raise broken_off(self._server)
        return answer


# What discovery declares, so that upstreams list tools they offer to interactive clients only.
_DISCOVERY_CAPABILITIES: Mapping[str, Any] = {"elicitation": {"form": {}, "url": {}}}


def _ignore(method: str, params: dict[str, Any]) -> None:
    del method, params


def speaks_modern(answer: Answer) -> bool:
    """Does a `server/discover` result offer a modern revision?"""
    versions = answer.value.get("supportedVersions")
    return isinstance(versions, list) and LATEST_MODERN_VERSION in versions


def modern_refusal(error: UpstreamError) -> bool:
    """Is this refusal one that only a server of the modern era gives (-32020, -32021, -32022)?"""
    if not isinstance(error, UpstreamRefused):
        return False
    if error.code == -32022:
        supported = error.data.get("supported") if isinstance(error.data, dict) else None
        return isinstance(supported, list) and LATEST_MODERN_VERSION in supported
    return error.code in (-32020, -32021)
