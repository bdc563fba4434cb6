"""Servers of the operator's own file become servers of the catalogue, every stated fact with them."""

from __future__ import annotations

from catalogue import declared
from catalogue.model import Facts
from gateway.settings import parse

DOCUMENT = {
    "servers": [
        {
            "slug": "one",
            "versions": [
                {"version": "2", "url": "https://one.test/mcp", "transport": "sse", "protocol": "2025-06-18"},
                {"version": "1", "url": "https://old.one.test/mcp"},
                {"version": "0", "command": ["npx", "thing"]},
            ],
            "allow": {"sampling": True},
            "deadline": 5,
            "concurrency": 7,
            "max_event_bytes": 2048,
            "tools": {
                "write": {
                    "idempotent": True,
                    "scopes": ["issues.write"],
                    "price": 0.02,
                    "labels": ["external_write"],
                    "approval": True,
                }
            },
        },
        {"slug": "two", "versions": [{"url": "http://two.test/mcp"}]},
    ]
}


def test_every_version_is_a_server_in_the_files_order_and_commands_are_left_out() -> None:
    servers = declared.servers(parse(DOCUMENT).servers)
    assert [(server.slug, server.version, server.url) for server in servers] == [
        ("one", "2", "https://one.test/mcp"),
        ("one", "1", "https://old.one.test/mcp"),
        ("two", "1", "http://two.test/mcp"),
    ]


def test_every_setting_of_a_server_arrives() -> None:
    newest, older, two = declared.servers(parse(DOCUMENT).servers)
    assert (newest.transport, newest.protocol) == ("sse", "2025-06-18")
    assert (older.transport, older.protocol) == ("auto", "auto")
    for server in (newest, older):
        assert (server.allow_sampling, server.allow_roots) == (True, False)
        assert (server.deadline, server.concurrency, server.max_event_bytes) == (5.0, 7, 2048)
    assert (two.allow_sampling, two.allow_roots, two.trust) == (False, False, "config")


def test_every_stated_fact_of_a_tool_arrives() -> None:
    newest, older, two = declared.servers(parse(DOCUMENT).servers)
    facts = Facts(True, frozenset({"issues.write"}), 0.02, frozenset({"external_write"}), True)
    assert newest.facts == older.facts == {"write": facts}
    assert two.facts == {}
