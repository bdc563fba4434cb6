"""Web pages and rebound names: refused by Host and Origin before anybody asks for a credential."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.attack.planes import REQUIRED, Planes, bearer, issue_key, planes
from tests.attack.raw import request, send, tool_call
from tests.support.upstreams import ScriptedUpstream

METHODS = ("GET", "POST", "DELETE", "PUT", "PATCH", "OPTIONS", "HEAD")
PATHS = ("/mcp", "/servers/one/mcp", "/servers/none/mcp", "/servers/one@1/mcp", "/sse", "/", "/nowhere", "/favicon.ico")
HEALTH = ("/livez", "/readyz")


@pytest.fixture(scope="module")
async def attacked(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Planes]:
    key = await issue_key(database_url)
    state = tmp_path_factory.mktemp("state")
    async with planes(database_url, state, gateway=REQUIRED, key=key, one=ScriptedUpstream()) as found:
        yield found


def _hosts(port: int) -> tuple[bytes, ...]:
    own = b"127.0.0.1:%d" % port
    return (
        *(b"evil.example", b"evil.example:%d" % port, b"", b" ", own + b".evil.example", b"evil.example#" + own),
        *(b"a/?x=", own + b"/livez?", b"/livez", b"user@" + own, own + b"@evil.example", own + b", evil.example"),
        *(b"127.0.0.1:1", b"127.0.0.1:", b"127.0.0.1:%d0" % port, b"[::ffff:127.0.0.1]:%d" % port, b"0:%d" % port),
        *(b"127.1:%d" % port, b"2130706433:%d" % port, b"localhost.:%d" % port, b"\xc4\xb1.example"),
    )


def _origins(port: int) -> tuple[str, ...]:
    return (
        *("https://evil.example", "null", "", "file://", "http://127.0.0.1", f"http://127.0.0.1:{port + 1}"),
        *(f"http://127.0.0.1:{port}.evil.example", f"http://127.0.0.1:{port}@evil.example", "*"),
        *(f"http://127.0.0.1:{port}/", f"http://127.0.0.1:{port}, https://evil.example", "chrome-extension://abc"),
    )


@pytest.mark.parametrize("method", METHODS)
async def test_a_foreign_host_is_misdirected_on_every_route(attacked: Planes, method: str) -> None:
    """A23: also with a good key, and alike for routes that exist and those that do not."""
    since = attacked.since_now()
    headers, body = tool_call()
    for path in PATHS:
        for host in _hosts(attacked.port) if path == "/mcp" else (b"evil.example",):
            for key in (None, attacked.key):
                line = f"{method} {path} HTTP/1.1".encode()
                sent = request(attacked.port, line=line, headers={**headers, **bearer(key)}, body=body, host=host)
                answer = await send(attacked.port, sent)
                assert answer.status == 421, (path, host)
                assert method == "HEAD" or answer.error == (421, -32600)
    assert since.nothing_happened()
    await attacked.assert_alive()


@pytest.mark.parametrize("method", METHODS)
async def test_a_foreign_origin_is_forbidden_on_every_route(attacked: Planes, method: str) -> None:
    """A24: 403 with a JSON-RPC error that belongs to no request, and no CORS header that would let a page read it."""
    since = attacked.since_now()
    headers, body = tool_call()
    for path in PATHS:
        for origin in _origins(attacked.port) if path == "/mcp" else ("https://evil.example", "null"):
            for key in (None, attacked.key):
                line = f"{method} {path} HTTP/1.1".encode()
                sent = {**headers, **bearer(key), "origin": origin}
                answer = await send(attacked.port, request(attacked.port, line=line, headers=sent, body=body))
                assert answer.status == 403, (path, origin)
                assert b"access-control-" not in answer.head.lower()
                if method != "HEAD":
                    assert answer.json.keys() == {"jsonrpc", "error"}
                    assert answer.error == (403, -32600)
    assert since.nothing_happened()
    await attacked.assert_alive()


async def test_our_own_origin_and_hosts_are_served(attacked: Planes) -> None:
    """A23, A24: what the guards above let through."""
    headers, body = tool_call()
    own = attacked.port
    for host in (b"127.0.0.1:%d" % own, b"localhost:%d" % own, b"LOCALHOST:%d" % own, b"[::1]:%d" % own):
        for origin in (f"http://127.0.0.1:{own}", f"http://localhost:{own}"):
            sent = {**headers, **bearer(attacked.key), "origin": origin}
            answer = await send(own, request(own, headers=sent, body=body, host=host))
            assert answer.status == 200


async def test_health_says_nothing_but_its_status_to_whomever(attacked: Planes) -> None:
    """A23: probes come by address, so these two are not guarded, and there is nothing in them to guard."""
    for path in HEALTH:
        sent = request(attacked.port, line=f"GET {path} HTTP/1.1".encode(), host=b"10.0.0.7:80")
        answer = await send(attacked.port, sent)
        assert answer.status == 200
        assert answer.json == {"status": "ok"}


async def test_no_spelling_of_path_or_headers_goes_round_authentication(attacked: Planes) -> None:
    """A25: whatever looks like an open route to somebody else, here it is unknown or asks for a key."""
    headers, body = tool_call()
    since = attacked.since_now()
    guarded = ("/mcp", "/%6dcp", "/mcp?", "/mcp?/livez", "/mcp#/livez", "/servers/one/mcp", "/servers/none/mcp", "/sse")
    unknown = ("/livez/../mcp", "/livez/%2e%2e/mcp", "/livez%2f..%2fmcp", "//mcp", "/mcp/", "/MCP", "/mcp%00", "/mcp;x")
    forged = {
        **dict.fromkeys(("x-original-url", "x-rewrite-url", "x-forwarded-path", "x-forwarded-prefix"), "/livez"),
        **dict.fromkeys(("x-forwarded-for", "x-real-ip", "x-forwarded-user", "forwarded"), "127.0.0.1"),
        "x-forwarded-host": "evil.example",
        "x-http-method-override": "GET",
    }
    for path in (*guarded, *unknown):
        sent = request(attacked.port, line=f"POST {path} HTTP/1.1".encode(), headers={**headers, **forged}, body=body)
        answer = await send(attacked.port, sent)
        assert answer.error == ((401, -32600) if path in guarded else (404, -32600)), path
        assert (b"www-authenticate: bearer" in answer.head.lower()) is (path in guarded)
    assert since.nothing_happened()
    await attacked.assert_alive()


async def test_a_credential_that_is_not_valid_is_refused_also_where_none_is_needed(
    database_url: str, tmp_path: Path
) -> None:
    """A25: there is no third outcome to fall through to; and an URL holds no credential (A03)."""
    key = await issue_key(database_url)
    bad = ["", "Bearer", "Bearer ", f"Bearer {key}x", f"Bearer {key[:-1]}", f"Basic {key}", key, f"Bearer {key} {key}"]
    bad += [f"Bearer {key}, Bearer {key}", "Bearer mgw_" + "0" * 63, "Bearer null", "Bearer \xfc"]
    headers, body = tool_call()
    async with planes(database_url, tmp_path, one=ScriptedUpstream()) as open_to_all:
        since = open_to_all.since_now()
        for value in bad:
            sent = request(open_to_all.port, headers=headers, more=f"authorization: {value}\r\n".encode(), body=body)
            assert (await send(open_to_all.port, sent)).error == (401, -32600), value
        assert since.nothing_happened()
        await open_to_all.assert_alive()


async def test_a_key_in_the_url_is_no_key(attacked: Planes, capfd: pytest.CaptureFixture[str]) -> None:
    """A03: refused, and found in no log."""
    headers, body = tool_call()
    since = attacked.since_now()
    for name in ("access_token", "token", "api_key", "key"):
        line = f"POST /mcp?{name}={attacked.key} HTTP/1.1".encode()
        answer = await send(attacked.port, request(attacked.port, line=line, headers=headers, body=body))
        assert answer.error == (401, -32600)
    assert since.nothing_happened()
    assert attacked.key is not None
    assert attacked.key not in "".join(capfd.readouterr())
