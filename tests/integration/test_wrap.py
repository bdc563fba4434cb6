"""`mcp-gateway wrap` and legacy clients: real stdio servers behind the real endpoint, asked over sockets."""

import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.cli.stdio import child as child_module
from gateway.cli.stdio import session as session_module
from tests.support.stdio_raw import EXACT
from tests.support.wrapping import ASKABLE, RAW, Wrapped, gone, last_message, tool, wrapping


@pytest.fixture(scope="module")
async def wrapped() -> AsyncIterator[Wrapped]:
    """One wrapper of the raw server for all tests that need no other: sessions do not see each other."""
    async with wrapping(limit=64) as wrapper:
        yield wrapper


# What is forwarded


async def test_results_are_forwarded_as_the_server_wrote_them(wrapped: Wrapped) -> None:
    client = await wrapped.session()
    response = await client.post({**tool("exact"), "id": "my-id"})
    assert b'{"jsonrpc":"2.0","extra":true,"id":"my-id","result":' + EXACT.encode() + b"}" in response.content


async def test_requests_are_forwarded_as_the_client_wrote_them_on_one_line(wrapped: Wrapped) -> None:
    written = """{"jsonrpc": "2.0",
        "id": "mine", "future": [1.10, null],
        "method": "tools/call", "params": {"name": "note", "_meta": {"progressToken": "mine", "x": 1e2},
            "arguments": {"text": "a\\u0000b", "big": 123456789012345678901234567890}}}"""
    client = await wrapped.session()
    assert last_message(await client.post(written.encode()))["id"] == "mine"
    heard = json.loads(await client.call("what_was_heard"))[-2]
    assert json.loads(heard) == {
        **json.loads(written),
        "id": (number := json.loads(heard)["id"]),
        "params": {**json.loads(written)["params"], "_meta": {"progressToken": number, "x": 1e2}},
    }
    assert isinstance(number, int)
    assert all(part in heard for part in ("1.10", "1e2", "123456789012345678901234567890", "\\u0000"))


async def test_progress_arrives_on_the_stream_of_its_call_under_the_clients_token(wrapped: Wrapped) -> None:
    client = await wrapped.session()
    async with client.open("hang", 41) as first, client.open("hang", 42) as second:
        assert (await first.message())["params"] == {"progressToken": "token-41", "progress": 1}
        assert (await second.message())["params"] == {"progressToken": "token-42", "progress": 1}


async def test_what_is_no_message_on_stdout_is_left_out(capfd: pytest.CaptureFixture[str]) -> None:
    async with wrapping() as wrapped:
        client = await wrapped.session()
        assert await client.call("babble") == "after babble"
    stderr = capfd.readouterr().err
    assert f"[{Path(sys.executable).name} 1] a word on stderr\n" in stderr
    assert "output ignored" in stderr
    assert "not JSON" in stderr


# Who gets what


async def test_every_session_has_a_server_and_so_a_state_of_its_own(wrapped: Wrapped) -> None:
    one, two = await wrapped.session(), await wrapped.session()
    assert await one.call("pid") != await two.call("pid")
    await one.call("note", text="of one")
    assert json.loads(await two.call("note", text="of two")) == ["of two"]
    assert json.loads(await one.call("note", text="again")) == ["of one", "again"]


async def test_a_question_reaches_the_call_it_is_asked_for_and_its_answer_the_server(wrapped: Wrapped) -> None:
    client = await wrapped.session(ASKABLE)
    async with client.open("ask", message="Which?") as events:
        question = await events.message()
        assert question["method"] == "elicitation/create"
        assert question["params"]["message"] == "Which?"
        await client.answer(question, {"this": "one"})
        result = await events.message()
        assert '"this": "one"' in result["result"]["content"][0]["text"]


async def test_a_client_that_answers_questions_has_one_interactive_call_at_a_time(wrapped: Wrapped) -> None:
    client = await wrapped.session(ASKABLE)
    async with client.open("ask", 1, message="first") as first, client.open("ask", 2, message="second") as second:
        question = await first.message()
        assert question["params"]["message"] == "first"
        # Lists do not wait: no server asks anything for them.
        assert last_message(await client.post({"id": 3, "method": "tools/list"}))["result"] == {"tools": []}
        await client.answer(question, {})
        assert (await first.message())["id"] == 1
        question = await second.message()
        assert question["params"]["message"] == "second"
        await client.answer(question, {})
        assert (await second.message())["id"] == 2
    heard = [json.loads(line) for line in json.loads(await client.call("what_was_heard"))]
    order = [message.get("params", {}).get("arguments", {}).get("message", message.get("id")) for message in heard]
    answered = order.index("question-2")  # the number of the first call, behind initialize
    assert order.index("first") < answered < order.index("second")


