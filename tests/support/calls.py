"""Values of the request path, made in one line each, and the ports of a call in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

from catalogue.live import Catalogue
from catalogue.model import NO_FACTS, Definition, Facts, Item, Kind, Server
from gateway.calls import FIRST_ROUND, Call, Caller, Message, Method, Outcome, Principal, Round
from gateway.errors import StorageUnavailable
from gateway.sessions.model import UpstreamSessions

MODERN = "2026-07-28"
LEGACY = "2025-11-25"
ALICE = Principal("key:alice", "key")
BOB = Principal("key:bob", "key")
NOBODY = Principal("key:nobody", "key", grants=())
ONE = Server("one", "1", "http://one.test/mcp")
TWO = Server("two", "1", "http://two.test/mcp")
SECONDS = 10
"""Deadline of everything that a test waits for."""


class FakeClock:
    """A clock that moves when it is told to; as `time.time` and `time.monotonic` are used."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def tool(name: str, **members: Any) -> dict[str, Any]:
    """A listed tool."""
    return {"name": name, "inputSchema": {"type": "object"}, **members}


def definition(
    *tools: Mapping[str, Any],
    prompts: Iterable[Mapping[str, Any]] = (),
    resources: Iterable[Mapping[str, Any]] = (),
    templates: Iterable[Mapping[str, Any]] = (),
    **more: Any,
) -> Definition:
    """What an upstream offers; `more` are the other fields of a definition."""
    items: dict[Kind, tuple[Mapping[str, Any], ...]] = {
        Kind.TOOL: tuple(tools),
        Kind.PROMPT: tuple(prompts),
        Kind.RESOURCE: tuple(resources),
        Kind.TEMPLATE: tuple(templates),
    }
    capabilities = more.pop("capabilities", {"tools": {}, "prompts": {}, "resources": {"subscribe": True}})
    return Definition(items, capabilities, **more)


def catalogue(*published: tuple[Server, Definition], clock: FakeClock | None = None) -> Catalogue:
    """A catalogue to which each server has published."""
    made = Catalogue([server for server, _ in published], clock or FakeClock())
    for server, found in published:
        made.publish(server, found)
    return made


def caller(principal: Principal = ALICE, endpoint: str = "", revision: str = MODERN, **more: Any) -> Caller:
    """A caller of the revision: with a holder of its own where the revision has sessions."""
    capabilities = more.pop("capabilities", {})
    if revision != MODERN:
        more.setdefault("holder", UpstreamSessions("s:test", {}))
    return Caller(principal, endpoint, revision, capabilities, **more)


def item(
    kind: Kind = Kind.TOOL, name: str = "echo", server: Server = ONE, facts: Facts = NO_FACTS, **members: Any
) -> Item:
    """A listed item under its federated name."""
    separator = "+" if kind in (Kind.RESOURCE, Kind.TEMPLATE) else "__"
    exposed = f"{server.slug}{separator}{name}"
    return Item(kind, server, name, exposed, {kind.key: exposed, **members}, facts)


def call(
    asking: Caller | None = None,
    method: Method = Method.TOOLS_CALL,
    params: Mapping[str, Any] | None = None,
    *,
    id: str = "call-1",  # noqa: A002 - it is one
    of: Item | None = None,
    round: Round = FIRST_ROUND,  # noqa: A002 - it is one
    **more: Any,
) -> Call:
    """A call of a tool, unless the method says otherwise."""
    listed = of if of is not None else item() if method is Method.TOOLS_CALL else None
    sent = params if params is not None else {"name": "echo", "arguments": {}}
    server = more.pop("server", listed.server if listed is not None else ONE)
    exposed = more.pop("exposed_name", listed.exposed_name if listed is not None else f"{server.slug}+file:///a")
    return Call(
        id=id,
        caller=asking or caller(),
        method=method,
        server=server,
        item=listed,
        exposed_name=exposed,
        params=sent,
        round=round,
        **more,
    )


class MemoryRecorder:
    """A recorder that remembers; it refuses to write the events named in `refusing`."""

    def __init__(self, *, refusing: Iterable[str] = ()) -> None:
        self.lines: list[tuple[str, ...]] = []
        self.calls: list[Call] = []
        self._refusing = frozenset(refusing)

    async def opened(self, opening: Call) -> None:
        """As a line ("opened", call id)."""
        self._write("opened", opening.id)
        self.calls.append(opening)

    async def closed(self, closing: Call, outcome: Outcome, detail: str) -> None:
        """As a line ("closed", call id, outcome, detail)."""
        self._write("closed", closing.id, outcome.value, detail)

    def _write(self, event: str, *facts: str) -> None:
        if event in self._refusing:
            raise StorageUnavailable("The recorder is away.")
        self.lines.append((event, *facts))


class MemoryOutlet:
    """The client's side of a request: what was sent to it, and whether the stream was opened."""

    def __init__(self) -> None:
        self.sent: list[Message] = []
        self.is_open = False

    async def send(self, message: Message) -> None:
        """Kept."""
        self.sent.append(message)

    def opened(self) -> None:
        """Noted."""
        self.is_open = True


async def until(condition: Any, *arguments: Any) -> None:
    """Lets everything else run until the condition holds; fails after the deadline."""
    async with asyncio.timeout(SECONDS):
        while not condition(*arguments):  # noqa: ASYNC110 - of any object, also one that tells nobody of its changes
            await asyncio.sleep(0)
