"""`subscriptions/listen`: acknowledged with what is really honoured, then only what was asked for (2026-07-28)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import structlog
from mcp.shared.subscriptions import SUBSCRIPTION_ID_META_KEY
from mcp_types import SERVER_INFO_META_KEY

from gateway import jsonrpc
from gateway.bridge.announcements import Announcements
from gateway.bridge.results import SERVER_INFO
from gateway.bridge.watching import Watching
from gateway.calls import Call, Caller, Method
from gateway.dispatch import Dispatch
from gateway.edge.http import Request
from gateway.edge.outlets import Plain
from gateway.edge.standing import Standing
from gateway.errors import GatewayError, InvalidParams
from gateway.upstream.modern import SILENT

log = structlog.get_logger()

SUBSCRIPTIONS: Final = 1000
"""Resources one listen may watch."""

_FLAGS: Final = {"tools": "toolsListChanged", "prompts": "promptsListChanged", "resources": "resourcesListChanged"}
_PLAIN: Final = Plain()


class Listening:
    """Holds the listens of this replica."""

    def __init__(self, dispatch: Dispatch, announcements: Announcements, *, keep_alive: float) -> None:
        self._dispatch = dispatch
        self._announcements = announcements
        self._keep_alive = keep_alive
        self._open: set[Standing] = set()

    async def hold(self, request: Request, caller: Caller, request_id: object, params: Mapping[str, Any]) -> None:
        """Serves one listen until the client leaves or `end_all` is called."""
        wanted = params.get("notifications")
        asked: Mapping[str, Any] = wanted if isinstance(wanted, dict) else {}
        tag = {SUBSCRIPTION_ID_META_KEY: request_id}
        standing = Standing(request, _PLAIN.event, keep_alive=self._keep_alive)

        def updated(_: str, uri: str) -> None:
            standing.push(_notification("notifications/resources/updated", {"uri": uri, "_meta": tag}), once=True)

        def changed(method: str) -> None:
            if method in methods:
                standing.push(_notification(method, {"_meta": tag}), once=True)

        watching = self._dispatch.watching(SILENT, updated)
        self._open.add(standing)
        close = None
        try:
            honoured = await self._honoured(caller, asked, watching)
            methods = {f"notifications/{name}/list_changed" for name, flag in _FLAGS.items() if honoured.get(flag)}
            close = self._announcements.open(caller, changed)
            acknowledged = {"notifications": honoured, "_meta": tag}
            first = _notification("notifications/subscriptions/acknowledged", acknowledged)
            # The result is queued by `end` only: a listen that its client leaves is owed nothing.
            standing.last = _result(request_id, tag)
            await standing.run(await _PLAIN.event(first))
        finally:
            if close is not None:
                close()
            self._open.discard(standing)
            await watching.close()

    async def _honoured(self, caller: Caller, asked: Mapping[str, Any], watching: Watching) -> dict[str, Any]:
        capabilities = (await self._dispatch.introduction(caller)).capabilities
        honoured: dict[str, Any] = {
            flag: True for name, flag in _FLAGS.items() if asked.get(flag) is True and name in capabilities
        }
        uris = asked.get("resourceSubscriptions") or ()
        if len(uris) > SUBSCRIPTIONS:
            raise InvalidParams(f"notifications.resourceSubscriptions: at most {SUBSCRIPTIONS}")
        calls: list[Call] = []
        for uri in uris:
            try:
                calls.append(self._dispatch.resource_call(caller, Method.LISTEN, {"uri": uri}))
            except GatewayError:
                continue  # not there for this caller: left out of what is honoured
        if uris and (watched := await watching.add(calls)):
            honoured["resourceSubscriptions"] = watched
        return honoured

    def end_all(self) -> None:
        """Ends every listen gracefully: with its result."""
        for standing in tuple(self._open):
            if standing.last is not None:
                standing.push(standing.last)
            standing.end()


def _notification(method: str, params: Mapping[str, Any]) -> bytes:
    return jsonrpc.dumps({"jsonrpc": "2.0", "method": method, "params": params})


def _result(request_id: object, tag: Mapping[str, Any]) -> bytes:
    meta = {**tag, SERVER_INFO_META_KEY: SERVER_INFO}
    return jsonrpc.dumps({"jsonrpc": "2.0", "id": request_id, "result": {"resultType": "complete", "_meta": meta}})
