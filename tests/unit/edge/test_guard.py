"""Host and Origin: exact lists, so that a page in a browser cannot talk to a gateway on its user's machine."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.edge.guard import Guard


def guard(host: str = "127.0.0.1", **more: Any) -> Guard:
    fields: dict[str, Any] = {"port": 8642, "public_url": None, "hosts": (), "origins": (), **more}
    return Guard(host=host, **fields)


LOOPBACK = ["127.0.0.1", "127.0.0.1:8642", "localhost:8642", "LOCALHOST:8642", "localhost", "[::1]:8642", "[::1]"]


@pytest.mark.parametrize("host", LOOPBACK)
@pytest.mark.parametrize("bind", ["127.0.0.1", "localhost", "::1", "0.0.0.0", "::"])
def test_a_loopback_bind_and_a_bind_of_everything_answer_to_the_names_of_this_machine(bind: str, host: str) -> None:
    assert guard(bind).host_allowed(host)


@pytest.mark.parametrize(
    "host",
    [
        None,
        "",
        "evil.example",
        "evil.example:8642",
        "127.0.0.1:80",
        "127.0.0.1.evil.example",
        "127.0.0.1:8642.evil.example",
        "localhost:8642@evil.example",
        "localhost.",
        " localhost",
        "127.0.0.2:8642",
    ],
)
def test_every_other_host_is_refused(host: str | None) -> None:
    assert not guard().host_allowed(host)


@given(st.text(max_size=20))
def test_no_text_is_a_host_unless_it_is_listed(text: str) -> None:
    assert guard().host_allowed(text) == (text.lower() in {name.lower() for name in LOOPBACK})


def test_an_address_that_is_not_loopback_answers_to_itself_alone() -> None:
    made = guard("192.0.2.7")
    assert made.host_allowed("192.0.2.7")
    assert made.host_allowed("192.0.2.7:8642")
    assert not made.host_allowed("localhost:8642")


@pytest.mark.parametrize("bind", ["2001:db8::7", "[2001:db8::7]"])
def test_an_ipv6_address_is_written_in_brackets_in_a_host_header(bind: str) -> None:
    made = guard(bind)
    assert made.host_allowed("[2001:db8::7]:8642")
    assert made.host_allowed("[2001:DB8::7]")
    assert made.origin_allowed("http://[2001:db8::7]:8642")
    assert not made.host_allowed("[2001:db8::7]:80")


def test_listed_hosts_are_taken_with_our_port_or_with_the_one_they_name() -> None:
    made = guard(hosts=("gw.example.com", "other.example.com:443", "[2001:db8::1]"))
    assert made.host_allowed("gw.example.com")
    assert made.host_allowed("GW.example.com:8642")
    assert not made.host_allowed("gw.example.com:443")
    assert made.host_allowed("other.example.com:443")
    assert not made.host_allowed("other.example.com")
    assert made.host_allowed("[2001:db8::1]:8642")


def test_the_public_url_is_a_host_and_an_origin() -> None:
    made = guard("0.0.0.0", public_url="https://MCP.example.com/prefix")
    assert made.host_allowed("mcp.example.com")
    assert not made.host_allowed("mcp.example.com:8642")
    assert made.origin_allowed("https://mcp.example.com")
    assert not made.origin_allowed("http://mcp.example.com")


def test_programs_send_no_origin_and_are_let_in() -> None:
    assert guard().origin_allowed(None)


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("http://127.0.0.1:8642", True),
        ("https://localhost:8642", True),
        ("HTTP://LOCALHOST:8642", True),
        ("https://inspector.example", True),
        ("null", False),
        ("", False),
        ("http://localhost", False),
        ("http://localhost:3000", False),
        ("http://evil.example", False),
        ("http://localhost:8642.evil.example", False),
        ("https://inspector.example.evil", False),
        ("http://inspector.example", False),
        ("file://", False),
    ],
)
def test_a_browser_must_come_from_ourselves_or_from_a_listed_origin(origin: str, allowed: bool) -> None:
    assert guard(origins=("https://inspector.example",)).origin_allowed(origin) == allowed
