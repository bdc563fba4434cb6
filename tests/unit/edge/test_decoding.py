"""From an HTTP body to one message, or to the reply that says why not."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from mcp_types import methods
from pydantic import ValidationError

from gateway import jsonrpc
from gateway.edge.decoding import LARGE, Refused, decode, first_fault, read
from tests.support.asgi import FakeHttp

BOTH = "application/json, text/event-stream"
PING = b'{"jsonrpc":"2.0","id":1,"method":"ping"}'
HEADERS = {"content-type": "application/json", "accept": BOTH}


async def refusal(headers: dict[str, str], body: bytes = PING, limit: int = 10_000) -> tuple[int, int]:
    with pytest.raises(Refused) as refused:
        await read(FakeHttp(headers=headers, body=[body]).request, limit)
    return refused.value.reply.status, refused.value.reply.code


async def test_a_message_is_decoded() -> None:
    assert await read(FakeHttp(headers=HEADERS, body=[PING[:10], PING[10:]]).request, 10_000) == {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "ping",
    }


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", "APPLICATION/JSON", " application/json "])
async def test_parameters_and_case_of_the_media_type_do_not_matter(kind: str) -> None:
    assert await read(FakeHttp(headers={**HEADERS, "content-type": kind}, body=[PING]).request, 10_000)


@pytest.mark.parametrize("kind", ["", "text/plain", "application/jsonx", "application/x-www-form-urlencoded"])
async def test_another_media_type_is_refused(kind: str) -> None:
    assert await refusal({**HEADERS, "content-type": kind}) == (415, -32600)


@pytest.mark.parametrize("accept", ["application/json", "text/event-stream", "text/html", ""])
async def test_a_client_that_does_not_take_both_forms_of_an_answer_is_refused(accept: str) -> None:
    assert await refusal({**HEADERS, "accept": accept}) == (406, -32600)


@pytest.mark.parametrize(
    "accept", ["*/*", "application/*, text/event-stream;q=0.5", "TEXT/event-stream,application/json"]
)
async def test_ranges_and_weights_are_understood(accept: str) -> None:
    assert await read(FakeHttp(headers={**HEADERS, "accept": accept}, body=[PING]).request, 10_000)


async def test_a_body_that_is_too_large_is_refused() -> None:
    assert await refusal(HEADERS, PING, limit=len(PING) - 1) == (413, -32600)
    assert await refusal({**HEADERS, "content-length": "99999"}) == (413, -32600)


@pytest.mark.parametrize(
    ("body", "code"), [(b"", -32700), (b"{", -32700), (b"[]", -32600), (b"5", -32600), (b"\xff", -32700)]
)
async def test_what_is_no_message_is_refused_with_the_code_of_the_fault(body: bytes, code: int) -> None:
    assert await refusal(HEADERS, body) == (400, code)


async def test_a_batch_is_decoded_only_where_one_is_allowed() -> None:
    body = b"[" + PING + b"," + PING + b"]"
    assert len(await decode(body, batch=True)) == 2
    with pytest.raises(Refused):
        await decode(body)


async def test_only_large_bodies_are_decoded_in_another_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[threading.Thread] = []
    original = jsonrpc.decode_request

    def noting(body: bytes, *, batch: bool = False) -> Any:
        threads.append(threading.current_thread())
        return original(body, batch=batch)

    monkeypatch.setattr(jsonrpc, "decode_request", noting)
    large = b'{"jsonrpc":"2.0","method":"x","params":{"pad":"' + b"a" * LARGE + b'"}}'
    await decode(PING)
    assert (await decode(large))["params"]["pad"][:1] == "a"
    assert threads[0] is threading.main_thread()
    assert threads[1] is not threading.main_thread()


async def test_the_words_of_a_refusal_never_hold_the_clients_text() -> None:
    with pytest.raises(Refused) as refused:
        await decode(b'{"jsonrpc":"2.0","method":"x","METHOD":"hunter2"}')
    assert "hunter2" not in refused.value.reply.message


def test_the_first_fault_names_the_parameter_and_not_its_value() -> None:
    with pytest.raises(ValidationError) as invalid:
        methods.validate_client_request("prompts/get", "2025-11-25", {"name": ["hunter2"]})
    text = first_fault(invalid.value)
    assert text.startswith("name: ")
    assert "hunter2" not in text
