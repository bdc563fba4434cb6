"""POSTs of the stateless era: what is asked of each request, and what each gets."""

from __future__ import annotations

from typing import Any

import pytest

from catalogue.model import Definition
from gateway import jsonrpc
from gateway.bridge.announcements import Announcements
from gateway.calls import Principal
from gateway.edge.decoding import Refused
from gateway.edge.listening import Listening
from gateway.edge.modern import Modern, is_modern
from tests.support.asgi import FakeHttp
from tests.support.calls import ALICE, MODERN, NOBODY, ONE, definition, tool
from tests.support.gateway import modern_headers, modern_message
from tests.support.worlds import World

VERSION = "mcp-protocol-version"
META = "io.modelcontextprotocol/protocolVersion"
REGION = {"type": "object", "properties": {"region": {"type": "string", "x-mcp-header": "Region"}}}
OFFERED = definition(tool("echo"), {"name": "regional", "inputSchema": REGION}, prompts=[{"name": "ask"}])


def envelope(version: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 1, "method": "ping", "params": {"_meta": {META: version}}}


BARE: dict[str, Any] = {"jsonrpc": "2.0", "id": 1, "method": "ping"}


@pytest.mark.parametrize(
    ("header", "message", "modern"),
    [
        (MODERN, BARE, True),
        (MODERN, envelope(MODERN), True),
        (MODERN, envelope("2025-11-25"), True),
        (None, envelope(MODERN), True),
        (None, envelope("2099-01-01"), True),
        ("2099-01-01", envelope(MODERN), True),
        ("2025-11-25", envelope(MODERN), True),
        ("2025-11-25", envelope("2025-11-25"), False),
        ("2025-11-25", BARE, False),
        (None, BARE, False),
        (None, {**BARE, "params": {"_meta": 5}}, False),
        (None, {**BARE, "params": {"_meta": {}}}, False),
        (None, [BARE], False),
        ("2099-01-01", BARE, False),
    ],
)
def test_header_or_envelope_says_of_which_era_a_request_is(header: str | None, message: Any, modern: bool) -> None:
    assert is_modern({} if header is None else {VERSION: header}, message) == modern


class Asked:
    """A world behind the modern edge."""

    def __init__(self, offered: Definition = OFFERED, principal: Principal = ALICE) -> None:
        self.world = World((ONE, offered))
        self.principal = principal
        listening = Listening(self.world.dispatch, Announcements(self.world.catalogue), keep_alive=3600)
        self.modern = Modern(self.world.dispatch, listening, grace=3600, keep_alive=3600)

    async def send(self, message: dict[str, Any], headers: Any = None) -> FakeHttp:
        fake = FakeHttp(headers=headers if headers is not None else modern_headers(message))
        await self.modern.post(fake.request, self.principal, "", message)
        return fake

    async def ask(self, method: str, **params: Any) -> dict[str, Any]:
        decoded: dict[str, Any] = (await self.send(modern_message(method, params))).json
        return decoded

    async def refusal(self, message: dict[str, Any], headers: Any = None) -> tuple[int, int, object]:
        with pytest.raises(Refused) as refused:
            await self.send(message, headers)
        return refused.value.reply.status, refused.value.reply.code, refused.value.request_id


@pytest.fixture
def asked() -> Asked:
    return Asked()


async def test_a_call_is_answered_with_its_own_id(asked: Asked) -> None:
    asked.world.answers({"content": []})
    for request_id in (0, "x", 2**70):
        found = await asked.send(modern_message("tools/call", {"name": "one__echo"}, id=request_id))
        assert found.status == 200
        assert found.body.startswith(b'{"jsonrpc":"2.0","id":' + jsonrpc.dumps(request_id) + b',"result":{')


@pytest.mark.parametrize(
    ("method", "member", "names"),
    [("tools/list", "tools", ["one__echo", "one__regional"]), ("prompts/list", "prompts", ["one__ask"])],
)
async def test_a_list_says_how_long_and_for_whom_it_may_be_kept(
    asked: Asked, method: str, member: str, names: list[str]
) -> None:
    result = (await asked.ask(method))["result"]
    assert [item["name"] for item in result[member]] == names
    assert (result["resultType"], result["cacheScope"]) == ("complete", "private")
    assert isinstance(result["ttlMs"], int)


