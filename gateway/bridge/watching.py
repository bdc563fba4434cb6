"""Watches resources at their upstreams for one client stream, each under a permit and a record of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence

import structlog

from catalogue import uris
from gateway.calls import Answer, Call, Outlet
from gateway.errors import GatewayError
from gateway.policy.pipeline import CallPermit, Pipeline
from gateway.upstream.pool import Pool

log = structlog.get_logger()


class Watching:
    """What one client stream watches. `updated` gets the exposed URI that is watched and the one that changed."""

    def __init__(
        self, pipeline: Pipeline, upstreams: Pool, outlet: Outlet, updated: Callable[[str, str], None]
    ) -> None:
        self._pipeline = pipeline
        self._upstreams = upstreams
        self._outlet = outlet
        self._updated = updated
        self._tasks: dict[asyncio.Task[None], str] = {}

    async def add(self, calls: Sequence[Call]) -> list[str]:
        """Begins to watch; returns the exposed URIs that really are watched: permitted, and offered by the upstream."""
        honoured = [
            call.exposed_name for call in calls if self._upstreams.can_watch(call.server) and await self._begin(call)
        ]
        return list(dict.fromkeys(honoured))

    async def _begin(self, call: Call) -> bool:
        admitted: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        async def forward(permit: CallPermit, _: Outlet) -> Answer:
            if not admitted.done():
                admitted.set_result(None)
            await self._upstreams.watch(permit, self._tell)
            return Answer({})

        task = asyncio.create_task(self._run(call, forward, admitted), name=f"watching {call.server.slug}")
        self._tasks[task] = call.exposed_name
        task.add_done_callback(self._forget)
        try:
            await admitted
        except GatewayError:
            return False
        return True

    async def _run(
        self, call: Call, forward: Callable[[CallPermit, Outlet], Awaitable[Answer]], admitted: asyncio.Future[None]
    ) -> None:
        try:
            await self._pipeline.enforce(call, self._outlet, forward)
        except GatewayError as error:
            if not admitted.done():
                admitted.set_exception(error)
            else:
                log.info("watching_ended", upstream=call.server.slug, error=str(error))
        finally:
            if not admitted.done():  # whatever else ended it: nobody may wait for ever
                admitted.set_exception(GatewayError("not admitted"))

    def _tell(self, call: Call, uri: str) -> None:
        """`uri` may be below the one that was subscribed to (2026-07-28 server/resources, sub-resources)."""
        self._updated(call.exposed_name, uris.expose(call.server.slug, uri) if call.federated else uri)

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._tasks.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("watching_failed", error=repr(error))

    async def remove(self, exposed: Collection[str]) -> None:
        """Watches these URIs no longer."""
        await self._end([task for task, uri in self._tasks.items() if uri in exposed])

    async def close(self) -> None:
        """Ends every watch."""
        await self._end(list(self._tasks))

    @staticmethod
    async def _end(tasks: Sequence[asyncio.Task[None]]) -> None:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
