"""Clients that other people wrote, each in its own environment, see through `/mcp` what they see without the gateway.

Every client runs as a process of its own and prints what it saw; what is expected is written here once. The direct runs
ask the same of the upstream itself: when one of those fails, the client or the upstream has changed, not the gateway.
"""

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.servers.fixture_upstream import PICTURE
from tests.support.foreign import Endpoint, fixture_upstream, gateway, what_a_client_sees

pytestmark = pytest.mark.clients

SLUG = "fixture"
HANDSHAKE, MODERN = "2025-11-25", "2026-07-28"

TERMINAL = ("protocol", "countdown", "progress", "resource")


@dataclass(frozen=True)
class Client:
    """A folder of `tests/clients`, the era it is run in, and the revision it must settle on there."""

    name: str
    era: str
    protocol: str
    lacks: tuple[str, ...] = ()
    """What this client cannot show: its script does not print these."""

    def __str__(self) -> str:
        return f"{self.name}, {self.era}"


CLIENTS = [
    Client("python-sdk-1", "legacy", HANDSHAKE),
    Client("python-sdk-2", "auto", MODERN),
    Client("python-sdk-2", "legacy", HANDSHAKE),
    Client("typescript-sdk-1", "legacy", HANDSHAKE),
    Client("typescript-sdk-2", "auto", MODERN),
    Client("typescript-sdk-2", "legacy", HANDSHAKE),
    Client("fastmcp", "auto", MODERN),
    Client("fastmcp", "legacy", HANDSHAKE),
    Client("langchain", "legacy", HANDSHAKE),
    Client("openai-agents", "auto", MODERN, lacks=("progress",)),
    Client("pydantic-ai", "auto", MODERN),
    Client("inspector", "modern", MODERN, lacks=TERMINAL),
    Client("inspector", "legacy", HANDSHAKE, lacks=TERMINAL),
]

every_client = pytest.mark.parametrize("client", CLIENTS, ids=str)


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with fixture_upstream(tmp_path_factory.mktemp("upstream")) as url:
        yield url


@pytest.fixture(scope="module")
def front(upstream: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    with gateway({SLUG: upstream}, tmp_path_factory.mktemp("gateway")) as endpoint:
        yield Endpoint(endpoint.url, endpoint.key, tool_prefix=f"{SLUG}__", uri_prefix=f"{SLUG}+")


def expected_of(client: Client, endpoint: Endpoint) -> dict[str, Any]:
    """All that a client must have seen, less what it cannot show."""
    seen = {
        "protocol": client.protocol,
        "tools": [endpoint.tool_prefix + name for name in ("add", "countdown", "picture", "fail")],
        "prompts": [f"{endpoint.tool_prefix}greet"],
        "resources": [f"{endpoint.uri_prefix}fixture://motd"],
        "templates": [f"{endpoint.uri_prefix}fixture://items/{{number}}"],
        "add": {"total": 42},
        "countdown": "counted down from 3",
        "progress": [[0, 3, "3 to go"], [1, 3, "2 to go"], [2, 3, "1 to go"], [3, 3, "0 to go"]],
        "picture": ["image/png", base64.b64encode(PICTURE).decode()],
        "fail": [True, "Error executing tool fail: failed because the kettle is empty"],
        "prompt": "Please greet Ada warmly.",
        "resource": "kettle on",
        "item": "two cups",
    }
    if client.name == "pydantic-ai":
        # What its agent answered by itself, with arguments its test model made up from the tool's schema.
        seen["agent"] = f'{{"{endpoint.tool_prefix}add":{{"total":0}}}}'
    return {name: value for name, value in seen.items() if name not in client.lacks}


def seen_by(client: Client, endpoint: Endpoint, home: Path) -> dict[str, Any]:
    seen = what_a_client_sees(client.name, endpoint, client.era, home)
    assert seen.pop("version")
    # The order of a list carries no meaning, and a gateway of many servers may choose its own.
    for kind in ("tools", "prompts", "resources", "templates"):
        assert len(seen[kind]) == len(set(seen[kind])), f"{kind} are listed twice: {seen[kind]}"
    return seen


@every_client
def test_a_client_sees_through_the_gateway_what_the_upstream_offers(
    client: Client, front: Endpoint, tmp_path: Path
) -> None:
    seen, expected = seen_by(client, front, tmp_path), expected_of(client, front)
    seen["tools"], expected["tools"] = sorted(seen["tools"]), sorted(expected["tools"])
    assert seen == expected


@pytest.mark.slow
@every_client
def test_a_client_sees_the_same_without_the_gateway(client: Client, upstream: str, tmp_path: Path) -> None:
    endpoint = Endpoint(upstream)
    assert seen_by(client, endpoint, tmp_path) == expected_of(client, endpoint)
