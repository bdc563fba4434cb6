"""The whole application, put together and asked over ASGI; its database is nowhere, and nothing here may need it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from gateway.app import Gateway
from gateway.settings import parse
from tests.support.asgi import FakeHttp
from tests.support.calls import FakeClock
from tests.support.gateway import BOTH, modern_headers, modern_message
from tests.support.worlds import RING

NOWHERE = "postgresql://gateway@127.0.0.1:9/nowhere"
HOST = {"host": "127.0.0.1:8642"}
PING = b'{"jsonrpc":"2.0","id":1,"method":"ping"}'
SERVERS = [{"slug": "one", "versions": [{"url": "http://127.0.0.1:9/mcp"}]}]


class Made:
    """A gateway that was made and not started."""

    def __init__(self, folder: Path, servers: list[dict[str, Any]] = SERVERS, **section: Any) -> None:
        gateway: dict[str, Any] = {"authentication": {"mode": "anonymous"}, **section}
        settings = parse({"gateway": gateway, "servers": servers})
        self.gateway = Gateway(
            settings,
            database_url=NOWHERE,
            keys=RING,
            host="127.0.0.1",
            port=8642,
            state_dir=folder,
            clock=FakeClock(0.0),
        )

    async def ask(
        self, method: str = "GET", path: str = "/mcp", body: bytes = b"", headers: Any = HOST
    ) -> tuple[int | None, Any]:
        """Status and decoded body."""
        fake = FakeHttp(method, path, headers, [body])
        await self.gateway(fake.scope, fake.receive, fake.send)
        return fake.status, orjson.loads(fake.body) if fake.body else None

    def close(self) -> None:
        self.gateway._journal.close()


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Made]:
    gateway = Made(tmp_path)
    yield gateway
    gateway.close()


async def test_it_lives_whatever_it_was_asked_under(made: Made) -> None:
    assert await made.ask(path="/livez", headers={"host": "evil.example"}) == (200, {"status": "ok"})


async def test_it_is_not_ready_before_it_has_heard_from_its_database(made: Made) -> None:
    assert await made.ask(path="/readyz") == (503, {"status": "database unavailable"})


async def test_it_is_not_ready_once_it_drains(made: Made) -> None:
    made.gateway.drain()
    assert await made.ask(path="/readyz") == (503, {"status": "draining"})
    assert (await made.ask(path="/livez"))[0] == 200


REFUSED: list[tuple[dict[str, Any], int]] = [
    # What is wrong first decides, in this order: form, host, origin, path, credential, endpoint, method, media type.
    ({"headers": [("host", "127.0.0.1:8642"), ("host", "evil.example")]}, 400),
    ({"headers": {"host": "evil.example", "origin": "http://evil.example"}}, 421),
    ({"headers": {}}, 421),
    ({"headers": {**HOST, "origin": "http://evil.example"}, "path": "/nowhere"}, 403),
    ({"path": "/nowhere"}, 404),
    ({"path": "/"}, 404),
    ({"path": "/mcp/"}, 404),
    ({"path": "/servers/ONE/mcp"}, 404),
    ({"path": "/servers/one/mcp/"}, 404),
    ({"path": "/servers/../mcp"}, 404),
    ({"headers": {**HOST, "authorization": "Basic x"}, "path": "/servers/nobody/mcp"}, 401),
    ({"path": "/servers/nobody/mcp", "method": "PUT"}, 404),
    ({"path": "/servers/one@9/mcp", "method": "POST"}, 404),
    ({"method": "PUT"}, 405),
    ({"method": "OPTIONS"}, 405),
    ({"path": "/sse", "method": "DELETE"}, 405),
    ({"method": "GET", "headers": {**HOST, "mcp-protocol-version": "2026-07-28"}}, 405),
    ({"method": "DELETE", "headers": {**HOST, "mcp-protocol-version": "2026-07-28"}}, 405),
    ({"method": "POST", "body": PING}, 406),
    ({"method": "POST", "body": PING, "headers": {**HOST, "accept": BOTH}}, 415),
    ({"method": "GET"}, 406),
    ({"path": "/sse"}, 406),
]


@pytest.mark.parametrize(("asked", "status"), REFUSED, ids=lambda each: str(each)[:70])
async def test_what_is_wrong_is_answered_before_anything_behind_it_is_looked_at(
    made: Made, asked: dict[str, Any], status: int
) -> None:
    found, body = await made.ask(**asked)
    assert found == status
    assert body["jsonrpc"] == "2.0"
    assert "error" in body


async def test_without_a_credential_every_well_formed_slug_is_alike(tmp_path: Path) -> None:
    made = Made(tmp_path, authentication={"mode": "required"})
    try:
        answers = [await made.ask(path=path) for path in ("/mcp", "/servers/one/mcp", "/servers/nobody/mcp", "/sse")]
    finally:
        made.close()
    assert answers == [answers[0]] * 4
    assert answers[0][0] == 401


JSON = {**HOST, "accept": BOTH, "content-type": "application/json"}
WRONG = [
    (PING, {}, 400, "Mcp-Session-Id"),
    (b"[" + PING + b"]", {}, 400, "batch"),
    (b"[" + PING + b"]", {"mcp-protocol-version": "2026-07-28", "mcp-session-id": "x"}, 400, "batch"),
    (b"[]", {"mcp-session-id": "x"}, 400, "batch"),
    (PING, {"mcp-session-id": "x", "mcp-protocol-version": "1999-01-01"}, 400, "MCP-Protocol-Version"),
    (PING, {"mcp-session-id": "no-such-form"}, 404, "Session not found"),
    (b"{", {}, 400, "not JSON"),
    (b'{"jsonrpc":"2.0"}', {"mcp-session-id": "x"}, 400, "needs a method"),
]


@pytest.mark.parametrize(("body", "headers", "status", "words"), WRONG)
async def test_a_post_that_cannot_be_answered_says_why(
    made: Made, body: bytes, headers: dict[str, str], status: int, words: str
) -> None:
    found, answer = await made.ask("POST", body=body, headers={**JSON, **headers})
    assert found == status
    assert words in answer["error"]["message"]


async def test_a_session_that_cannot_be_looked_up_is_not_said_to_be_gone(made: Made) -> None:
    status, answer = await made.ask("POST", body=PING, headers={**JSON, "mcp-session-id": "A" * 43})
    assert status == 503
    assert "nowhere" not in json.dumps(answer)


async def test_a_stateless_client_needs_no_database(tmp_path: Path) -> None:
    message = modern_message("tools/list")
    made = Made(tmp_path, [])
    try:
        headers = {**modern_headers(message), **HOST}
        status, answer = await made.ask("POST", body=json.dumps(message).encode(), headers=headers)
    finally:
        made.close()
    assert (status, answer["result"]["tools"]) == (200, [])


async def test_what_is_no_request_is_not_answered(made: Made) -> None:
    fake = FakeHttp()
    await made.gateway({**fake.scope, "type": "websocket"}, fake.receive, fake.send)
    assert fake.sent == []


def test_making_it_writes_nothing_but_its_own_journal(made: Made, tmp_path: Path) -> None:
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [(path.parent.name, path.suffix, path.stat().st_size) for path in written] == [("records", ".jsonl", 0)]
