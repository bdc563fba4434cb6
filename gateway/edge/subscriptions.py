"""The resources that a legacy session subscribed to, watched for the standing stream that its client has here."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from gateway import jsonrpc
from gateway.calls import Call, Caller, Method
from gateway.dispatch import Dispatch
from gateway.edge.standing import Standing
from gateway.errors import GatewayError
from gateway.sessions.changes import Changes
from gateway.sessions.model import GatewaySession
from gateway.sessions.registry import KIND, SessionRegistry
from gateway.upstream.modern import SILENT


class Subscriptions:
    """Follows what sessions subscribe to and unsubscribe from, on whichever replica they do it."""

    def __init__(self, dispatch: Dispatch, registry: SessionRegistry, changes: Changes) -> None:
        self._dispatch = dispatch
        self._registry = registry
        self._changes = changes

    async def follow(self, session: GatewaySession, caller: Caller, standing: Standing) -> None:
        """Tells the stream of updates until cancelled; ends the stream when the session is gone."""

        def updated(subscribed: str, uri: str) -> None:
            if subscribed in session.subscriptions:  # a session that has just unsubscribed is told no more
                message = {"jsonrpc": "2.0", "method": "notifications/resources/updated", "params": {"uri": uri}}
                standing.push(jsonrpc.dumps(message), once=True)

        key = session.upstreams.key
        watching = self._dispatch.watching(SILENT, updated)
        watched: frozenset[str] = frozenset()
        wake = asyncio.Event()
        stop = self._changes.subscribe(KIND, lambda changed: wake.set() if changed == key else None)
        try:
            while True:
                wake.clear()
                try:
                    current = await self._registry.resolve(session.id, session.principal, session.endpoint)
                except GatewayError:
                    standing.end()
                    return
                wanted = current.subscriptions
                await watching.remove(watched - wanted)
                await watching.add(self._calls(caller, wanted - watched))
                watched = wanted
                await wake.wait()
        finally:
            stop()
            await watching.close()

    def _calls(self, caller: Caller, uris: Iterable[str]) -> list[Call]:
        calls: list[Call] = []
        for uri in uris:
            try:
                calls.append(self._dispatch.resource_call(caller, Method.LISTEN, {"uri": uri}))
            except GatewayError:
                continue  # it was there when the client subscribed, and is not any more
        return calls
