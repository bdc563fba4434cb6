"""The methods of sessions, whatever transport brought them."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest

from gateway.bridge.server_requests import Address, ServerRequests
from gateway.calls import Answer, Message, MessageKind, Outlet
from gateway.edge.http import ClientGone
from gateway.edge.inflight import InFlight
from gateway.edge.methods import LegacyMethods, caller_of
from gateway.errors import InvalidParams
from gateway.policy.pipeline import CallPermit
from gateway.sessions.model import GatewaySession
from tests.support.calls import ALICE, LEGACY, ONE, MemoryOutlet, definition, tool, until
from tests.support.worlds import RING, World

OFFERED = definition(
    tool("echo"),
    tool("add"),
    prompts=[{"name": "ask"}],
    resources=[{"uri": "file:///a", "name": "a"}],
    instructions="Be kind.",
)
HELLO = {"protocolVersion": LEGACY, "capabilities": {"roots": {}}, "clientInfo": {"name": "test", "version": "1"}}


class Session:
    """A client with a session, on a world."""

    def __init__(self, page_size: int = 1000) -> None:
        self.world = World((ONE, OFFERED), page_size=page_size)
        self.requests = ServerRequests(RING)
        self.inflight = InFlight(self.world.changes)
        self.methods = LegacyMethods(
            self.world.dispatch, self.world.registry, self.world.pool, self.requests, self.inflight
        )
        self.outlet = MemoryOutlet()
        self.session: GatewaySession

    async def open(self, endpoint: str = "", **hello: Any) -> dict[str, Any]:
        message = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {**HELLO, **hello}}
        self.session, body = await self.methods.initialize(ALICE, endpoint, message)
        result: dict[str, Any] = orjson.loads(body)["result"]
        return result

    async def answer(self, method: str, params: Any = None, *, id: Any = 1) -> tuple[int, bytes] | None:  # noqa: A002
        message: dict[str, Any] = {"jsonrpc": "2.0", "id": id, "method": method}
        if params is not None:
            message["params"] = params
        found = await self.methods.answer(self.session, ALICE, message, self.outlet)
        return None if found is None else found[:2]

    async def ask(self, method: str, params: Any = None) -> dict[str, Any]:
        found = await self.answer(method, params)
        assert found is not None
        decoded: dict[str, Any] = orjson.loads(found[1])
        return decoded


@pytest.fixture
async def session() -> Session:
    made = Session()
    await made.open()
    return made


async def test_a_session_opens_with_what_the_endpoint_says_of_itself() -> None:
    made = Session()
    result = await made.open()
    assert result["protocolVersion"] == LEGACY
    assert result["serverInfo"]["name"] == "mcp-gateway"
    assert "Be kind." in result["instructions"]
    assert result["capabilities"]["resources"] == {"listChanged": True, "subscribe": True}
    assert made.session.client_capabilities == {"roots": {}}


@pytest.mark.parametrize(
    ("offered", "agreed"),
    [
        ("2024-11-05", "2024-11-05"),
        ("2025-03-26", "2025-03-26"),
        ("2025-06-18", "2025-06-18"),
        ("2025-11-25", "2025-11-25"),
        ("2026-07-28", "2025-11-25"),
        ("1999-01-01", "2025-11-25"),
        ("", "2025-11-25"),
    ],
)
async def test_the_revision_that_is_offered_is_agreed_on_if_it_has_sessions(offered: str, agreed: str) -> None:
    made = Session()
    assert (await made.open(protocolVersion=offered))["protocolVersion"] == agreed
    assert made.session.protocol_version == agreed


@pytest.mark.parametrize(
    "wrong", [{"clientInfo": None}, {"clientInfo": {}}, {"capabilities": 5}, {"protocolVersion": 5}]
)
async def test_a_handshake_that_lacks_something_says_what(wrong: dict[str, Any]) -> None:
    made = Session()
    with pytest.raises(InvalidParams, match=rf"^{next(iter(wrong))}"):
        await made.open(**wrong)
    assert made.world.store.sessions == {}


@pytest.mark.parametrize("request_id", [0, -1, "", "x", 2**70])
async def test_a_request_is_answered_under_its_own_id_whatever_it_is(session: Session, request_id: Any) -> None:
    found = await session.answer("ping", id=request_id)
    assert found is not None
    text = orjson.dumps(request_id) if isinstance(request_id, str) else str(request_id).encode()
    assert found == (200, b'{"jsonrpc":"2.0","id":' + text + b',"result":{}}')


async def test_lists_come_in_pages() -> None:
    made = Session(page_size=1)
    await made.open()
    first = (await made.ask("tools/list"))["result"]
    second = (await made.ask("tools/list", {"cursor": first["nextCursor"]}))["result"]
    assert [item["name"] for page in (first, second) for item in page["tools"]] == ["one__echo", "one__add"]
    assert second.keys() == {"tools"}
    assert (await made.ask("resources/templates/list"))["result"] == {"resourceTemplates": []}


@pytest.mark.parametrize("method", ["nope", "server/discover", "subscriptions/listen", "initialize"])
async def test_methods_that_a_session_does_not_have_do_not_exist(session: Session, method: str) -> None:
    assert (await session.ask(method, {}))["error"]["code"] == -32601


async def test_the_log_level_is_kept_with_the_session(session: Session) -> None:
    assert (await session.ask("logging/setLevel", {"level": "warning"}))["result"] == {}
    assert session.session.log_level == "warning"
    assert caller_of(session.session, ALICE).log_level == "warning"


@pytest.mark.parametrize("level", [None, "", "loud", "WARNING", 5])
async def test_a_level_that_does_not_exist_is_refused(session: Session, level: Any) -> None:
    assert (await session.ask("logging/setLevel", {"level": level}))["error"]["code"] == -32602
    assert session.session.log_level is None


async def test_subscriptions_are_kept_with_the_session_under_the_clients_names(session: Session) -> None:
    await session.ask("resources/subscribe", {"uri": "one+file:///a"})
    assert session.session.subscriptions == frozenset({"one+file:///a"})
    await session.ask("resources/unsubscribe", {"uri": "one+file:///a"})
    assert session.session.subscriptions == frozenset()
    assert [permit.call.method for permit in session.world.pool.permits] == [
        "resources/subscribe",
        "resources/unsubscribe",
    ]


async def test_a_subscription_that_is_refused_is_not_kept(session: Session) -> None:
    session.world.fails(InvalidParams("no"))
    assert "error" in await session.ask("resources/subscribe", {"uri": "one+file:///a"})
    assert session.session.subscriptions == frozenset()


async def test_a_cancelled_request_gets_no_answer_and_is_recorded_as_cancelled(session: Session) -> None:
    async def held(permit: CallPermit, outlet: Outlet) -> Answer:
        await asyncio.Event().wait()
        return Answer({})

    session.world.pool.behind = held
    asking = asyncio.create_task(session.answer("tools/call", {"name": "one__echo"}, id="x"))
    await until(lambda: session.world.pool.permits)
    cancel = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "x"}}
    await session.methods.notification(session.session, cancel)
    assert await asyncio.wait_for(asking, 5) is None
    assert session.world.recorder.lines[-1][2] == "cancelled"


async def test_a_request_whose_task_is_cancelled_by_somebody_else_does_not_swallow_that(session: Session) -> None:
    async def held(permit: CallPermit, outlet: Outlet) -> Answer:
        await asyncio.Event().wait()
        return Answer({})

    session.world.pool.behind = held
    asking = asyncio.create_task(session.answer("tools/call", {"name": "one__echo"}))
    await until(lambda: session.world.pool.permits)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking


async def test_what_breaks_inside_is_an_internal_error_without_words(session: Session) -> None:
    session.world.fails(RuntimeError("hunter2"))
    found = await session.answer("tools/call", {"name": "one__echo"})
    assert found is not None
    assert orjson.loads(found[1])["error"] == {"code": -32603, "message": "Internal error"}


async def test_a_question_goes_out_under_an_id_of_this_session(session: Session) -> None:
    naming = session.methods.naming(session.session)
    question = Message(MessageKind.REQUEST, "elicitation/create", Answer({}), 5, "one@1")
    assert session.requests.open(session.session.id, naming(question)) == Address("one@1", 5)
    with pytest.raises(ClientGone):
        naming(Message(MessageKind.REQUEST, "elicitation/create", Answer({})))


@pytest.mark.parametrize("odd", [None, 5, "forged"])
async def test_an_answer_to_a_question_that_nobody_asked_is_dropped(session: Session, odd: Any) -> None:
    await session.methods.response(session.session, {"jsonrpc": "2.0", "id": odd, "result": {}})


async def test_a_closed_session_is_gone_from_the_store(session: Session) -> None:
    await session.methods.close(session.session)
    assert session.world.store.sessions == {}
