"""A name that grants hide and a name that does not exist: the same bytes and status on every door."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest

from tests.attack.planes import REQUIRED, Planes, bearer, issue_key, planes
from tests.support.gateway import BOTH, LegacySession, modern_headers, modern_message
from tests.support.upstreams import TOOL, ScriptedUpstream

# Of equal length, so that nothing that counts bytes differs either.
HIDDEN, ABSENT = "vault", "ghost"
_SCHEMA = {"type": "object", "properties": {"region": {"type": "string", "x-mcp-header": "Region"}}}


def _upstream(*, subscribe: bool) -> ScriptedUpstream:
    return ScriptedUpstream(
        tools=[TOOL, {"name": HIDDEN, "description": "Opens it.", "inputSchema": _SCHEMA}],
        prompts=[{"name": "open", "description": "For all."}, {"name": HIDDEN, "description": "For few."}],
        resources=[{"uri": "note:open", "name": "open"}, {"uri": f"note:{HIDDEN}", "name": HIDDEN}],
        templates=[{"uriTemplate": f"note:{HIDDEN}/{{id}}", "name": HIDDEN}],
        capabilities={"completions": {}, "resources": {"subscribe": subscribe}},
    )


@pytest.fixture(scope="module")
async def attacked(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Planes]:
    key = await issue_key(database_url, "*__echo", "*__open", "*__note:open")
    state = tmp_path_factory.mktemp("state")
    one, two = _upstream(subscribe=True), _upstream(subscribe=False)
    async with planes(database_url, state, gateway=REQUIRED, key=key, one=one, two=two) as found:
        yield found


def _asks(prefix: str, uri: str, name: str) -> dict[str, tuple[str, dict[str, Any]]]:
    """Every way to ask for something by a name, well-formed and not."""
    call = {"name": f"{prefix}{name}", "arguments": {}}
    prompt = {"name": f"{prefix}{name}"}
    argument = {"argument": {"name": "a", "value": "b"}}
    token = {"_meta": {"progressToken": 1.5}}
    return {
        "call": ("tools/call", call),
        "call_with_arguments": ("tools/call", {**call, "arguments": {"region": "eu", "x": [1, {}]}}),
        "call_with_arguments_that_are_none": ("tools/call", {**call, "arguments": [1]}),
        "call_with_a_state_of_nobody": ("tools/call", {**call, "requestState": "AAAA"}),
        "call_with_a_state_that_is_none": ("tools/call", {**call, "requestState": 7}),
        "call_with_responses_that_are_none": ("tools/call", {**call, "inputResponses": 7}),
        "call_with_responses_alone": ("tools/call", {**call, "inputResponses": {}}),
        "call_with_a_wrong_token": ("tools/call", {**call, **token}),
        "prompt": ("prompts/get", prompt),
        "prompt_with_arguments_that_are_none": ("prompts/get", {**prompt, "arguments": "x"}),
        "prompt_with_a_state_of_nobody": ("prompts/get", {**prompt, "requestState": "AAAA"}),
        "read": ("resources/read", {"uri": f"{uri}note:{name}"}),
        "read_below_a_template": ("resources/read", {"uri": f"{uri}note:{name}/7"}),
        "read_with_a_state_of_nobody": ("resources/read", {"uri": f"{uri}note:{name}", "requestState": "AAAA"}),
        "complete_a_prompt": (
            "completion/complete",
            {"ref": {"type": "ref/prompt", "name": f"{prefix}{name}"}, **argument},
        ),
        "complete_a_template": (
            "completion/complete",
            {"ref": {"type": "ref/resource", "uri": f"{uri}note:{name}/{{id}}"}, **argument},
        ),
        "subscribe": ("resources/subscribe", {"uri": f"{uri}note:{name}"}),
        "unsubscribe": ("resources/unsubscribe", {"uri": f"{uri}note:{name}"}),
    }


ASKS = tuple(_asks("", "", ""))
ENDPOINTS = {"federated": ("/mcp", "{}__", "{}+"), "own": ("/servers/{}/mcp", "", "")}


def _worded(text: bytes, name: str) -> bytes:
    return text.replace(name.encode(), b"NAMED")


@pytest.mark.parametrize("slug", ["one", "two"])
@pytest.mark.parametrize("endpoint", ENDPOINTS)
async def test_hidden_and_absent_are_the_same_bytes_to_a_modern_client(
    attacked: Planes, endpoint: str, slug: str
) -> None:
    """A49."""
    path, prefix, uri = (part.format(slug) for part in ENDPOINTS[endpoint])
    for ask in ASKS:
        since = attacked.since_now()
        answers = []
        for name in (HIDDEN, ABSENT):
            method, params = _asks(prefix, uri, name)[ask]
            meta = params.get("_meta", {})
            message = modern_message(method, {k: v for k, v in params.items() if k != "_meta"}, meta=meta)
            sent = {**modern_headers(message), **bearer(attacked.key)}
            async with attacked.http.post(attacked.running.origin + path, json=message, headers=sent) as response:
                lines = {k: v for k, v in response.headers.items() if k.lower() != "date"}
                answers.append((response.status, lines, _worded(await response.read(), name)))
        assert answers[0] == answers[1], ask
        assert answers[0][0] in (400, 404), ask
        assert not since.dispatched, ask


@pytest.mark.parametrize("revision", ["2025-03-26", "2025-11-25"])
@pytest.mark.parametrize("slug", ["one", "two"])
@pytest.mark.parametrize("endpoint", ENDPOINTS)
async def test_hidden_and_absent_are_the_same_bytes_on_a_session(
    attacked: Planes, endpoint: str, slug: str, revision: str
) -> None:
    """A49: also inside a batch, where there are batches."""
    path, prefix, uri = (part.format(slug) for part in ENDPOINTS[endpoint])
    url = attacked.running.origin + path
    session = await LegacySession(attacked.http, url, revision).open(None, **bearer(attacked.key))
    headers = {**session.headers, **bearer(attacked.key)}
    for ask in ASKS:
        since = attacked.since_now()
        for batch in (False, True) if revision == "2025-03-26" else (False,):
            answers = []
            for name in (HIDDEN, ABSENT):
                method, params = _asks(prefix, uri, name)[ask]
                message = {"jsonrpc": "2.0", "id": 5, "method": method, "params": params}
                body = orjson.dumps([message] if batch else message)
                async with attacked.http.post(url, data=body, headers=headers) as response:
                    answers.append((response.status, _worded(await response.read(), name)))
            assert answers[0] == answers[1], ask
            assert b'"error"' in answers[0][1], ask
        assert not since.dispatched, ask


@pytest.mark.parametrize("slug", ["one", "two"])
async def test_hidden_and_absent_are_the_same_bytes_on_a_channel(attacked: Planes, slug: str) -> None:
    """A49: the oldest door, CVE-2026-14537."""
    url = f"{attacked.running.origin}/sse"
    sent = {"content-type": "application/json", "accept": BOTH, **bearer(attacked.key)}
    hello = {"protocolVersion": "2024-11-05", "capabilities": {}, "clientInfo": {"name": "a", "version": "1"}}
    async with asyncio.timeout(20), attacked.http.get(url, headers=sent) as channel:
        address = attacked.running.origin + (await _event(channel.content)).decode()

        async def ask(method: str, params: dict[str, Any]) -> bytes:
            message = {"jsonrpc": "2.0", "id": 5, "method": method, "params": params}
            async with attacked.http.post(address, json=message, headers=sent) as response:
                assert response.status == 202
            return await _event(channel.content)

        await ask("initialize", hello)
        since = attacked.since_now()
        for each in ASKS:
            hidden, absent = [
                _worded(await ask(*_asks(f"{slug}__", f"{slug}+", name)[each]), name) for name in (HIDDEN, ABSENT)
            ]
            assert hidden == absent, each
            assert b'"error"' in hidden, each
        assert not since.dispatched


async def test_a_server_of_which_nothing_is_granted_is_no_server(database_url: str, attacked: Planes) -> None:
    """A49: on the federated endpoint its prefix says no more than one that nobody has."""
    key = await issue_key(database_url, "one__*")
    session = await LegacySession(attacked.http, attacked.running.mcp).open(None, **bearer(key))
    since = attacked.since_now()
    for ask in ASKS:
        answers = []
        for slug in ("two", "six"):
            method, params = _asks(f"{slug}__", f"{slug}+", "vault")[ask]
            message = {"jsonrpc": "2.0", "id": 5, "method": method, "params": params}
            headers = {**session.headers, **bearer(key)}
            async with attacked.http.post(attacked.running.mcp, json=message, headers=headers) as response:
                answers.append((response.status, _worded(await response.read(), slug)))
        assert answers[0] == answers[1], ask
        assert b'"error"' in answers[0][1], ask
    assert not since.dispatched


async def test_lists_and_listens_know_nothing_of_what_is_hidden(attacked: Planes) -> None:
    """A49: what is listed, introduced, honoured or counted says nothing either."""
    texts = []
    for method in ("tools/list", "prompts/list", "resources/list", "resources/templates/list", "server/discover"):
        for path in ("/mcp", "/servers/one/mcp"):
            status, answer = await attacked.ask(method, endpoint=attacked.running.origin + path)
            assert status == 200
            texts.append(orjson.dumps(answer))
    assert HIDDEN.encode() not in b"".join(texts)
    wanted = {"notifications": {"resourceSubscriptions": [f"one+note:{name}" for name in (HIDDEN, ABSENT, "open")]}}
    message = modern_message("subscriptions/listen", wanted)
    sent = {**modern_headers(message), **bearer(attacked.key)}
    async with attacked.http.post(attacked.running.mcp, json=message, headers=sent) as response:
        acknowledged = orjson.loads(await _event(response.content))
    assert acknowledged["params"]["notifications"] == {"resourceSubscriptions": ["one+note:open"]}


async def test_hidden_and_absent_take_equally_long(attacked: Planes) -> None:
    """A49: the difference is far below what a network would let anybody see."""
    took: dict[str, list[float]] = {HIDDEN: [], ABSENT: []}
    for _ in range(40):
        for name, times in took.items():
            begun = time.perf_counter()
            await attacked.call(f"one__{name}")
            times.append(time.perf_counter() - begun)
    assert abs(statistics.median(took[HIDDEN]) - statistics.median(took[ABSENT])) < 0.005


async def _event(stream: Any) -> bytes:
    """The data of the next event."""
    while not (line := await stream.readline()).startswith(b"data: "):
        assert line, "the stream ended"
    return bytes(line.removeprefix(b"data: ").strip())