async def test_a_client_that_answers_no_questions_has_calls_side_by_side_and_gets_none(wrapped: Wrapped) -> None:
    client = await wrapped.session()
    async with client.open("hang", 7) as hanging:
        await hanging.message()
        refusal = json.loads(await client.call("ask", message="Anyone?"))
        assert refusal == {"code": -32601, "message": "the client does not support elicitation"}


async def test_log_lines_go_with_the_one_call_they_can_be_of(wrapped: Wrapped) -> None:
    client = await wrapped.session()
    async with client.open("log", text="mine") as events:
        assert (await events.message())["params"]["data"] == "mine"
        assert (await events.message())["id"] == 1


async def test_what_belongs_to_no_call_waits_for_the_client_to_listen(wrapped: Wrapped) -> None:
    client = await wrapped.session()
    async with client.open("hang", 7) as hanging:
        await hanging.message()
        assert await client.call("change", 8) == "changed"  # two calls are open: it can be of neither
        async with client.listen() as events:
            assert (await events.message())["method"] == "notifications/tools/list_changed"
            await client.call("change", 9)
            assert (await events.message())["method"] == "notifications/tools/list_changed"


# Cancellation, and clients that go away


async def test_a_cancellation_names_the_servers_id_and_ends_the_clients_stream(
    wrapped: Wrapped, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "CANCEL_PATIENCE", 600)  # the server answers the ping, so it is not needed
    client = await wrapped.session(ASKABLE)
    async with client.open("hang", 7) as hanging:
        await hanging.message()
        await client.cancel(7)
        error = (await hanging.message())["error"]
        assert error["code"] == -32800
    # The turn is free again, and what the server still says to the cancelled call reaches nobody.
    [number] = json.loads(await client.call("what_was_cancelled", 8))
    assert isinstance(number, int)
    assert await client.call("answer_of", 9, call=number) == "sent"
    assert await client.call("progress_of", 10, call=number) == "sent"


async def test_a_call_cancelled_before_its_turn_is_never_sent(wrapped: Wrapped) -> None:
    client = await wrapped.session(ASKABLE)
    async with client.open("hang", 1) as hanging:
        await hanging.message()
        async with client.open("note", 2, text="unwanted") as waiting:
            await client.cancel(2)
            assert (await waiting.message())["error"]["code"] == -32800
        await client.cancel(1)
    assert json.loads(await client.call("note", 3, text="wanted")) == ["wanted"]


async def test_a_client_that_lost_its_connection_comes_back_for_question_and_result(wrapped: Wrapped) -> None:
    client = await wrapped.session(ASKABLE)
    async with client.open("ask", message="Still there?") as events:
        start = await anext(events)
        assert start.message is None
        await events.message()
    async with client.listen(start.id) as events:
        question = await events.message()
        assert question["params"]["message"] == "Still there?"
        asked = question
    await client.answer(asked, {"yes": True})
    async with client.listen(start.id) as events:
        assert [event.message and event.message["id"] async for event in events] == [asked["id"], 1]


async def test_a_client_of_an_older_revision_gets_no_event_without_a_message(wrapped: Wrapped) -> None:
    client = await wrapped.session(ASKABLE, version="2025-06-18")
    async with client.open("ask", message="?") as events:
        first = await anext(events)
        assert first.message is not None
        await client.answer(first.message, {})
        assert (await events.message())["id"] == 1


async def test_an_answer_to_no_question_is_refused(wrapped: Wrapped) -> None:
    client = await wrapped.session(ASKABLE)
    response = await client.post({"id": "q1", "result": {}})
    assert response.status_code == 400


async def test_a_session_has_as_many_calls_as_are_allowed(wrapped: Wrapped, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "MAX_CALLS", 2)
    client = await wrapped.session(ASKABLE)
    async with client.open("hang", 1) as hanging, client.open("hang", 2):
        await hanging.message()
        refused = await client.post(tool("pid", 3))
        assert (refused.status_code, refused.json()["id"]) == (503, 3)
        await client.cancel(2)
        assert (await client.post({"id": 4, "method": "tools/list"})).status_code == 200


# Servers that end


