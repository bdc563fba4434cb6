"""What clients carry for us, requestState and cursors: changed, borrowed, swapped or late, it opens nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway.bridge import lists, request_state
from tests.attack.planes import REQUIRED, Planes, bearer, issue_key, planes
from tests.support.gateway import LegacySession
from tests.support.upstreams import TOOL, Exchange, ScriptedUpstream

INNER = "the-upstreams-own-state"
QUESTION = {
    "q": {"method": "elicitation/create", "params": {"message": "Sure?", "requestedSchema": {"type": "object"}}}
}
ANSWERS = {"q": {"action": "accept", "content": {}}}
ASKABLE: dict[str, Any] = {"elicitation": {"form": {}}}


async def _ask_first(exchange: Exchange) -> None:
    """Asks once, then answers."""
    if "requestState" in exchange.params:
        await exchange.result({"resultType": "complete", "content": [{"type": "text", "text": "done"}]})
    else:
        await exchange.result({"resultType": "input_required", "inputRequests": QUESTION, "requestState": INNER})


def _upstream() -> ScriptedUpstream:
    return ScriptedUpstream(
        tools=[TOOL, {**TOOL, "name": "echo2"}, {**TOOL, "name": "echo3"}],
        prompts=[{"name": "echo"}, {"name": "echo2"}],
        acts={"prompts/get": _ask_first},
    )


@pytest.fixture(scope="module")
async def attacked(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Planes]:
    key = await issue_key(database_url)
    state = tmp_path_factory.mktemp("state")
    gateway = {**REQUIRED, "page_size": 1}
    async with planes(database_url, state, gateway=gateway, key=key, one=_upstream(), two=_upstream()) as found:
        yield found


PROMPT = {"name": "one__echo", "arguments": {"a": "b"}}


async def _state(attacked: Planes) -> str:
    status, answer = await attacked.ask("prompts/get", PROMPT, capabilities=ASKABLE)
    assert (status, answer["result"]["resultType"]) == (200, "input_required")
    state: str = answer["result"]["requestState"]
    assert INNER not in state
    return state


async def _retry(attacked: Planes, state: Any, params: dict[str, Any] | None = None, **options: Any) -> tuple[int, Any]:
    retried = {**(params or PROMPT), "requestState": state, "inputResponses": ANSWERS}
    return await attacked.ask("prompts/get", retried, capabilities=ASKABLE, **options)


def _damaged(token: str) -> list[Any]:
    """One character changed at every position, cut off at both ends, doubled, and what is no token at all."""
    changed = [token[:at] + ("B" if token[at] == "A" else "A") + token[at + 1 :] for at in range(len(token))]
    others = [token[:-1], token[1:], token + "A", token + "=", token + "\n", " " + token, token * 2, token.lower()]
    return [*changed, *others, "AAAA", "\u0130" * 40, "%", 7, [token], {"a": token}]


async def test_a_changed_request_state_continues_nothing(attacked: Planes) -> None:
    """A27."""
    state = await _state(attacked)
    since = attacked.since_now()
    for damaged in [*_damaged(state), ""]:
        status, answer = await _retry(attacked, damaged)
        assert (status, answer["error"]["code"]) == (400, -32602), damaged
        assert "result" not in answer
    assert since.nothing_happened()
    status, answer = await _retry(attacked, state)
    assert answer["result"]["resultType"] == "complete"
    (reached,) = since.dispatched
    assert reached.json["params"]["requestState"] == INNER


async def test_a_request_state_serves_its_own_request_alone(database_url: str, attacked: Planes) -> None:
    """A27: not another principal, name, argument, endpoint, server or method."""
    state = await _state(attacked)
    since = attacked.since_now()
    other = await issue_key(database_url)
    own = attacked.running.server("one")
    refused = [
        await _retry(attacked, state, headers=bearer(other)),
        await _retry(attacked, state, {**PROMPT, "name": "one__echo2"}),
        await _retry(attacked, state, {**PROMPT, "name": "two__echo"}),
        await _retry(attacked, state, {**PROMPT, "arguments": {"a": "c"}}),
        await _retry(attacked, state, {**PROMPT, "arguments": {"a": "b", "c": "d"}}),
        await _retry(attacked, state, {"name": "one__echo"}),
        await _retry(attacked, state, {**PROMPT, "name": "echo"}, endpoint=own),
        await attacked.ask("tools/call", {**PROMPT, "requestState": state}, capabilities=ASKABLE),
        await attacked.ask("tools/list", {"cursor": state}),
    ]
    for status, answer in refused:
        assert (status, answer["error"]["code"]) == (400, -32602)
    assert since.nothing_happened()


async def test_a_request_state_ends(attacked: Planes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A27: in good order, but too late."""
    monkeypatch.setattr(request_state, "LIFETIME_SECONDS", -1)
    state = await _state(attacked)
    since = attacked.since_now()
    status, answer = await _retry(attacked, state)
    assert (status, answer["error"]["code"]) == (400, -32602)
    assert since.nothing_happened()


