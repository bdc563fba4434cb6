"""Watched resources: each under a permit and a record of its own, told under the names the client knows."""

from __future__ import annotations

import asyncio

import pytest

from gateway.bridge.watching import Watching
from gateway.calls import Call, Caller, Method
from gateway.errors import UpstreamUnavailable
from gateway.policy.pipeline import CallPermit
from gateway.upstream.watches import Updated
from tests.support.calls import LEGACY, NOBODY, ONE, TWO, MemoryOutlet, caller, definition, until
from tests.support.worlds import World

FILES = definition(
    resources=[{"uri": "file:///a", "name": "a"}, {"uri": "file:///b", "name": "b"}],
    capabilities={"resources": {"subscribe": True}},
)
DEAF = definition(resources=[{"uri": "file:///a", "name": "a"}], capabilities={"resources": {}})


class Streamed:
    """One client stream on a world whose upstreams hold every watch until it is cancelled."""

    def __init__(self) -> None:
        self.world = World((ONE, FILES), (TWO, DEAF))
        self.held: dict[str, Updated] = {}
        self.fails: Exception | None = None
        self.told: list[tuple[str, str]] = []
        self.world.pool.watched = self._watch
        self.watching = Watching(
            self.world.pipeline, self.world.pool, MemoryOutlet(), lambda *uris: self.told.append(uris)
        )

    async def _watch(self, permit: CallPermit, updated: Updated) -> None:
        uri = str(permit.call.params["uri"])
        self.held[uri] = lambda of, changed: updated(permit.call, changed)
        try:
            if self.fails is not None:
                raise self.fails
            await asyncio.Event().wait()
        finally:
            del self.held[uri]

    def calls(self, *exposed: str, asking: Caller | None = None) -> list[Call]:
        who = asking or caller()
        return [self.world.dispatch.resource_call(who, Method.LISTEN, {"uri": uri}) for uri in exposed]

    def change(self, uri: str, changed: str | None = None) -> None:
        self.held[uri](self.calls("one+file:///a")[0], changed or uri)

    @property
    def records(self) -> list[str]:
        return [" ".join((line[0], *line[2:])).strip() for line in self.world.recorder.lines]


@pytest.fixture
def streamed() -> Streamed:
    return Streamed()


async def test_what_is_permitted_and_offered_is_watched_each_with_a_record(streamed: Streamed) -> None:
    honoured = await streamed.watching.add(streamed.calls("one+file:///a", "one+file:///b"))
    assert honoured == ["one+file:///a", "one+file:///b"]
    assert streamed.records == ["opened", "opened"]
    await streamed.watching.close()
    assert streamed.held == {}
    assert streamed.records[2:] == ["closed cancelled"] * 2


async def test_what_a_server_does_not_watch_is_not_promised_and_not_recorded(streamed: Streamed) -> None:
    assert await streamed.watching.add(streamed.calls("two+file:///a")) == []
    assert streamed.records == []


async def test_what_is_hidden_is_not_promised_and_recorded_as_denied(streamed: Streamed) -> None:
    assert await streamed.watching.add(streamed.calls("one+file:///a", asking=caller(NOBODY))) == []
    assert streamed.records == ["opened", "closed denied authorization:hidden"]
    await until(lambda: not streamed.watching._tasks)


async def test_what_is_asked_for_twice_is_promised_once(streamed: Streamed) -> None:
    assert await streamed.watching.add(streamed.calls("one+file:///a", "one+file:///a")) == ["one+file:///a"]
    await streamed.watching.close()


async def test_a_change_is_told_under_the_name_the_client_knows(streamed: Streamed) -> None:
    await streamed.watching.add(streamed.calls("one+file:///a"))
    streamed.change("file:///a")
    streamed.change("file:///a", "file:///a/below")
    assert streamed.told == [("one+file:///a", "one+file:///a"), ("one+file:///a", "one+file:///a/below")]
    await streamed.watching.close()


@pytest.mark.parametrize("revision", ["2026-07-28", LEGACY])
async def test_on_a_servers_own_endpoint_names_are_its_own(streamed: Streamed, revision: str) -> None:
    await streamed.watching.add(streamed.calls("file:///a", asking=caller(endpoint="one", revision=revision)))
    streamed.change("file:///a")
    assert streamed.told == [("file:///a", "file:///a")]
    await streamed.watching.close()


async def test_one_resource_may_be_let_go_and_the_others_stay(streamed: Streamed) -> None:
    await streamed.watching.add(streamed.calls("one+file:///a", "one+file:///b"))
    await streamed.watching.remove({"one+file:///a", "one+file:///unknown"})
    assert set(streamed.held) == {"file:///b"}
    await streamed.watching.close()


async def test_a_watch_that_ends_by_itself_is_recorded_and_the_others_go_on(streamed: Streamed) -> None:
    await streamed.watching.add(streamed.calls("one+file:///b"))
    streamed.fails = UpstreamUnavailable("one", "away")
    assert await streamed.watching.add(streamed.calls("one+file:///a")) == ["one+file:///a"]
    await until(lambda: streamed.records[-1] == "closed failed upstream_unavailable")
    assert set(streamed.held) == {"file:///b"}
    await streamed.watching.close()


async def test_a_recorder_that_cannot_write_lets_nothing_be_watched(streamed: Streamed) -> None:
    streamed.world.recorder._refusing = frozenset({"opened"})
    assert await streamed.watching.add(streamed.calls("one+file:///a")) == []
    assert streamed.held == {}


async def test_whatever_else_goes_wrong_before_it_is_admitted_nobody_waits_for_ever(streamed: Streamed) -> None:
    async def breaks(opening: Call) -> None:
        raise RuntimeError("a recorder that is broken in another way")

    streamed.world.recorder.opened = breaks  # type: ignore[method-assign]
    async with asyncio.timeout(5):
        assert await streamed.watching.add(streamed.calls("one+file:///a")) == []
    assert streamed.held == {}
    await until(lambda: not streamed.watching._tasks)