async def test_a_crash_fails_the_calls_in_flight_and_the_session_and_nothing_else(wrapped: Wrapped) -> None:
    client, other = await wrapped.session(), await wrapped.session()
    async with client.open("hang", 1) as hanging, client.listen() as standalone:
        await hanging.message()
        error = (await client.call("crash", 2))["error"]
        assert error == {"code": -32603, "message": "the stdio server is gone: it exited with status 3"}
        assert (await hanging.message())["error"] == error
        assert [event async for event in standalone if event.message] == []
    assert (await client.post(tool("pid"))).status_code == 404
    assert await other.call("pid") != await (await wrapped.session()).call("pid")


async def test_a_line_beyond_the_limit_ends_the_server(wrapped: Wrapped) -> None:
    client = await wrapped.session()
    error = (await client.call("long_line", length=child_module.MAX_LINE + 1))["error"]
    assert error["message"] == "the stdio server is gone: it wrote a line of more than 16777216 bytes"


async def test_a_refused_initialize_is_passed_on_and_leaves_no_server() -> None:
    async with wrapping(*RAW, "--refuse", limit=1) as wrapped:
        client = await wrapped.client()
        for _ in range(2):
            message = {"id": 1, "method": "initialize", "params": {"protocolVersion": "2025-11-25"}}
            response = await client.post(message)
            assert response.json()["error"] == {"code": -32602, "message": "not today"}
            assert "mcp-session-id" not in response.headers


async def test_a_server_that_ends_at_once_is_an_error_to_the_client() -> None:
    async with wrapping("false") as wrapped:
        client = await wrapped.client()
        message = {"id": 1, "method": "initialize", "params": {"protocolVersion": "2025-11-25"}}
        error = (await client.post(message)).json()["error"]
        assert error["message"] == "the stdio server is gone: it exited with status 1"


async def test_deleting_a_session_ends_its_server_and_all_that_it_started(wrapped: Wrapped) -> None:
    client = await wrapped.session()
    pid, other = int(await client.call("pid")), int(await client.call("start_another"))
    async with client.open("hang", 3) as hanging:
        await hanging.message()
        assert await client.delete() == 204
        assert "error" in await hanging.message()
    await gone(pid)
    await gone(other)
    assert await client.delete() == 404


async def test_a_server_that_ignores_the_end_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_module, "GRACE", 0.1)
    async with wrapping() as wrapped:
        client = await wrapped.session()
        pid = int(await client.call("pid"))
        await client.call("ignore_the_end")
        assert await client.delete() == 204
        await gone(pid)


async def test_an_idle_server_is_ended_but_not_while_a_client_listens() -> None:
    async with wrapping(idle=1.5) as wrapped:
        listener = await wrapped.session()
        async with listener.listen():
            idle = await wrapped.session()
            await gone(int(await idle.call("pid")))
            assert (await idle.post(tool("pid"))).status_code == 404
            assert int(await listener.call("pid"))


async def test_as_many_servers_run_as_are_allowed_and_room_is_made_by_deleting() -> None:
    async with wrapping(limit=1) as wrapped:
        client, second = await wrapped.session(), await wrapped.client()
        message = {"id": "x", "method": "initialize", "params": {"protocolVersion": "2025-11-25", "capabilities": {}}}
        refused = await second.post(message)
        assert refused.status_code == 503
        assert refused.json()["id"] == "x"
        assert "1 stdio servers are running" in refused.json()["error"]["message"]
        await client.delete()
        await second.initialize()


# The door


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (421, {"host": "evil.example"}),
        (403, {"origin": "https://evil.example"}),
        (403, {"origin": "null"}),
        (415, {"content-type": "text/plain"}),
        (406, {"accept": "application/json"}),
        (400, {}),
        (404, {"mcp-session-id": "unknown"}),
    ],
)
async def test_a_request_that_may_not_enter_is_refused(status: int, headers: dict[str, str], wrapped: Wrapped) -> None:
    client = await wrapped.client()
    response = await client.post({"id": 1, "method": "tools/list"}, **headers)
    assert response.status_code == status
    assert response.json()["error"]["message"]


async def test_loopback_names_may_enter(wrapped: Wrapped) -> None:
    client = await wrapped.session()
    for headers in ({"host": "localhost:1"}, {"host": "[::1]:1"}, {"origin": "http://localhost:3000"}):
        response = await client.post({"id": 1, "method": "tools/list"}, **headers)
        assert response.status_code == 200


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"jsonrpc":"2.0","id":1,"id":2,"method":"ping"}', b"\xff", b"null"])
async def test_a_body_that_is_not_one_message_is_refused(body: bytes, wrapped: Wrapped) -> None:
    response = await (await wrapped.client()).post(body)
    assert response.status_code == 400
    assert response.json()["id"] is None