async def _cursor(attacked: Planes, method: str = "tools/list") -> str:
    status, answer = await attacked.ask(method)
    assert status == 200
    cursor: str = answer["result"]["nextCursor"]
    return cursor


async def test_a_changed_cursor_shows_nothing(attacked: Planes) -> None:
    """A27: to clients of either era."""
    cursor = await _cursor(attacked)
    session = await LegacySession(attacked.http, attacked.running.mcp).open(None, **bearer(attacked.key))
    for damaged in _damaged(cursor):
        status, answer = await attacked.ask("tools/list", {"cursor": damaged})
        assert (status, answer["error"]["code"]) == (400, -32602), damaged
        body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"cursor": damaged}}
        headers = {**session.headers, **bearer(attacked.key)}
        async with attacked.http.post(attacked.running.mcp, json=body, headers=headers) as response:
            assert (await response.json())["error"]["code"] == -32602, damaged
    _, answer = await attacked.ask("tools/list", {"cursor": cursor})
    assert [tool["name"] for tool in answer["result"]["tools"]] == ["one__echo2"]


async def test_a_cursor_serves_its_own_list_alone(
    database_url: str, attacked: Planes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A27: not another principal, list or endpoint, and not for ever."""
    cursor = await _cursor(attacked)
    other = await issue_key(database_url, "one__echo", "one__echo3")
    monkeypatch.setattr(lists, "CURSOR_SECONDS", -1)
    expired = await _cursor(attacked)
    refused = [
        await attacked.ask("tools/list", {"cursor": cursor}, headers=bearer(other)),
        await attacked.ask("prompts/list", {"cursor": cursor}),
        await attacked.ask("tools/list", {"cursor": cursor}, endpoint=attacked.running.server("one")),
        await attacked.ask("tools/list", {"cursor": expired}),
        await attacked.ask("prompts/get", {**PROMPT, "requestState": cursor}, capabilities=ASKABLE),
    ]
    for status, answer in refused:
        assert (status, answer["error"]["code"]) == (400, -32602)


async def test_a_cursor_never_leads_past_grants(database_url: str, attacked: Planes) -> None:
    """A27, A50: whoever may see two tools of six sees two, page by page."""
    key = await issue_key(database_url, "one__echo3", "two__echo")
    seen: list[str] = []
    params: dict[str, Any] = {}
    while True:
        _, answer = await attacked.ask("tools/list", params, headers=bearer(key))
        seen += [tool["name"] for tool in answer["result"]["tools"]]
        if "nextCursor" not in answer["result"]:
            break
        params = {"cursor": answer["result"]["nextCursor"]}
    assert seen == ["one__echo3", "two__echo"]


async def test_an_answer_to_a_question_of_another_session_goes_nowhere(database_url: str, attacked: Planes) -> None:
    """A26, A27: ids of server requests are sealed to the session on which they were asked; others are dropped."""
    since = attacked.since_now()
    session = await LegacySession(attacked.http, attacked.running.mcp).open(ASKABLE, **bearer(attacked.key))
    headers = {**session.headers, **bearer(attacked.key)}
    for request_id in (1, "1", "AAAA", await _cursor(attacked), await _state(attacked)):
        body = {"jsonrpc": "2.0", "id": request_id, "result": {"action": "accept"}}
        async with attacked.http.post(attacked.running.mcp, json=body, headers=headers) as response:
            assert response.status == 202
    assert [seen.json["method"] for seen in since.dispatched] == ["prompts/get"]
    await attacked.assert_alive()