async def test_discovery_names_what_we_speak_and_offer(asked: Asked) -> None:
    result = (await asked.ask("server/discover"))["result"]
    assert result["supportedVersions"] == [MODERN]
    assert result["capabilities"]["tools"] == {"listChanged": True}
    assert result["_meta"]["io.modelcontextprotocol/serverInfo"]["name"] == "mcp-gateway"


@pytest.mark.parametrize("method", ["ping", "initialize", "logging/setLevel", "resources/subscribe", "nope"])
async def test_methods_of_other_eras_do_not_exist(asked: Asked, method: str) -> None:
    message = modern_message(method, {"uri": "a:b", "level": "info"}, id=7)
    assert await asked.refusal(message) == (404, -32601, 7)


async def test_wrong_parameters_are_named_before_anything_is_asked(asked: Asked) -> None:
    wrong = {"ref": {"type": "ref/prompt", "name": "one__ask"}, "argument": 5}
    assert (await asked.refusal(modern_message("completion/complete", wrong, id=3))) == (400, -32602, 3)
    assert asked.world.recorder.lines == []


@pytest.mark.parametrize("missing", ["io.modelcontextprotocol/clientCapabilities", META])
async def test_a_request_without_its_envelope_is_refused(asked: Asked, missing: str) -> None:
    message = modern_message("tools/list")
    del message["params"]["_meta"][missing]
    status, code, _ = await asked.refusal(message, modern_headers(message))
    assert status == 400
    assert code in (-32602, -32020)


async def test_capabilities_that_are_no_object_are_refused(asked: Asked) -> None:
    assert (await asked.refusal(modern_message("tools/list", capabilities=[])))[:2] == (400, -32602)


@pytest.mark.parametrize("name", [VERSION, "mcp-method", "mcp-name", "mcp-param-region"])
async def test_a_routing_header_that_appears_twice_is_refused(asked: Asked, name: str) -> None:
    message = modern_message("tools/call", {"name": "one__regional", "arguments": {"region": "x"}}, id=3)
    headers = {**modern_headers(message), "mcp-param-region": "x"}
    lines = [*headers.items(), (name, headers[name])]
    assert await asked.refusal(message, lines) == (400, -32020, 3)


async def test_a_header_that_differs_from_the_argument_it_repeats_is_refused(asked: Asked) -> None:
    message = modern_message("tools/call", {"name": "one__regional", "arguments": {"region": "eu"}})
    right = {**modern_headers(message), "mcp-param-region": "eu"}
    assert (await asked.send(message, right)).status == 200
    assert (await asked.refusal(message, {**right, "mcp-param-region": "us"}))[:2] == (400, -32020)
    assert len(asked.world.pool.permits) == 1


@pytest.mark.parametrize("arguments", [{"region": "eu"}, [], 5])
async def test_the_headers_of_a_hidden_tool_are_as_good_as_those_of_an_absent_one(arguments: Any) -> None:
    message = modern_message("tools/call", {"name": "one__regional", "arguments": arguments})
    hidden = await Asked(OFFERED, NOBODY).send(message)
    absent = await Asked(definition(), NOBODY).send(message)
    assert (hidden.status, hidden.headers, hidden.body) == (absent.status, absent.headers, absent.body)


async def test_a_notification_is_taken_and_a_response_is_not(asked: Asked) -> None:
    headers = {VERSION: MODERN}
    fake = await asked.send({"jsonrpc": "2.0", "method": "notifications/cancelled"}, headers)
    assert (fake.status, fake.body) == (202, b"")
    assert (await asked.refusal({"jsonrpc": "2.0", "id": 1, "result": {}}, headers))[:2] == (400, -32600)
    unknown = {VERSION: "2099-01-01"}
    assert (await asked.refusal({"jsonrpc": "2.0", "method": "notifications/x"}, unknown))[:2] == (400, -32022)


async def test_what_breaks_inside_is_an_internal_error_without_words(asked: Asked) -> None:
    asked.world.fails(RuntimeError("hunter2"))
    fake = await asked.send(modern_message("tools/call", {"name": "one__echo"}))
    assert (fake.status, fake.json["error"]["code"]) == (200, -32603)
    assert b"hunter2" not in fake.body


async def test_the_log_level_of_a_request_is_the_callers(asked: Asked) -> None:
    meta = {"io.modelcontextprotocol/logLevel": "warning"}
    await asked.send(modern_message("tools/call", {"name": "one__echo"}, meta=meta))
    await asked.send(modern_message("tools/call", {"name": "one__echo"}))
    assert [permit.call.caller.log_level for permit in asked.world.pool.permits] == ["warning", None]
